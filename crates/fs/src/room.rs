//! The search for room of an operation that finds the region full.
//!
//! A sweep frees what is in limbo only if nobody at all has announced the inode that it belonged to, and of a file with busy
//! readers that may never be seen. So the search goes on with those who had announced it at one moment after: when each of
//! them has once been seen without its announcement, what was in limbo before is nobody's, whoever has announced the
//! inode since.

use crate::Result;
use crate::file_system::FileSystem;
use crate::sweep::{Limbo, unless_damaged};
use lifeboat_region::announcements::Announcers;
use lifeboat_region::owner::Owner;
use rustix::thread::{Timespec, nanosleep};

/// How often an operation that finds the region full waits for space that others are about to let go of, each time twice
/// as long, from a millisecond: an eighth of a second in all.
const WAITS: u32 = 7;
/// Between two looks at those who are waited for. (Less than a timer can do; the kernel adds its own.)
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000 };
/// Looks in a millisecond, about.
const LOOKS: u32 = 10;
/// Units that one search remembers: each is at most an extent, and a few make room for an operation.
const UNITS: usize = 64;

/// Units in limbo of one inode, which operations under way may touch.
pub(crate) struct Awaited {
    number: u64,
    /// Offset of the owner word, and the word.
    units: [(u64, u64); UNITS],
    count: usize,
}

impl Awaited {
    pub(crate) const fn new() -> Awaited {
        Awaited { number: 0, units: [(0, 0); UNITS], count: 0 }
    }

    /// Remembers a unit, if it is of the same inode as the first and there is a place left.
    pub(crate) fn note(&mut self, owner_at: u64, owner: Owner) {
        if self.count == 0 {
            self.number = owner.holder as u64;
        }
        if self.number == owner.holder as u64 && self.count < UNITS {
            self.units[self.count] = (owner_at, owner.encode());
            self.count += 1;
        }
    }
}

/// The search for room of one operation.
pub(crate) struct Room {
    waited: u32,
    awaited: Option<Awaited>,
}

impl Room {
    pub(crate) const fn new() -> Room {
        Room { waited: 0, awaited: None }
    }

    /// Reclaims what dead processes hold and what nobody touches any more, after a while also what operations under way
    /// have let go of. False when the region is full. No lock may be held, and nothing announced.
    pub(crate) fn make(&mut self, fs: &FileSystem) -> Result<bool> {
        if let Some(awaited) = &self.awaited {
            if awaited.count == 0 || self.waited == WAITS {
                return Ok(false);
            }
            let freed = fs.outlive(awaited, LOOKS << self.waited)?;
            self.waited += 1;
            if freed > 0 {
                return Ok(true);
            }
        }
        self.awaited = Some(fs.sweep_all()?.awaited);
        Ok(true)
    }
}

impl FileSystem {
    /// Looks at those who may touch these units so many times, and frees them if all have let go. Answers how many are free.
    fn outlive(&self, awaited: &Awaited, looks: u32) -> Result<u64> {
        let mut before = Announcers::of(self.region(), awaited.number)?;
        for _ in 0..looks {
            if before.are_over(self.region())? {
                return self.free_outlived(awaited);
            }
            // Woken early by a signal, it has waited less.
            let _ = nanosleep(&PAUSE);
        }
        Ok(0)
    }

    fn free_outlived(&self, awaited: &Awaited) -> Result<u64> {
        let mut freed = 0;
        for (owner_at, word) in awaited.units.iter().take(awaited.count) {
            let Some(owner) = Owner::decode(*word) else { continue };
            let left = self.leave_limbo(*owner_at, owner, true).map(|left| left == Limbo::Freed);
            freed += u64::from(unless_damaged(left)?);
        }
        Ok(freed)
    }
}
