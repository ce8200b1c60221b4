//! What a mapping of a file shows: runs of the region, pinned while somebody may look.

use crate::checksum;
use crate::file_map::Slot;
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, size_of};
use crate::map_word::Target;
use crate::open_file::OpenFile;
use crate::pin::{Pin, WRITABLE};
use crate::types::Piece;
use crate::{Errno, Result};
use lifeboat_region::DAMAGED;
use lifeboat_region::MustFence;
use lifeboat_region::layout::{BLOCK, EXTENT};
use lifeboat_region::owner::Owner;
use lifeboat_region::space::{self, Class};

/// Holes that take more than one part in so many of the region are not filled because somebody maps them.
const VAST: u64 = 4;

/// What becomes of holes that are mapped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holes {
    /// They get blocks.
    Fill,
    /// They stay, and are left out.
    Leave,
}

/// Part of a file.
#[derive(Clone, Copy)]
struct Range {
    inode: InodeId,
    offset: u64,
    length: u64,
    holes: Holes,
}

impl FileSystem {
    /// For mapping `[offset, offset + length)` of an open file: makes blocks within the file's size exist, pins them, and
    /// calls `piece` for each run of the region, in order. `offset` is a multiple of 4096. Vast holes, and those for which
    /// there is no room, are left out; [`FileSystem::map_further`] gives them blocks when they are touched.
    pub fn map(
        &self,
        file: OpenFile,
        offset: u64,
        length: u64,
        writable: bool,
        piece: &mut dyn FnMut(Piece),
    ) -> Result<Pin> {
        let inode = self.inode_of(file)?;
        if !offset.is_multiple_of(BLOCK) || length == 0 {
            return Err(Errno::INVAL);
        }
        if self.mode(inode)? & inode::TYPE_MASK != inode::REGULAR {
            return Err(Errno::NODEV);
        }
        let pin = self.take_pin(inode, offset, length, if writable { WRITABLE } else { 0 })?;
        let holes = if self.is_vast(inode, offset, length)? { Holes::Leave } else { Holes::Fill };
        let mut range = Range { inode, offset, length, holes };
        let mut result = self.with_room(|| self.map_pinned(range, writable));
        if result == Err(Errno::NOSPC) {
            range.holes = Holes::Leave;
            result = self.map_pinned(range, writable);
        }
        let result = result.and_then(|end| self.each_piece(range, end, piece));
        if let Err(error) = result {
            self.unmap(pin)?;
            return Err(error);
        }
        Ok(pin)
    }

    /// More of a file that is mapped: what was left out, or what it has grown by. Calls `piece` for the runs of
    /// `[offset, offset + length)`, both multiples of 4096, as far as the file goes now. Tells how many there were.
    ///
    /// # Errors
    /// `NOENT` when the pin is not held, `INVAL` when it does not cover the range, `NOSPC` when there is no room for holes.
    pub fn map_further(&self, pin: Pin, offset: u64, length: u64, piece: &mut dyn FnMut(Piece)) -> Result<usize> {
        let (inode, start, whole, writable) = self.pinned(pin)?;
        let end = offset.checked_add(length).ok_or(Errno::INVAL)?;
        let pinned_end = start.saturating_add(whole).next_multiple_of(BLOCK);
        if offset < start || end > pinned_end || !offset.is_multiple_of(BLOCK) {
            return Err(Errno::INVAL);
        }
        let range = Range { inode, offset, length, holes: Holes::Fill };
        let end = self.with_room(|| self.map_pinned(range, writable))?;
        let mut count = 0;
        self.each_piece(range, end, &mut |run| {
            count += 1;
            piece(run);
        })?;
        Ok(count)
    }

    /// Bytes of the file that is pinned.
    ///
    /// # Errors
    /// `NOENT` when the pin is not held.
    pub fn size_of_pinned(&self, pin: Pin) -> Result<u64> {
        Ok(size_of(self.field(self.pinned(pin)?.0, inode::SIZE)?))
    }

    /// Whether the range has holes that nobody wants filled. (The inode counts all its blocks, not only those here: there
    /// may be fewer holes than this says, never more.)
    fn is_vast(&self, inode: InodeId, offset: u64, length: u64) -> Result<bool> {
        let size = size_of(self.field(inode, inode::SIZE)?);
        let mapped = size.min(offset.saturating_add(length)).saturating_sub(offset);
        let filled = self.field(inode, inode::BLOCKS)?.saturating_mul(512);
        Ok(mapped.saturating_sub(filled) > self.region().geometry().length / VAST)
    }

    /// Fills holes if they are to be filled, and notes what is mapped. The end of what the file has of the range.
    fn map_pinned(&self, range: Range, writable: bool) -> Result<u64> {
        let Range { inode, offset, length, holes } = range;
        let lane = self.lane()?;
        self.lock_inode(&lane, inode)?;
        let size = size_of(self.field(inode, inode::SIZE)?);
        let end = size.next_multiple_of(BLOCK).min(offset.saturating_add(length).next_multiple_of(BLOCK));
        if offset >= end {
            return Ok(offset);
        }
        if holes == Holes::Fill {
            self.provide_locked(&lane, inode, offset, end)?;
        }
        self.each_mapped_extent(range, end, |at, here, slot| {
            if writable {
                checksum::make_stale(self.region(), slot.checksum_at)?;
            }
            let target = Target::decode(self.region().load(slot.map_at)?)?;
            self.each_run(inode, target, at % EXTENT, here, |from, _, place| match (place, target) {
                (None, _) if holes == Holes::Leave => Ok(()),
                (None, _) => Err(DAMAGED),
                (Some(_), Target::Extent(at)) if from >= at % EXTENT => self.mark_mapped(Class::Extent, at),
                (Some(unit), _) => self.mark_mapped(Class::Block, unit - unit % BLOCK),
            })
        })?;
        Ok(end)
    }

    /// Calls `use_it(offset in the file, length, its words)` for the extents of the range up to `end`, skipping holes that
    /// stay.
    fn each_mapped_extent(
        &self,
        range: Range,
        end: u64,
        mut use_it: impl FnMut(u64, u64, Slot) -> Result<()>,
    ) -> Result<()> {
        let mut at = range.offset;
        while at < end {
            if range.holes == Holes::Leave {
                // Holes may be vast: straight to the next extent with anything in it.
                match self.next_mapped(range.inode, at / EXTENT)? {
                    Some(next) if next.saturating_mul(EXTENT) < end => at = at.max(next * EXTENT),
                    _ => return Ok(()),
                }
            }
            let here = (end - at).min(EXTENT - at % EXTENT);
            let slot = self.find_slot(range.inode, at / EXTENT)?.ok_or(DAMAGED)?;
            use_it(at, here, slot)?;
            at += here;
        }
        Ok(())
    }

    fn mark_mapped(&self, class: Class, at: u64) -> Result<()> {
        let owner_at = space::find_owner(self.region(), class, at)?;
        let owner = Owner::decode(self.region().load(owner_at)?).ok_or(DAMAGED)?;
        self.region().commit(owner_at, Owner { mapped: true, ..owner }.encode(), MustFence::nothing())
    }

    fn each_piece(&self, range: Range, end: u64, piece: &mut dyn FnMut(Piece)) -> Result<()> {
        let mut open: Option<Piece> = None;
        self.each_mapped_extent(range, end, |at, here, slot| {
            let target = Target::decode(self.region().load(slot.map_at)?)?;
            let base = at - at % EXTENT;
            self.each_run(range.inode, target, at % EXTENT, here, |from, length, place| {
                let Some(region_offset) = place else {
                    return if range.holes == Holes::Leave { Ok(()) } else { Err(DAMAGED) };
                };
                let next = Piece { file_offset: base + from, region_offset, length };
                match &mut open {
                    Some(run) if run.is_followed_by(&next) => run.length += length,
                    _ => {
                        if let Some(run) = open.replace(next) {
                            piece(run);
                        }
                    }
                }
                Ok(())
            })
        })?;
        if let Some(run) = open {
            piece(run);
        }
        Ok(())
    }
}
