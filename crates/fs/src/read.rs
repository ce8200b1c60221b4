//! Reading, without a lock: what was copied counts only if no cut of the file came in between.

use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, size_of};
use crate::map_word::Target;
use crate::pieces::Pieces;
use crate::{Errno, Result, UserTarget};
use core::sync::atomic::{Ordering, fence};
use lifeboat_region::layout::{BLOCK, EXTENT};

/// How often a read starts again because the file was cut meanwhile.
const TRIES: u32 = 1000;
/// How often it does because a place was not this file's (any more): a hole punched meanwhile, or damage.
const TRIES_AT_A_PLACE: u32 = 8;

/// No range ends behind the largest offset that a program can name.
#[inline]
pub(crate) fn check_range(offset: u64, length: u64) -> Result<()> {
    if offset.saturating_add(length) > i64::MAX as u64 { Err(Errno::INVAL) } else { Ok(()) }
}

impl FileSystem {
    /// Reads up to `length` bytes at `offset`; fewer at the end of the file.
    pub(crate) fn read_range(&self, inode: InodeId, into: &[UserTarget<'_>], offset: u64, length: u64) -> Result<u64> {
        check_range(offset, length)?;
        let past_caches = into.first().is_some_and(|first| self.read_targets.go_past_caches(first.address(), length));
        let mut strange = 0;
        for _ in 0..TRIES {
            let before = self.field(inode, inode::SIZE)?;
            let size = size_of(before);
            if offset >= size || length == 0 {
                return Ok(0);
            }
            let count = length.min(size - offset);
            let copied = self.copy_range(inode, into, offset, count, past_caches);
            fence(Ordering::Acquire);
            let after = self.field(inode, inode::SIZE)?;
            if after >> 48 == before >> 48 {
                self.validate(inode)?;
                if copied == Err(Errno::UCLEAN) && strange < TRIES_AT_A_PLACE {
                    strange += 1;
                    continue;
                }
                return copied.map(|()| count);
            }
        }
        Err(Errno::AGAIN)
    }

    fn copy_range(
        &self,
        inode: InodeId,
        into: &[UserTarget<'_>],
        offset: u64,
        count: u64,
        past_caches: bool,
    ) -> Result<()> {
        let region = self.region();
        let mut targets = Pieces::new(into);
        let (mut at, end) = (offset, offset + count);
        while at < end {
            let here = (end - at).min(EXTENT - at % EXTENT);
            let target = match self.find_slot(inode, at / EXTENT)? {
                Some(slot) => Target::decode(region.load(slot.map_at)?)?,
                None => Target::Hole,
            };
            self.each_run(inode, target, at % EXTENT, here, |from, length, place| {
                targets.take(length as usize, |piece, skip, part, done| match place {
                    Some(place) if past_caches => region.copy_out_streamed(place + done, piece, skip, part),
                    Some(place) => region.copy_out(place + done, piece, skip, part),
                    None => region.zero_out(piece, skip, part),
                })?;
                // A hole may have been punched meanwhile, and the place be another file's by now: then `block_at` says so.
                fence(Ordering::Acquire);
                self.block_at(inode, target, from / BLOCK).map(|_| ())
            })?;
            at += here;
        }
        Ok(())
    }

    /// First data (`hole` false) or hole (`hole` true) at or after `offset`, for `SEEK_DATA` and `SEEK_HOLE`.
    pub(crate) fn seek_data(&self, inode: InodeId, offset: u64, hole: bool) -> Result<u64> {
        let size = size_of(self.field(inode, inode::SIZE)?);
        if offset >= size {
            return Err(Errno::NXIO);
        }
        let mut at = offset;
        while at < size {
            if !hole {
                // Holes may be vast: straight to the next extent with anything in it.
                match self.next_mapped(inode, at / EXTENT)? {
                    Some(next) if next * EXTENT < size => at = at.max(next * EXTENT),
                    _ => return Err(Errno::NXIO),
                }
            }
            let here = (size - at).min(EXTENT - at % EXTENT);
            let target = match self.find_slot(inode, at / EXTENT)? {
                Some(slot) => Target::decode(self.region().load(slot.map_at)?)?,
                None => Target::Hole,
            };
            let mut found = None;
            let base = at - at % EXTENT;
            self.each_run(inode, target, at % EXTENT, here, |from, _, place| {
                if found.is_none() && place.is_none() == hole {
                    found = Some(base + from);
                }
                Ok(())
            })?;
            if let Some(found) = found {
                return Ok(found);
            }
            at += here;
        }
        if hole { Ok(size) } else { Err(Errno::NXIO) }
    }
}
