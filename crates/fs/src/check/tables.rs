//! What every region has once: superblocks, run words, and the tables of processes, lanes, open files, pins, file locks
//! and chunks. Most of it means nothing when nobody is attached, so then what is left in it is freed.

use super::{Fault, Remedy, Walk};
use crate::Result;
use lifeboat_region::kept_lane::NOBODYS;
use lifeboat_region::layout::{
    FILE_LOCK, FILE_LOCK_HIGH_WATER, FILE_LOCK_WAITS, IMAGE, LANE, LANE_HIGH_WATER, OPEN_FILE, PIN, RENAME_LOCK,
    SWEEP_LOCK,
};
use lifeboat_region::owner::{Owner, State};
use lifeboat_region::space::{self, ChunkState, Class};
use lifeboat_region::{MustFence, high_water};

/// Words of a lane before its redo entries that mean something.
const LANE_WORDS: u64 = 18;
const GENERATION: u64 = 0xffff << 16;

impl Walk<'_> {
    pub(super) fn superblocks(&mut self) -> Result<()> {
        let copies = self.region().superblock_copies()?;
        for (number, copy) in copies.into_iter().enumerate() {
            if let Err(error) = copy {
                let fault = Fault::Superblock(number as u8, error);
                self.find(fault, Remedy::Rewrite, |fs| fs.region().rewrite_superblocks())?;
            }
        }
        Ok(())
    }

    pub(super) fn tables(&mut self) -> Result<()> {
        for at in [RENAME_LOCK, SWEEP_LOCK, FILE_LOCK_WAITS] {
            self.lock(at)?;
        }
        let g = *self.region().geometry();
        for (at, all) in [(LANE_HIGH_WATER, g.lanes), (FILE_LOCK_HIGH_WATER, g.file_locks)] {
            if high_water::decode(self.region().load(at)?, all).is_none() {
                self.find(Fault::HighWater(at), Remedy::Recompute, |fs| {
                    fs.region().commit(at, 0, MustFence::nothing())?;
                    high_water::raise(fs.region(), at, all)
                })?;
            }
        }
        for slot in 0..g.images {
            self.image(g.images_at + slot * IMAGE, slot)?;
        }
        for lane in 0..g.lanes {
            self.lane(g.lanes_at + lane * LANE)?;
        }
        for file in 0..g.open_files {
            self.open_file(g.open_files_at + file * OPEN_FILE)?;
        }
        for pin in 0..g.pins {
            let at = g.pins_at + pin * PIN;
            let word = self.region().load(at)?;
            if self.alone && word & 1 != 0 && !self.is_own(word >> 16 & 0xffff, word >> 32 & 0xffff)? {
                self.find_word(Fault::Pin(at), Remedy::Free, at, 0)?;
            }
        }
        for record in 0..g.file_locks {
            self.file_lock(g.file_locks_at + record * FILE_LOCK)?;
        }
        Ok(())
    }

    fn image(&mut self, at: u64, slot: u64) -> Result<()> {
        const RESERVED: u64 = 0xffff_0000_0000_fffc;
        let word = self.region().load(at)?;
        let own = self.is_own(slot, word >> 16 & 0xffff)?;
        let impossible = word & 3 == 3
            || word & RESERVED != 0
            || (word & 3 == 2 && word >> 32 & 0xffff >= self.region().geometry().images);
        let left = self.alone && !own && word & 3 != 0;
        if impossible || left {
            let free = word & GENERATION;
            let remedy = if own { Remedy::None } else { Remedy::Free };
            self.find_word(Fault::Image(at), remedy, at, free)?;
        }
        Ok(())
    }

    fn lane(&mut self, at: u64) -> Result<()> {
        let region = self.region();
        let claim = region.load(at)?;
        if !self.alone || (claim & 1 != 0 && self.is_own(claim >> 32 & 0xffff, claim >> 48)?) {
            return Ok(());
        }
        // Of a free lane nothing but the claim's generation, the range, what a task was about, and that it was being given up may
        // be left.
        let left = claim & 1 != 0
            || region.load(at + 8)? != 0
            || region.load(at + 24)? != 0
            || !matches!(region.load(at + 32)?, 0 | NOBODYS)
            || (8..14).any(|word| region.load(at + word * 8) != Ok(0));
        if left {
            self.find(Fault::Lane(at), Remedy::Free, |fs| {
                for word in 1..LANE_WORDS {
                    fs.region().commit(at + word * 8, 0, MustFence::nothing())?;
                }
                fs.region().commit(at, claim & !1, MustFence::nothing())
            })?;
        }
        Ok(())
    }

    fn open_file(&mut self, at: u64) -> Result<()> {
        let region = self.region();
        let word = region.load(at)?;
        if word & 3 == 0 {
            return Ok(());
        }
        let own = self.is_own(word >> 16 & 0xffff, word >> 32 & 0xffff)?;
        let agree = word & 3 != 2
            || (region.load(at + 32)? == !region.load(at + 8)?
                && region.load(at + 24)? as u32 == !((region.load(at + 24)? >> 32) as u32));
        // A tag tells whether a descriptor is left somewhere, but only of what is open.
        let is_left = word & 4 == 0 || word & 3 != 2;
        if !agree || (self.alone && !own && is_left) {
            let remedy = if own { Remedy::None } else { Remedy::Free };
            self.find_word(Fault::OpenFile(at), remedy, at, word & !0xffff)?;
        }
        Ok(())
    }

    fn file_lock(&mut self, at: u64) -> Result<()> {
        let region = self.region();
        let word = region.load(at)?;
        let (class, state) = (word >> 2 & 3, word & 3);
        if state < 2 {
            return Ok(());
        }
        let left = self.alone && class == 1 && !self.is_own(word >> 16 & 0xffff, word >> 32 & 0xffff)?;
        if class == 3 || left || (state == 2 && region.load(at + 16)? > region.load(at + 24)?) {
            self.find_word(Fault::FileLock(at), Remedy::Free, at, 0)?;
        }
        Ok(())
    }

    /// Chunk words that no chunk can have. What was looked for in the chunk says what it is.
    pub(super) fn chunks(&mut self) -> Result<()> {
        const CLASSES: [Class; 4] = [Class::Entry, Class::Cell, Class::Block, Class::Extent];
        let region = self.region();
        for chunk in 0..region.geometry().chunks as u32 {
            let (at, said) = space::chunk(region, chunk)?;
            let is_left = matches!(said, ChunkState::Claimed(..)) && self.alone;
            if said != ChunkState::Damaged && !is_left {
                continue;
            }
            self.names_whole = false;
            self.any_broken = true;
            let mut wanted = CLASSES.into_iter().filter(|&class| self.votes.count(chunk as u64 * 8 + class as u64) > 0);
            let votes = (wanted.next(), wanted.next());
            let fault = Fault::Chunk(at);
            match votes {
                (Some(class), None) => {
                    self.find_word(fault, Remedy::Recompute, at, space::chunk_word(Some(class)))?;
                }
                (None, _) if self.is_empty(chunk, region.load(at)?, &CLASSES)? => {
                    self.find_word(fault, Remedy::Free, at, space::chunk_word(None))?;
                }
                _ => self.name(fault)?,
            }
        }
        Ok(())
    }

    /// Whether the chunk has no unit that is linked, whichever half of its word is right.
    fn is_empty(&self, chunk: u32, word: u64, classes: &[Class]) -> Result<bool> {
        let halves = [word & 0xffff, !word >> 16 & 0xffff];
        let mut empty = true;
        for &class in classes.iter().filter(|&&class| halves.iter().any(|half| half >> 4 & 15 == class as u64)) {
            space::each_unit_of(self.region(), chunk, class, |_, owner| {
                empty &= !Owner::decode(owner).is_some_and(|owner| owner.state == State::Live);
                Ok(())
            })?;
        }
        Ok(empty)
    }
}
