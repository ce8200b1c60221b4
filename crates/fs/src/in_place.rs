//! Small writes into places that the file has: no lane is claimed and no lock taken.
//!
//! What makes such a write safe is what makes every write safe: it is announced while bytes are touched, its checksum word is
//! claimed or stale before, and the size word tells afterwards whether the file was cut meanwhile. Only the announcement
//! is cheaper ([`lifeboat_region::kept_lane`]). Whatever does not go smoothly is left to the general way, which does all of the
//! write again: a write that was not published may be written twice.

use crate::attributes;
use crate::checksum::{self, ChecksumClaim};
use crate::file_map::{self, BLOCKS_PER_EXTENT, Slot};
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, SIZE_LARGEST, size_of};
use crate::map_word::Target;
use crate::pieces::Source;
use crate::{Result, UserSource};
use core::sync::atomic::Ordering;
use lifeboat_region::kept_lane::InPlace;
use lifeboat_region::layout::{BLOCK, EXTENT};
use lifeboat_region::place_cache::What;
use lifeboat_region::process;
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

/// What became of a write.
enum Attempt {
    Done,
    /// No byte was touched.
    NotBegun,
    /// Some bytes may lie where none of it may stay.
    Torn,
}

/// A write whose places are known.
struct Write<'w, 'r> {
    announced: &'w InPlace<'r>,
    inode: InodeId,
    offset: u64,
    length: u64,
    /// The size word before it.
    before: u64,
    now: i64,
}

impl Write<'_, '_> {
    #[inline(always)]
    fn end(&self) -> u64 {
        self.offset + self.length
    }
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
        // Asked here, where the processor need not wait for it.
        let now = process::now();
        match self.region().announce_in_place(inode.to_word(), offset, end) {
            Ok(Some(announced)) => match self.try_in_place(&announced, inode, source, offset, length, now) {
                Attempt::Done => true,
                Attempt::NotBegun => false,
                Attempt::Torn => {
                    // Some bytes may lie beyond the size: they stay announced until they are zero.
                    let _ = self.scrub_in_place(announced, inode, offset, end);
                    false
                }
            },
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
    fn try_in_place(
        &self,
        announced: &InPlace<'_>,
        inode: InodeId,
        source: &Source<'_, '_>,
        offset: u64,
        length: u64,
        now: i64,
    ) -> Attempt {
        let Ok([before, mode]) = self.fields(inode, [inode::SIZE, inode::MODE]) else { return Attempt::NotBegun };
        if attributes::has_set_ids(mode) {
            return Attempt::NotBegun;
        }
        let place = match self.place_of(announced, inode, offset, length) {
            Ok(Some(place)) => place,
            Ok(None) | Err(_) => return Attempt::NotBegun,
        };
        let write = Write { announced, inode, offset, length, before, now };
        let Place::Run { at, checksum_at } = place else { return self.write_otherwise(&write, &place, source) };
        let Some((piece, skip)) = source.one_piece(length as usize) else {
            return self.write_otherwise(&write, &place, source);
        };
        let Ok(sum) = self.region().load(checksum_at) else { return Attempt::NotBegun };
        if sum == checksum::STALE {
            self.write_unsummed(&write, at, piece, skip)
        } else if self.sums_while_writing && checksum::ends_at(sum, (offset % EXTENT) as u32) {
            self.write_summed(&write, at, (checksum_at, sum), piece, skip)
        } else {
            self.write_otherwise(&write, &place, source)
        }
    }

    /// What is written here and there stays stale until it is sealed.
    #[inline(always)]
    fn write_unsummed(&self, write: &Write<'_, '_>, at: u64, piece: &UserSource<'_>, skip: usize) -> Attempt {
        if !self.may_begin(write) {
            return Attempt::NotBegun;
        }
        match self.region().copy_in(at, piece, skip, write.length as usize) {
            Ok(data) => {
                data.fence();
                self.end_in_place(write)
            }
            Err(_) => Attempt::Torn,
        }
    }

    /// What goes on where the extent's checksum ends.
    #[inline(always)]
    fn write_summed(
        &self,
        write: &Write<'_, '_>,
        at: u64,
        (checksum_at, sum): (u64, u64),
        piece: &UserSource<'_>,
        skip: usize,
    ) -> Attempt {
        let region = self.region();
        let (from, length) = ((write.offset % EXTENT) as u32, write.length as usize);
        let Ok(Some(claim)) = ChecksumClaim::go_on(region, checksum_at, sum, write.announced.index(), from) else {
            return Attempt::NotBegun;
        };
        // From the claim on everybody sees the range, without a fence.
        if self.is_being_cut(write.inode) {
            return claim.take_back(region, sum).map_or(Attempt::Torn, |()| Attempt::NotBegun);
        }
        match region.copy_in_checksum(at, piece, skip, length, claim.crc) {
            Ok((data, crc)) => match claim.publish(region, crc, length as u32, data) {
                Ok(()) => self.end_in_place(write),
                Err(_) => Attempt::Torn,
            },
            Err(_) => {
                let _ = claim.give_up(region);
                Attempt::Torn
            }
        }
    }

    /// Whatever its place and its checksum are.
    #[inline(never)]
    fn write_otherwise(&self, write: &Write<'_, '_>, place: &Place, source: &Source<'_, '_>) -> Attempt {
        if !self.may_begin(write) {
            return Attempt::NotBegun;
        }
        let (lane, from) = (write.announced.index(), write.offset % EXTENT);
        let copied = match *place {
            Place::Run { at, checksum_at } => self.copy_to(lane, checksum_at, (at, from), write.length, source),
            Place::Runs(slot, target) => {
                self.copy_into(lane, write.inode, slot, target, from, write.length, &mut source.clone())
            }
        };
        copied.map_or(Attempt::Torn, |()| self.end_in_place(write))
    }

    /// Whether bytes may be touched: who zeroes beyond the size must see the range, or this the word that he makes odd.
    #[inline(always)]
    fn may_begin(&self, write: &Write<'_, '_>) -> bool {
        if size_of(write.before) < write.end() {
            write.announced.fence();
        }
        !self.is_being_cut(write.inode)
    }

    /// Whether somebody cuts the file at this moment, or nobody can say.
    #[inline(always)]
    fn is_being_cut(&self, inode: InodeId) -> bool {
        let sequence = self.region().word(inode.at() + inode::SEQUENCE);
        sequence.map_or(true, |sequence| sequence.load(Ordering::SeqCst) & 1 != 0)
    }

    /// Publishes what was copied.
    #[inline(always)]
    fn end_in_place(&self, write: &Write<'_, '_>) -> Attempt {
        let lengthened = || self.lengthen(write.inode, write.before, write.end());
        let published = self.set_written(write.inode, write.now).and_then(|()| lengthened());
        if published == Ok(true) { Attempt::Done } else { Attempt::Torn }
    }

    /// Where the inode, if it exists, has these bytes, all in one extent; `None` when it does not have a place for each.
    #[inline(always)]
    fn place_of(&self, announced: &InPlace<'_>, inode: InodeId, offset: u64, length: u64) -> Result<Option<Place>> {
        if let Some([at, checksum_at]) = announced.known_place(whole_extent(inode, offset))? {
            return Ok(Some(Place::Run { at: at + offset % EXTENT, checksum_at }));
        }
        let (block, in_block) = (offset / BLOCK, offset % BLOCK);
        if in_block + length <= BLOCK
            && let Some([at, checksum_at]) = announced.known_place(one_block(inode, block))?
        {
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
