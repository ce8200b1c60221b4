//! Small writes into places that the file has: no lane is claimed and no lock taken.
//!
//! What makes such a write safe is what makes every write safe: it is announced while bytes are touched, its checksum word is
//! claimed or stale before, and the size word tells afterwards whether the file was cut meanwhile. Only the announcement
//! is cheaper ([`lifeboat_region::kept_lane`]). Whatever does not go smoothly is left to the general way, which does all of the
//! write again: a write that was not published may be written twice.

use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, SIZE_LARGEST, size_of};
use crate::map_word::Target;
use crate::pieces::Source;
use crate::{Errno, Result};
use core::sync::atomic::Ordering;
use lifeboat_region::kept_lane::InPlace;
use lifeboat_region::layout::EXTENT;

/// Longer writes cost so much themselves that nothing is gained.
pub(crate) const LONGEST: u64 = 8192;

impl FileSystem {
    /// Writes `length` bytes at `offset` if that needs no room, and no waiting. False when it has to be done the general way;
    /// then nothing of it lies beyond the size.
    #[inline]
    pub(crate) fn write_in_place(&self, inode: InodeId, source: &Source<'_, '_>, offset: u64, length: u64) -> bool {
        let end = offset.saturating_add(length);
        let within = offset % EXTENT + length <= EXTENT;
        if length == 0 || length > LONGEST || !within || end > SIZE_LARGEST {
            return false;
        }
        match self.region().announce_in_place(inode.to_word(), offset, end) {
            Ok(Some(announced)) => self.write_announced(announced, inode, source, offset, length),
            Ok(None) => {
                // The first time; an error of it is one of the general way, too.
                let _ = self.keep_lane();
                false
            }
            Err(_) => false,
        }
    }

    #[cold]
    pub(crate) fn keep_lane(&self) -> Result<()> {
        if self.region().keeps_lane() { Ok(()) } else { self.region().keep(self.lane()?) }
    }

    fn write_announced(
        &self,
        announced: InPlace<'_>,
        inode: InodeId,
        source: &Source<'_, '_>,
        offset: u64,
        length: u64,
    ) -> bool {
        match self.try_in_place(&announced, inode, source, offset, length) {
            Ok(done) => done,
            Err(_) => {
                // Some bytes may lie beyond the size: they stay announced until they are zero.
                let _ = self.scrub_in_place(announced, inode, offset, offset + length);
                false
            }
        }
    }

    /// False before a byte was touched; an error after.
    fn try_in_place(
        &self,
        announced: &InPlace<'_>,
        inode: InodeId,
        source: &Source<'_, '_>,
        offset: u64,
        length: u64,
    ) -> Result<bool> {
        let end = offset + length;
        let smoothly = || -> Result<Option<_>> {
            self.validate(inode)?;
            let before = self.field(inode, inode::SIZE)?;
            if size_of(before) < end {
                // Who zeroes beyond the size must see the range, or this the word that he makes odd.
                announced.fence();
            }
            if self.region().word(inode.at() + inode::SEQUENCE)?.load(Ordering::SeqCst) & 1 != 0 {
                return Ok(None);
            }
            let Some(slot) = self.find_slot(inode, offset / EXTENT)? else { return Ok(None) };
            let target = Target::decode(self.region().load(slot.map_at)?)?;
            let mapped = self.is_mapped(inode, target, offset % EXTENT, length)?;
            Ok(mapped.then_some((before, slot, target)))
        };
        let Ok(Some((before, slot, target))) = smoothly() else { return Ok(false) };
        let mut source = source.clone();
        self.copy_into(announced.index(), inode, slot, target, offset % EXTENT, length, &mut source)?;
        if self.wrote(inode, before, end)? { Ok(true) } else { Err(Errno::AGAIN) }
    }

    #[cold]
    fn scrub_in_place(&self, announced: InPlace<'_>, inode: InodeId, start: u64, end: u64) -> Result<()> {
        let lane = self.lane()?;
        lane.announce(inode.to_word(), start, end)?;
        // Else this would spare the bytes itself, as those of a writer that lives.
        drop(announced);
        self.scrub(&lane, inode, start, end)
    }
}
