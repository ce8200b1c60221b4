//! Locks in the region: one word, no pthread object.
//!
//! | bits | field |
//! |---|---|
//! | 0..16 | lane of the owner, plus one |
//! | 16..32 | generation of that lane |
//! | 32 | somebody waits |
//! | 40..56 | run id |
//! | 56..64 | check sum of the rest |
//!
//! Zero, or a word of another run, is free. Waiting is a futex of at most 50 ms, then the owner is examined: proved dead,
//! it is recovered; otherwise it is waited for, however long it is stopped.

use crate::lane::{CLAIM, LOCKS, Lane, claim_of};
use crate::recovery::{self, Finish};
use crate::region::Region;
use crate::sleep;
use crate::{DAMAGED, Errno, Result};
use lifeboat_kernels::MustFence;

const WAITERS: u64 = 1 << 32;
const SPINS: u32 = 200;
/// Doublings of that for who has waited often.
const PATIENCE: u32 = 6;

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockOwner {
    /// Lane of the operation.
    pub lane: u32,
    /// Generation of the lane at that operation.
    pub generation: u16,
}

fn check_sum(word: u64) -> u64 {
    let mixed = (word & !(0xff << 56)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) << 56
}

fn seal(word: u64) -> u64 {
    (word & !(0xff << 56)) | check_sum(word)
}

fn word_of(owner: LockOwner, run: u16, waiters: bool) -> u64 {
    let bits = (owner.lane as u64 + 1) | (owner.generation as u64) << 16 | (run as u64) << 40;
    seal(if waiters { bits | WAITERS } else { bits })
}

/// Reads a lock word: `None` is free; [`DAMAGED`] when it is no word that a lock can have.
pub fn decode(region: &Region, word: u64) -> Result<Option<LockOwner>> {
    if word == 0 {
        return Ok(None);
    }
    if seal(word) != word || word & 0xffff == 0 {
        return Err(DAMAGED);
    }
    if (word >> 40) as u16 != region.superblock().run {
        return Ok(None);
    }
    let owner = LockOwner { lane: (word & 0xffff) as u32 - 1, generation: (word >> 16) as u16 };
    if owner.lane as u64 >= region.geometry().lanes {
        return Err(DAMAGED);
    }
    Ok(Some(owner))
}

impl Lane<'_> {
    pub(crate) fn owner(&self) -> LockOwner {
        LockOwner { lane: self.index, generation: self.generation }
    }

    /// Takes the lock at `offset`. `DEADLK` when this lane holds it already, [`DAMAGED`] when the word is no lock.
    pub fn lock(&self, offset: u64, finish: &dyn Finish) -> Result<()> {
        let entry = self.free_entry(offset)?;
        // Noted before it is taken: a recoverer compares the note with the word.
        self.note_lock(entry, offset)?;
        let result = self.acquire(offset, finish);
        if result.is_err() {
            self.note_lock(entry, 0)?;
        }
        result
    }

    fn note_lock(&self, entry: usize, offset: u64) -> Result<()> {
        self.held[entry].set(offset);
        self.note(LOCKS + entry as u64 * 8, offset)
    }

    /// As [`Lane::lock`], without waiting: false when somebody holds it.
    pub fn try_lock(&self, offset: u64) -> Result<bool> {
        let entry = self.free_entry(offset)?;
        let word = self.region.load(offset)?;
        if decode(self.region, word)?.is_some() {
            return Ok(false);
        }
        self.note_lock(entry, offset)?;
        let mine = word_of(self.owner(), self.region.superblock().run, false);
        let won = self.region.commit_exchange(offset, word, mine, MustFence::nothing())?;
        if !won {
            self.note_lock(entry, 0)?;
        }
        Ok(won)
    }

    fn free_entry(&self, offset: u64) -> Result<usize> {
        let mut free = None;
        for (entry, held) in self.held.iter().enumerate() {
            match held.get() {
                0 => free = free.or(Some(entry)),
                held if held == offset => return Err(Errno::DEADLK),
                _ => {}
            }
        }
        free.ok_or(Errno::NOLCK)
    }

    fn acquire(&self, offset: u64, finish: &dyn Finish) -> Result<()> {
        let run = self.region.superblock().run;
        let (mut spins, mut waits) = (0, 0);
        loop {
            let word = self.region.load(offset)?;
            let Some(owner) = decode(self.region, word)? else {
                let mine = word_of(self.owner(), run, waits > 0);
                if self.region.commit_exchange(offset, word, mine, MustFence::nothing())? {
                    return Ok(());
                }
                continue;
            };
            if owner == self.owner() {
                // The word says that this lane has the lock, which this lane does not remember (`held`): it is damaged.
                return Err(DAMAGED);
            }
            // Who takes the lock again and again has it again before a sleeper is awake: the longer somebody waits, the
            // longer they look for a gap.
            if spins < SPINS << waits.min(PATIENCE) {
                spins += 1;
                core::hint::spin_loop();
                continue;
            }
            (spins, waits) = (0, waits + 1);
            self.wait(offset, word, owner, finish)?;
        }
    }

    #[cold]
    fn wait(&self, offset: u64, word: u64, owner: LockOwner, finish: &dyn Finish) -> Result<()> {
        if word & WAITERS == 0 {
            let asking = seal(word | WAITERS);
            self.region.commit_exchange(offset, word, asking, MustFence::nothing())?;
            // The low half is the same with and without waiters, so the sleep below is not disturbed by this.
        }
        if sleep::while_unchanged(self.region, offset, word as u32)? == sleep::Woken::TimedOut {
            recovery::examine(self.region, offset, owner, finish)?;
        }
        Ok(())
    }

    /// Gives the lock at `offset` back.
    pub fn unlock(&self, offset: u64) -> Result<()> {
        match self.held.iter().position(|held| held.get() == offset) {
            Some(entry) => {
                release(self.region, offset, self.owner())?;
                self.note_lock(entry, 0)
            }
            None => Ok(()),
        }
    }

    /// Gives every lock back.
    pub fn unlock_all(&self) -> Result<()> {
        for (entry, held) in self.held.iter().enumerate() {
            if held.get() != 0 {
                release(self.region, held.get(), self.owner())?;
                self.note_lock(entry, 0)?;
            }
        }
        Ok(())
    }

    /// Takes over a lock from an operation that is proved dead: exactly the word that was judged is exchanged. False when it
    /// is not that operation's (any more).
    pub(crate) fn take_over(&self, offset: u64, is_dead: &dyn Fn(LockOwner) -> Result<bool>) -> Result<bool> {
        let mut noted = None;
        loop {
            let word = self.region.load(offset)?;
            match decode(self.region, word) {
                Ok(Some(owner)) if is_dead(owner)? => {}
                // Another's, nobody's, or no lock any more: who frees an inode has its lock noted a moment longer, and what
                // was the lock may be anybody's bytes by then. (A damaged word is told to whoever needs the lock.)
                _ => break,
            }
            let entry = match noted {
                Some(entry) => entry,
                None => self.free_entry(offset)?,
            };
            self.note_lock(entry, offset)?;
            noted = Some(entry);
            let mine = word_of(self.owner(), self.region.superblock().run, word & WAITERS != 0);
            if self.region.commit_exchange(offset, word, mine, MustFence::nothing())? {
                return Ok(true);
            }
            // Somebody began to wait for it, which changes the word: the dead still has it.
        }
        noted.map_or(Ok(()), |entry| self.note_lock(entry, 0)).map(|()| false)
    }
}

fn release(region: &Region, offset: u64, owner: LockOwner) -> Result<()> {
    let unwaited = word_of(owner, region.superblock().run, false);
    // Loaded first: what was the lock of an inode may be bytes by now that nobody may store to, as an exchange that fails does, too.
    if region.load(offset)? == unwaited && region.commit_exchange(offset, unwaited, 0, MustFence::nothing())? {
        return Ok(());
    }
    loop {
        let word = region.load(offset)?;
        if decode(region, word) != Ok(Some(owner)) {
            // Not ours (any more): somebody damaged the word. `check` reports what it finds there.
            return Ok(());
        }
        if region.commit_exchange(offset, word, 0, MustFence::nothing())? {
            if word & WAITERS != 0 {
                sleep::wake_all(region, offset)?;
            }
            return Ok(());
        }
    }
}

/// Whether the operation that `owner` names still holds its lane.
pub(crate) fn lane_of(region: &Region, owner: LockOwner) -> Result<Option<crate::image::Image>> {
    let claim = claim_of(region.load(region.lane_at(owner.lane)? + CLAIM)?);
    Ok(claim.filter(|claim| claim.generation == owner.generation).map(|claim| claim.image))
}
