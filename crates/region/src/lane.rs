//! Lanes: where an operation says what it is about to do, so that another can finish or forget it.
//!
//! A lane belongs to one operation of one thread of one image at a time. Its first words:
//!
//! | byte | meaning |
//! |---|---|
//! | 0 | claim: bit 0 claimed; 16..32 lane generation; 32..48 image slot; 48..64 image generation |
//! | 8 | transaction: 0 = none; else bit 63, number of entries in 0..16, their checksum in 16..48 |
//! | 16 | task that the file system must finish: an inode id, and |
//! | 24 | its kind |
//! | 32 | inode whose data this operation touches without its lock (hazard) |
//! | 40, 48 | range of the write in flight |
//! | 56 | 1 when the operation may own units that are linked nowhere |
//! | 64..112 | offsets of the locks held or being taken |
//! | 112..144 | offsets of sequence words that are odd while the transaction is applied |
//! | 192.. | redo entries {offset, and in its bit 0 whether the word frees something; old; new} |
//!
//! The transaction word is the commit: before it nothing has happened, after it everything will.

use crate::announcements::ONLY_WAITS;
use crate::high_water;
use crate::image::{self, Image};
use crate::layout::{CELL, INODE_SEQUENCE, LANE_ENTRIES, LANE_HEADER, LANE_HIGH_WATER};
use crate::lock;
use crate::owner::{Kind, Owner, State};
use crate::region::Region;
use crate::search;
use crate::space::{self, Class};
use crate::{DAMAGED, Errno, Result};
use core::cell::Cell;
use core::sync::atomic::Ordering;
use lifeboat_kernels::MustFence;

pub(crate) const CLAIM: u64 = 0;
pub(crate) const TRANSACTION: u64 = 8;
pub(crate) const TASK: u64 = 16;
pub(crate) const TASK_KIND: u64 = 24;
pub(crate) const HAZARD: u64 = 32;
pub(crate) const RANGE_START: u64 = 40;
pub(crate) const RANGE_END: u64 = 48;
pub(crate) const OWNS_UNITS: u64 = 56;
pub(crate) const LOCKS: u64 = 64;
pub(crate) const LOCK_COUNT: u64 = 6;
pub(crate) const GUARDS: u64 = 112;
pub(crate) const GUARD_COUNT: u64 = 4;

const CLAIMED: u64 = 1;
const COMMITTED: u64 = 1 << 63;

/// What is left to do for the file system when an operation died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Meaning is the file system's.
    pub kind: u64,
    /// Inode id concerned.
    pub inode: u64,
    /// Inode whose data was being written without its lock, or 0.
    pub hazard: u64,
    /// Byte range of that write.
    pub range: (u64, u64),
}

/// A claimed lane. Dropping it gives up its locks and the lane.
pub struct Lane<'r> {
    pub(crate) region: &'r Region,
    pub(crate) index: u32,
    pub(crate) generation: u16,
    pub(crate) at: u64,
    /// Owner words of units taken by this lane; those that are still its own when it ends were not linked.
    taken: [Cell<u64>; TAKEN],
    taken_count: Cell<usize>,
    /// Locks that this lane has or is taking, as noted in the region. What is freed at the end is this, not the note: a note
    /// that was damaged would leave a lock behind whose owner lives, and everybody would wait for him.
    pub(crate) held: [Cell<u64>; LOCK_COUNT as usize],
}

/// Units that a lane remembers; when there are more, its end looks at every unit.
const TAKEN: usize = 40;

/// Who claims a lane, decoded from its claim word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) generation: u16,
    pub(crate) image: Image,
}

pub(crate) fn claim_of(word: u64) -> Option<Claim> {
    (word & CLAIMED != 0).then_some(Claim {
        generation: (word >> 16) as u16,
        image: Image { slot: (word >> 32) as u16 as u32, generation: (word >> 48) as u16 },
    })
}

impl<'r> Lane<'r> {
    /// Claims a free lane for this image. `NOLCK` when all are in use.
    pub fn claim(region: &'r Region) -> Result<Lane<'r>> {
        let me = image::own(region)?;
        let lanes = region.geometry().lanes as u32;
        // The lane of last time first, then from the lowest: lanes in use stay dense, so that looking through all of
        // them (see `is_announced`) is short.
        let last = region.lane_cursor.load(Ordering::Relaxed);
        for step in 0..=lanes {
            let index = if step == 0 { last % lanes } else { step - 1 };
            let at = region.lane_at(index)?;
            let word = region.load(at + CLAIM)?;
            if word & CLAIMED != 0 {
                continue;
            }
            let generation = ((word >> 16) as u16).wrapping_add(1);
            let mine = CLAIMED | (generation as u64) << 16 | (me.slot as u64) << 32 | (me.generation as u64) << 48;
            if region.commit_exchange(at + CLAIM, word, mine, MustFence::nothing())? {
                region.lane_cursor.store(index, Ordering::Relaxed);
                raise_high_water(region, index)?;
                let taken = [const { Cell::new(0) }; TAKEN];
                return Ok(Lane {
                    region,
                    index,
                    generation,
                    at,
                    taken,
                    taken_count: Cell::new(0),
                    held: [const { Cell::new(0) }; _],
                });
            }
        }
        Err(Errno::NOLCK)
    }

    /// The region that the lane belongs to.
    pub fn region(&self) -> &'r Region {
        self.region
    }

    pub(crate) fn note(&self, field: u64, value: u64) -> Result<()> {
        self.region.word(self.at + field)?.store(value, Ordering::Release);
        Ok(())
    }

    /// Says what must be finished should this operation die from here on.
    pub fn set_task(&self, kind: u64, inode: u64) -> Result<()> {
        self.note(TASK, inode)?;
        self.note(TASK_KIND, kind)
    }

    /// Nothing is left to finish.
    pub fn clear_task(&self) -> Result<()> {
        self.note(TASK_KIND, 0)
    }

    /// Announces that data of `inode` in `[start, end)` will be touched without its lock. Visible to everybody before
    /// the call returns.
    pub fn announce(&self, inode: u64, start: u64, end: u64) -> Result<()> {
        self.note(RANGE_START, start)?;
        self.note(RANGE_END, end)?;
        self.region.word(self.at + HAZARD)?.swap(inode, Ordering::SeqCst);
        Ok(())
    }

    /// Announces that this operation waits for the lock of `inode` and touches nothing else of it.
    pub fn announce_waiting(&self, inode: u64) -> Result<()> {
        self.announce(inode, ONLY_WAITS.0, ONLY_WAITS.1)
    }

    /// Whether this lane has noted that it holds the lock at `offset`.
    pub fn holds(&self, offset: u64) -> Result<bool> {
        if self.held.iter().any(|held| held.get() == offset) {
            return Ok(lock::decode(self.region, self.region.load(offset)?)? == Some(self.owner()));
        }
        Ok(false)
    }

    /// Index of this lane.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Generation of this lane: with the index, which operation it is.
    pub fn generation(&self) -> u16 {
        self.generation
    }

    /// For a lane that is kept (see `kept_lane`): an operation empties what it fills, and this one will fill nothing but hazard and
    /// range, so what damage left in the other words would stay as long as it is kept, and be met when it is not.
    pub(crate) fn empty_header(&self) -> Result<()> {
        for field in (CLAIM + 8..LANE_HEADER).step_by(8) {
            if self.region.load(self.at + field)? != 0 {
                self.note(field, 0)?;
            }
        }
        Ok(())
    }

    /// The touch announced is over.
    pub fn withdraw(&self) -> Result<()> {
        self.note(HAZARD, 0)
    }

    /// Starts a transaction.
    pub fn begin(&self) -> Transaction<'_, 'r> {
        Transaction { lane: self, count: 0, guards: 0, marks: 0 }
    }

    /// Remembers a unit that this lane took.
    pub(crate) fn remember(&self, owner_at: u64) -> Result<()> {
        if self.taken_count.get() == TAKEN {
            self.forget_linked()?;
        }
        let count = self.taken_count.get();
        if let Some(place) = self.taken.get(count) {
            place.set(owner_at);
        }
        self.taken_count.set(count + 1);
        Ok(())
    }

    fn is_mine(&self, owner_at: u64) -> Result<Option<Owner>> {
        let word = self.region.load(owner_at)?;
        // Most are linked by now.
        if Owner::says_linked(word) {
            return Ok(None);
        }
        let owner = Owner::decode(word);
        Ok(owner.filter(|owner| owner.state == State::Owned && owner.lane() == (self.index, self.generation)))
    }

    fn forget_linked(&self) -> Result<()> {
        let mut kept = 0;
        for index in 0..self.taken_count.get().min(TAKEN) {
            let at = self.taken[index].get();
            if self.is_mine(at)?.is_some() {
                self.taken[kept].set(at);
                kept += 1;
            }
        }
        if self.taken_count.get() <= TAKEN {
            self.taken_count.set(kept);
        }
        Ok(())
    }

    /// Frees what was taken and not linked: an operation that failed half-way leaves nothing behind.
    fn release_taken(&self) -> Result<()> {
        let count = self.taken_count.get();
        if count > TAKEN {
            return space::each_unit(self.region, |unit, _| self.release_if_mine(unit.owner_at));
        }
        for place in &self.taken[..count] {
            self.release_if_mine(place.get())?;
        }
        Ok(())
    }

    fn release_if_mine(&self, owner_at: u64) -> Result<()> {
        match self.is_mine(owner_at)? {
            Some(owner) => self.region.commit(owner_at, owner.freed().encode(), MustFence::nothing()),
            None => Ok(()),
        }
    }

    fn give_back(&self) -> Result<()> {
        self.release_taken()?;
        self.unlock_all()?;
        self.note(HAZARD, 0)?;
        self.note(TASK_KIND, 0)?;
        self.note(OWNS_UNITS, 0)?;
        free_claim(self.region, self.at)
    }
}

/// Lanes from this number on were never claimed.
fn raise_high_water(region: &Region, index: u32) -> Result<()> {
    high_water::raise(region, LANE_HIGH_WATER, index as u64 + 1)
}

pub(crate) fn claimed_lanes(region: &Region) -> Result<u64> {
    high_water::read(region, LANE_HIGH_WATER, region.geometry().lanes)
}

/// Whether the operation that had lane `index` in `generation` still has it.
pub fn is_current(region: &Region, index: u32, generation: u16) -> Result<bool> {
    let claim = claim_of(region.load(region.lane_at(index)? + CLAIM)?);
    Ok(claim.is_some_and(|claim| claim.generation == generation))
}

/// Marks a lane free, keeping its generation.
pub(crate) fn free_claim(region: &Region, at: u64) -> Result<()> {
    let word = region.load(at + CLAIM)?;
    region.commit(at + CLAIM, word & !CLAIMED, MustFence::nothing())
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        // Only a damaged offset could fail here, and lanes lie at offsets computed from the checked superblock.
        let _ = self.give_back();
    }
}

/// Words to be changed together: all of them or none, whatever dies when.
pub struct Transaction<'l, 'r> {
    lane: &'l Lane<'r>,
    count: usize,
    guards: u64,
    /// The marks of all offsets that are staged: one whose mark is missing is not.
    marks: u64,
}

/// In the offset of an entry, which is a multiple of 8: from the moment that the word is applied, what it frees may be
/// another's, and in a chunk of another class the word may be anything.
const FREES: u64 = 1;

/// One of 64 bits for an offset.
fn mark(offset: u64) -> u64 {
    1 << (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58)
}

fn entry_at(lane: u64, index: usize) -> u64 {
    lane + LANE_HEADER + index as u64 * 24
}

impl Transaction<'_, '_> {
    fn region(&self) -> &Region {
        self.lane.region
    }

    /// How many more words fit.
    pub fn room(&self) -> usize {
        LANE_ENTRIES - self.count
    }

    /// Whether nothing was staged yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[inline]
    fn staged(&self, offset: u64) -> Result<Option<usize>> {
        if self.marks & mark(offset) == 0 { Ok(None) } else { self.staged_at(offset) }
    }

    #[inline(never)]
    fn staged_at(&self, offset: u64) -> Result<Option<usize>> {
        for index in (0..self.count).rev() {
            if self.region().load(entry_at(self.lane.at, index))? & !FREES == offset {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// The word as it will be.
    pub fn get(&self, offset: u64) -> Result<u64> {
        match self.staged(offset)? {
            Some(index) => self.region().load(entry_at(self.lane.at, index) + 16),
            None => self.region().load(offset),
        }
    }

    /// Stages `value` for the word at `offset`. The word must be under a lock held by this lane, or in a unit owned by
    /// it. `NOBUFS` when the lane is full (a bug in the caller, which must split its work).
    pub fn set(&mut self, offset: u64, value: u64) -> Result<()> {
        self.stage(offset, value, 0)
    }

    /// As [`Transaction::set`], for the word by which something becomes free: as soon as it is applied, it may be another's.
    pub fn set_free(&mut self, offset: u64, value: u64) -> Result<()> {
        self.stage(offset, value, FREES)
    }

    fn stage(&mut self, offset: u64, value: u64, frees: u64) -> Result<()> {
        let old = self.region().load(offset)?;
        if let Some(index) = self.staged(offset)? {
            let word = self.region().word(entry_at(self.lane.at, index) + 16)?;
            word.store(value, Ordering::Relaxed);
            return Ok(());
        }
        if self.count == LANE_ENTRIES {
            return Err(Errno::NOBUFS);
        }
        let at = entry_at(self.lane.at, self.count);
        self.region().store_all(at, [(0, offset | frees), (8, old), (16, value)])?;
        self.count += 1;
        self.marks |= mark(offset);
        Ok(())
    }

    /// Makes the sequence word at `offset` odd while the transaction is applied, for readers without a lock.
    pub fn guard(&mut self, offset: u64) -> Result<()> {
        for index in 0..self.guards {
            if self.region().load(self.lane.at + GUARDS + index * 8)? == offset {
                return Ok(());
            }
        }
        if self.guards == GUARD_COUNT {
            return Err(Errno::NOBUFS);
        }
        self.lane.note(GUARDS + self.guards * 8, offset)?;
        self.guards += 1;
        Ok(())
    }

    /// Commits and applies. `data` is what was copied for this operation before.
    pub fn commit(self, data: MustFence) -> Result<()> {
        let region = self.region();
        let lane = self.lane.at;
        for index in self.guards..GUARD_COUNT {
            self.lane.note(GUARDS + index * 8, 0)?;
        }
        let checksum = entries_checksum(region, lane, self.count)?;
        let word = COMMITTED | self.count as u64 | (checksum as u64) << 16;
        region.commit(lane + TRANSACTION, word, data)?;
        self.apply()?;
        region.commit(lane + TRANSACTION, 0, MustFence::nothing())
    }

    fn apply(&self) -> Result<()> {
        let (region, lane) = (self.region(), self.lane.at);
        each_guard(region, lane, self.guards, true)?;
        for index in 0..self.count {
            let [offset, new] = region.load_all(entry_at(lane, index), [0, 16])?;
            region.commit(offset & !FREES, new, MustFence::nothing())?;
            if offset & FREES != 0 {
                search::note_freed(region, offset & !FREES);
            }
        }
        each_guard(region, lane, self.guards, false)
    }
}

/// A sum that a torn or damaged list of entries does not have. (A CRC of up to 4 KiB would double the cost of a
/// transaction; the multiplier spreads every bit.)
fn entries_checksum(region: &Region, lane: u64, count: usize) -> Result<u32> {
    let mut sum = count as u64 ^ 0x9e37_79b9_7f4a_7c15;
    for index in 0..count {
        for value in region.load_all(entry_at(lane, index), [0, 8, 16])? {
            sum = (sum.rotate_left(23) ^ value).wrapping_mul(0xff51_afd7_ed55_8ccd);
        }
    }
    Ok((sum >> 32) as u32)
}

fn each_guard(region: &Region, lane: u64, guards: u64, odd: bool) -> Result<()> {
    for index in 0..guards {
        let offset = region.load(lane + GUARDS + index * 8)?;
        if offset == 0 {
            continue;
        }
        let word = region.word(offset)?;
        let value = word.load(Ordering::Acquire);
        if (value & 1 == 1) != odd {
            // Under the inode's lock: only the holder, or who recovers it, changes the word.
            word.store(value.wrapping_add(1), Ordering::SeqCst);
        }
    }
    Ok(())
}

/// A guard is 0 or the sequence word of an inode: the list's checksum does not speak for it.
fn check_guard(region: &Region, offset: u64) -> Result<()> {
    if offset == 0 {
        return Ok(());
    }
    let cell = offset.checked_sub(INODE_SEQUENCE).filter(|cell| cell.is_multiple_of(CELL)).ok_or(DAMAGED)?;
    space::expect(region, Class::Cell, cell, Kind::Inode, cell / CELL).map(|_| ())
}

/// Finishes or forgets the transaction of a dead lane. Idempotent: may itself be killed and repeated.
pub(crate) fn redo(region: &Region, lane: u64) -> Result<()> {
    let word = region.load(lane + TRANSACTION)?;
    if word == 0 {
        return Ok(());
    }
    let count = word as u16 as usize;
    if word & COMMITTED == 0 || count > LANE_ENTRIES || entries_checksum(region, lane, count)? != (word >> 16) as u32 {
        return Err(DAMAGED);
    }
    for index in 0..GUARD_COUNT {
        check_guard(region, region.load(lane + GUARDS + index * 8)?)?;
    }
    let entry = |index| -> Result<(u64, u64, u64)> {
        let at = entry_at(lane, index);
        Ok((region.load(at)?, region.load(at + 8)?, region.load(at + 16)?))
    };
    for index in 0..count {
        let (offset, old, new) = entry(index)?;
        let now = region.load(offset & !FREES)?;
        if now != old && now != new && offset & FREES == 0 {
            return Err(DAMAGED);
        }
    }
    each_guard(region, lane, GUARD_COUNT, true)?;
    for index in 0..count {
        let (offset, old, new) = entry(index)?;
        // Exchanged, not stored: only what is as it was before. Nothing becomes that again: it is under a lock of the dead, or
        // what was freed had an earlier generation, or a holder who is dead.
        region.commit_exchange(offset & !FREES, old, new, MustFence::nothing())?;
    }
    each_guard(region, lane, GUARD_COUNT, false)?;
    region.commit(lane + TRANSACTION, 0, MustFence::nothing())
}
