//! Small writes into places that the file has: no lane is claimed and no lock taken.
//!
//! What makes such a write safe is what makes every write safe: it is announced while bytes are touched, its checksum word is
//! claimed or stale before, and the size word tells afterwards whether the file was cut meanwhile. Only the announcement
//! is cheaper ([`lifeboat_region::kept_lane`]). Whatever does not go smoothly is left to the general way, which does all of the
//! write again: a write that was not published may be written twice.

use crate::file_map::{self, BLOCKS_PER_EXTENT, Slot};
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, SIZE_LARGEST, size_of};
use crate::map_word::Target;
use crate::pieces::Source;
use crate::{Errno, Result};
use core::sync::atomic::Ordering;
use lifeboat_region::kept_lane::InPlace;
use lifeboat_region::layout::{BLOCK, EXTENT};
use lifeboat_region::place_cache::What;
use lifeboat_region::witness::{Witness, Words};

/// Longer writes cost so much themselves that nothing is gained.
pub(crate) const LONGEST: u64 = 8192;

/// Where the bytes of a write lie.
enum Place {
    /// One after the other from this offset in the region on; and where their extent's checksum word is.
    Run { at: u64, checksum_at: u64 },
    /// In blocks that lie anywhere.
    Runs(Slot, Target),
}

/// What a look-up is remembered as that found all of an extent.
fn whole_extent(inode: InodeId, offset: u64) -> What {
    [inode.to_word(), (offset / EXTENT) << 1]
}

/// What a look-up is remembered as that found the file's block of this number.
fn one_block(inode: InodeId, block: u64) -> What {
    [inode.to_word(), (block << 1) | 1]
}

impl FileSystem {
    /// Writes `length` bytes at `offset` if that needs no room, and no waiting. False when it has to be done the general way;
    /// then nothing of it lies beyond the size.
    #[inline(always)]
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

    #[inline(always)]
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
    #[inline(always)]
    fn try_in_place(
        &self,
        announced: &InPlace<'_>,
        inode: InodeId,
        source: &Source<'_, '_>,
        offset: u64,
        length: u64,
    ) -> Result<bool> {
        let (from, end) = (offset % EXTENT, offset + length);
        let smoothly = || -> Result<Option<_>> {
            let before = self.field(inode, inode::SIZE)?;
            if size_of(before) < end {
                // Who zeroes beyond the size must see the range, or this the word that he makes odd.
                announced.fence();
            }
            if self.region().word(inode.at() + inode::SEQUENCE)?.load(Ordering::SeqCst) & 1 != 0 {
                return Ok(None);
            }
            Ok(self.place_of(announced, inode, offset, length)?.map(|place| (before, place)))
        };
        let Ok(Some((before, place))) = smoothly() else { return Ok(false) };
        match place {
            Place::Run { at, checksum_at } => {
                self.copy_to(announced.index(), checksum_at, (at, from), length, source)?;
            }
            Place::Runs(slot, target) => {
                self.copy_into(announced.index(), inode, slot, target, from, length, &mut source.clone())?;
            }
        }
        if self.wrote(inode, before, end)? { Ok(true) } else { Err(Errno::AGAIN) }
    }

    /// Where the inode, if it exists, has these bytes, all in one extent; `None` when it does not have a place for each.
    #[inline(always)]
    fn place_of(&self, announced: &InPlace<'_>, inode: InodeId, offset: u64, length: u64) -> Result<Option<Place>> {
        let (block, in_block) = (offset / BLOCK, offset % BLOCK);
        let within_block = in_block + length <= BLOCK;
        if let Some([at, checksum_at]) = announced.known_place(whole_extent(inode, offset))? {
            return Ok(Some(Place::Run { at: at + offset % EXTENT, checksum_at }));
        }
        if within_block && let Some([at, checksum_at]) = announced.known_place(one_block(inode, block))? {
            return Ok(Some(Place::Run { at: at + in_block, checksum_at }));
        }
        self.look_up_place(announced, inode, offset, length)
    }

    #[cold]
    #[inline(never)]
    fn look_up_place(
        &self,
        announced: &InPlace<'_>,
        inode: InodeId,
        offset: u64,
        length: u64,
    ) -> Result<Option<Place>> {
        let words = Witness::new(self.region());
        inode::validate(&words, inode)?;
        let Some(slot) = file_map::find_slot(&words, inode, offset / EXTENT)? else { return Ok(None) };
        let target = Target::decode(words.load(slot.map_at)?)?;
        let (block, in_block) = (offset / BLOCK, offset % BLOCK);
        let (what, start, block) = match target {
            Target::Extent(_) => (whole_extent(inode, offset), offset % EXTENT, 0),
            _ if in_block + length <= BLOCK => (one_block(inode, block), in_block, block % BLOCKS_PER_EXTENT),
            _ => {
                let mapped = self.is_mapped(inode, target, offset % EXTENT, length)?;
                return Ok(mapped.then_some(Place::Runs(slot, target)));
            }
        };
        let Some(at) = file_map::block_at(&words, inode, target, block)? else { return Ok(None) };
        announced.remember_place(what, [at, slot.checksum_at], &words);
        Ok(Some(Place::Run { at: at + start, checksum_at: slot.checksum_at }))
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
