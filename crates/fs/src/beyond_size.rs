//! What lies beyond a file's size: bytes of writes in flight, and of writes that did not come to their end.
//!
//! Invariant: bytes of a linked unit at or beyond the size are zero, but for the ranges that writers in flight have
//! announced. Who zeroes or unlinks there makes the inode's sequence word odd first; writers that begin meanwhile wait.

use crate::checksum::{self, Checksum, State};
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, size_of};
use crate::map_word::Target;
use crate::{Errno, Result, TRIES};
use core::sync::atomic::Ordering;
use lifeboat_region::MustFence;
use lifeboat_region::announcements::each_announced_range;
use lifeboat_region::lane::Lane;
use lifeboat_region::layout::EXTENT;

/// So many writers that live can be spared at once when bytes beyond the size are zeroed.
const WRITERS: usize = 32;

impl FileSystem {
    /// Locks an inode that this lane has announced.
    pub(crate) fn lock_announced(&self, lane: &Lane<'_>, inode: InodeId) -> Result<()> {
        lane.lock(inode.at() + inode::LOCK, self)?;
        self.validate(inode).inspect_err(|_| {
            let _ = self.unlock_inode(lane, inode);
        })
    }

    /// The size word before a write that this lane has announced; while somebody zeroes or unlinks what lies beyond the
    /// size, waits until he is done: he looks only for those who announced themselves before he began.
    pub(crate) fn begin_write(&self, lane: &Lane<'_>, inode: InodeId) -> Result<u64> {
        for _ in 0..TRIES {
            let before = self.field(inode, inode::SIZE)?;
            // After the size: who begins a cut behind this look changes the size behind the look above.
            let sequence = self.region().word(inode.at() + inode::SEQUENCE)?.load(Ordering::SeqCst);
            if sequence & 1 == 0 {
                return Ok(before);
            }
            self.lock_announced(lane, inode)?;
            // Whoever had the lock has finished, or died and left this.
            self.let_writers_go(inode)?;
            self.unlock_inode(lane, inode)?;
        }
        Err(Errno::UCLEAN)
    }

    /// From here on writes of the inode, which is locked, wait before their first byte.
    pub(crate) fn hold_writers(&self, inode: InodeId) -> Result<()> {
        let sequence = self.field(inode, inode::SEQUENCE)?;
        self.set(inode, inode::SEQUENCE, sequence | 1)
    }

    /// Ends what [`FileSystem::hold_writers`] began, perhaps in another process. The inode is locked.
    pub(crate) fn let_writers_go(&self, inode: InodeId) -> Result<()> {
        let sequence = self.field(inode, inode::SEQUENCE)?;
        self.set(inode, inode::SEQUENCE, sequence.wrapping_add(sequence & 1))
    }

    /// Zeroes what lies beyond the size in `[start, end)`: bytes of a write that did not come to its end.
    pub(crate) fn scrub(&self, lane: &Lane<'_>, inode: InodeId, start: u64, end: u64) -> Result<()> {
        self.lock_announced(lane, inode)?;
        let result = self.zero_beyond_size(lane, inode, start, end);
        self.unlock_inode(lane, inode)?;
        result.map(|_| ())
    }

    /// Zeroes what lies beyond the size in `[start, end)` of an inode that is locked, but not what living writers have
    /// announced: their bytes must stay, and they publish them themselves. False when there are too many of them.
    pub(crate) fn zero_beyond_size(&self, lane: &Lane<'_>, inode: InodeId, start: u64, end: u64) -> Result<bool> {
        if end <= size_of(self.field(inode, inode::SIZE)?) {
            return Ok(true);
        }
        self.hold_writers(inode)?;
        let mut ranges = [(0, 0); WRITERS];
        let mut count = 0;
        each_announced_range(self.region(), inode.to_word(), lane.index(), |from, to| {
            if from < to {
                if let Some(range) = ranges.get_mut(count) {
                    *range = (from, to);
                }
                count += 1;
            }
            Ok(())
        })?;
        let whole = count <= WRITERS;
        if whole {
            // Read after the look around: who is not seen any more has published its bytes.
            let size = size_of(self.field(inode, inode::SIZE)?);
            self.zero_between(inode, start.max(size), end, &ranges[..count])?;
        }
        self.let_writers_go(inode)?;
        Ok(whole)
    }

    fn zero_between(&self, inode: InodeId, start: u64, end: u64, spared: &[(u64, u64)]) -> Result<()> {
        let mut at = start;
        while at < end {
            if let Some((_, to)) = spared.iter().find(|(from, to)| (*from..*to).contains(&at)) {
                at = *to;
                continue;
            }
            let next = spared.iter().map(|(from, _)| *from).filter(|from| *from > at).min();
            let until = next.map_or(end, |next| next.min(end));
            self.zero_linked(inode, at, until)?;
            at = until;
        }
        Ok(())
    }

    /// Zeroes the linked bytes of `[start, end)`. Checksums that cover some of them are stale before.
    pub(crate) fn zero_linked(&self, inode: InodeId, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        while at < end {
            // Holes may be vast: straight to the next extent with anything in it.
            match self.next_mapped(inode, at / EXTENT)? {
                Some(next) if next.saturating_mul(EXTENT) < end => at = at.max(next * EXTENT),
                _ => break,
            }
            let here = (end - at).min(EXTENT - at % EXTENT);
            if let Some(slot) = self.find_slot(inode, at / EXTENT)? {
                let sum = Checksum::decode(self.region().load(slot.checksum_at)?)?;
                if sum.valid as u64 > at % EXTENT || sum.state == State::Claimed {
                    checksum::make_stale(self.region(), slot.checksum_at)?;
                }
                let target = Target::decode(self.region().load(slot.map_at)?)?;
                self.each_run(inode, target, at % EXTENT, here, |_, length, place| match place {
                    Some(place) => self.region().zero(place, length as usize).map(MustFence::fence),
                    None => Ok(()),
                })?;
            }
            at += here;
        }
        Ok(())
    }
}
