//! Records of file locks: a table in the volatile part of the region, chained per inode.
//!
//! A record, 64 bytes:
//!
//! | word | meaning |
//! |---|---|
//! | 0 | state 0..2 (free, taken by a lane, held, waiting); class 2..4; exclusive 4; 16..32 and 32..48 who: slot and generation of an image, number and generation of an open file, or lane and generation |
//! | 1 | inode id |
//! | 2, 3 | first and last byte |
//! | 4 | next record of the inode, plus one |
//! | 5 | of one that waits: word 0 of the record that it waits for; of one that is held by a process that executes another program: process in 0..32, when in 32..64 (tenths of a second since boot) |
//!
//! The inode's word `FILE_LOCKS` names the first record. Chains are changed under the inode's lock, each step by one
//! transaction. What a step leaves when its process dies is stricter than what was asked for, never weaker, and goes
//! with the owner.

use crate::file_system::FileSystem;
use crate::inode::{self, InodeId};
use crate::{Errno, Result};
use lifeboat_region::image::Image;
use lifeboat_region::lane::{self, Lane, Transaction};
use lifeboat_region::layout::{FILE_LOCK, FILE_LOCK_HIGH_WATER};
use lifeboat_region::{DAMAGED, MustFence, high_water, sleep};

const STATE: u64 = 3;
const FREE: u64 = 0;
const TAKEN: u64 = 1;
const HELD: u64 = 2;
const WAITING: u64 = 3;
const EXCLUSIVE: u64 = 1 << 4;

pub(crate) const INODE: u64 = 8;
const START: u64 = 16;
const END: u64 = 24;
const NEXT: u64 = 32;
const WAITS_FOR: u64 = 40;
const EXECUTING: u64 = 40;

/// How long a process may take to become the next program before its locks count as given up, in tenths of a second.
const EXECUTION_LONGEST: u64 = 30;

const CHANGES: u64 = (1 << 31) - 1;
const SOMEBODY_WAITS: u64 = 1 << 31;

/// What kind of lock it is, which says whose it is and with which others it can conflict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum LockClass {
    /// `flock`: of an open file, on the whole file; conflicts only with its like.
    Whole = 0,
    /// `F_SETLK`: of a process.
    Process = 1,
    /// `F_OFD_SETLK`: of an open file; conflicts with locks of processes, too.
    OpenFile = 2,
}

/// Who owns a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Holder {
    pub(crate) class: LockClass,
    /// Slot of the image, or number of the open file.
    pub(crate) number: u16,
    pub(crate) generation: u16,
}

impl Holder {
    pub(crate) fn process(image: Image) -> Holder {
        Holder { class: LockClass::Process, number: image.slot as u16, generation: image.generation }
    }

    pub(crate) fn image(self) -> Option<Image> {
        let image = Image { slot: self.number as u32, generation: self.generation };
        (self.class == LockClass::Process).then_some(image)
    }

    fn word(self, state: u64, exclusive: bool) -> u64 {
        let exclusive = if exclusive { EXCLUSIVE } else { 0 };
        state | (self.class as u64) << 2 | exclusive | (self.number as u64) << 16 | (self.generation as u64) << 32
    }

    pub(crate) fn of_word(word: u64) -> Result<Holder> {
        let class = match (word >> 2) & 3 {
            0 => LockClass::Whole,
            1 => LockClass::Process,
            2 => LockClass::OpenFile,
            _ => return Err(DAMAGED),
        };
        Ok(Holder { class, number: (word >> 16) as u16, generation: (word >> 32) as u16 })
    }
}

/// A lock that is held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) at: u64,
    pub(crate) holder: Holder,
    pub(crate) exclusive: bool,
    pub(crate) start: u64,
    /// Last byte.
    pub(crate) end: u64,
    /// Where the word lies that refers to it.
    link_at: u64,
    next: u64,
}

impl Record {
    /// Word 0, which [`Holder::of_word`] takes back.
    pub(crate) fn word(&self) -> u64 {
        self.holder.word(HELD, self.exclusive)
    }
}

fn tenths_since_boot() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 10 + now.tv_nsec as u64 / 100_000_000
}

impl FileSystem {
    fn record_at(&self, index: u64) -> Result<u64> {
        let g = self.region().geometry();
        if index >= g.file_locks { Err(DAMAGED) } else { Ok(g.file_locks_at + index * FILE_LOCK) }
    }

    fn index_of(&self, at: u64) -> u64 {
        (at - self.region().geometry().file_locks_at) / FILE_LOCK
    }

    fn lock_word_of(&self, inode: InodeId) -> Result<u64> {
        let word = self.field(inode, inode::FILE_LOCKS)?;
        // Of an earlier run: nobody holds anything.
        Ok(if (word >> 48) as u16 == self.region().superblock().run { word } else { 0 })
    }

    /// Whether anybody may hold a lock on the inode: one load.
    pub(crate) fn has_file_locks(&self, inode: InodeId) -> Result<bool> {
        Ok((self.lock_word_of(inode)? >> 32) as u16 != 0)
    }

    /// The locks on an inode, which is locked, until `each` answers something.
    pub(crate) fn find_record<T>(
        &self,
        inode: InodeId,
        mut each: impl FnMut(&Record) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let mut link_at = inode.at() + inode::FILE_LOCKS;
        let mut next = (self.lock_word_of(inode)? >> 32) as u16 as u64;
        for _ in 0..=self.region().geometry().file_locks {
            let Some(index) = next.checked_sub(1) else { return Ok(None) };
            let at = self.record_at(index)?;
            let word = self.region().load(at)?;
            if word & STATE != HELD || self.region().load(at + INODE)? != inode.to_word() {
                return Err(DAMAGED);
            }
            let following = self.region().load(at + NEXT)?;
            let record = Record {
                at,
                holder: Holder::of_word(word)?,
                exclusive: word & EXCLUSIVE != 0,
                start: self.region().load(at + START)?,
                end: self.region().load(at + END)?,
                link_at,
                next: following,
            };
            if let Some(found) = each(&record)? {
                return Ok(Some(found));
            }
            (link_at, next) = (at + NEXT, following);
        }
        Err(DAMAGED)
    }

    /// Takes a free record for this lane; `NOLCK` when there is none.
    pub(crate) fn take_record(&self, lane: &Lane<'_>) -> Result<u64> {
        let mine = TAKEN | (lane.index() as u64) << 16 | (lane.generation() as u64) << 32;
        for index in 0..self.region().geometry().file_locks {
            let at = self.record_at(index)?;
            let word = self.region().load(at)?;
            let free = match word & STATE {
                FREE => true,
                TAKEN => !lane::is_current(self.region(), (word >> 16) as u16 as u32, (word >> 32) as u16)?,
                _ => false,
            };
            if free && self.region().commit_exchange(at, word, mine, MustFence::nothing())? {
                high_water::raise(self.region(), FILE_LOCK_HIGH_WATER, index + 1)?;
                return Ok(at);
            }
        }
        Err(Errno::NOLCK)
    }

    /// Gives a record back that [`FileSystem::take_record`] took and that was not used.
    pub(crate) fn return_record(&self, at: u64) -> Result<()> {
        self.region().commit(at, FREE, MustFence::nothing())
    }

    /// Stages a change of the inode's word: another first record, or none.
    fn stage_word(&self, transaction: &mut Transaction<'_, '_>, inode: InodeId, first: Option<u64>) -> Result<()> {
        let at = inode.at() + inode::FILE_LOCKS;
        let staged = transaction.get(at)?;
        let run = self.region().superblock().run;
        let now = if (staged >> 48) as u16 == run { staged } else { 0 };
        let first = first.unwrap_or((now >> 32) as u16 as u64);
        let changes = (now & CHANGES).wrapping_add(1) & CHANGES;
        transaction.set(at, changes | (now & SOMEBODY_WAITS) | first << 32 | (run as u64) << 48)
    }

    /// Puts a lock into the taken record `at` and into the inode's chain. The inode is locked by `lane`.
    pub(crate) fn insert_record(
        &self,
        lane: &Lane<'_>,
        inode: InodeId,
        at: u64,
        (holder, exclusive): (Holder, bool),
        (start, end): (u64, u64),
    ) -> Result<()> {
        let (link_at, next) = self.place_for(inode, holder, start)?;
        let mut transaction = lane.begin();
        for (field, value) in [(INODE, inode.to_word()), (START, start), (END, end), (NEXT, next), (WAITS_FOR, 0)] {
            transaction.set(at + field, value)?;
        }
        transaction.set(at, holder.word(HELD, exclusive))?;
        self.stage_link(&mut transaction, inode, link_at, self.index_of(at) + 1)?;
        transaction.commit(MustFence::nothing())
    }

    /// Where a new lock goes: the word that will refer to it, and what that refers to now. As in Linux, so that the
    /// same one of several locks is reported: a holder's locks follow each other by their starts, new holders come last. Before one
    /// with the same start: what is left of that one begins behind the new one.
    fn place_for(&self, inode: InodeId, holder: Holder, start: u64) -> Result<(u64, u64)> {
        let mut last = (inode.at() + inode::FILE_LOCKS, (self.lock_word_of(inode)? >> 32) as u16 as u64);
        let mut last_of_holder = None;
        let found = self.find_record(inode, |record| {
            let ours = record.holder == holder;
            if ours && record.start >= start {
                return Ok(Some((record.link_at, self.index_of(record.at) + 1)));
            }
            if !ours && last_of_holder.is_some() {
                return Ok(last_of_holder);
            }
            last = (record.at + NEXT, record.next);
            if ours {
                last_of_holder = Some(last);
            }
            Ok(None)
        })?;
        Ok(found.unwrap_or(last))
    }

    fn stage_link(&self, transaction: &mut Transaction<'_, '_>, inode: InodeId, link_at: u64, next: u64) -> Result<()> {
        if link_at == inode.at() + inode::FILE_LOCKS {
            return self.stage_word(transaction, inode, Some(next));
        }
        transaction.set(link_at, next)?;
        self.stage_word(transaction, inode, None)
    }

    /// Sets the range of a lock. The inode is locked by `lane`.
    pub(crate) fn resize_record(
        &self,
        lane: &Lane<'_>,
        inode: InodeId,
        record: &Record,
        start: u64,
        end: u64,
    ) -> Result<()> {
        let mut transaction = lane.begin();
        transaction.set(record.at + START, start)?;
        transaction.set(record.at + END, end)?;
        self.stage_word(&mut transaction, inode, None)?;
        transaction.commit(MustFence::nothing())
    }

    /// Takes a lock away. The inode is locked by `lane`.
    pub(crate) fn remove_record(&self, lane: &Lane<'_>, inode: InodeId, record: &Record) -> Result<()> {
        let mut transaction = lane.begin();
        self.stage_link(&mut transaction, inode, record.link_at, record.next)?;
        transaction.set_free(record.at, FREE)?;
        transaction.commit(MustFence::nothing())
    }

    /// Says that the holder of a lock becomes another program now, or that it did not.
    pub(crate) fn note_execution(&self, at: u64, begins: bool) -> Result<()> {
        let pid = rustix::process::getpid().as_raw_nonzero().get() as u64;
        let word = if begins { pid | tenths_since_boot() << 32 } else { 0 };
        self.region().commit(at + EXECUTING, word, MustFence::nothing())
    }

    /// Whether the holder of a lock is becoming another program, which will take the lock over.
    pub(crate) fn is_executing(&self, record: &Record) -> Result<bool> {
        let word = self.region().load(record.at + EXECUTING)?;
        Ok(word != 0 && tenths_since_boot().saturating_sub(word >> 32) < EXECUTION_LONGEST)
    }

    /// Hands the locks on an inode, which is locked, that this process had as its program before to the present one.
    pub(crate) fn inherit_records(&self, inode: InodeId, heir: Holder) -> Result<()> {
        self.find_record(inode, |record| {
            if record.holder.class == LockClass::Process && self.is_executing(record)? && self.was_ours(record.at)? {
                self.region().commit(record.at, heir.word(HELD, record.exclusive), MustFence::nothing())?;
                self.region().commit(record.at + EXECUTING, 0, MustFence::nothing())?;
            }
            Ok(None::<()>)
        })
        .map(|_| ())
    }

    fn was_ours(&self, at: u64) -> Result<bool> {
        let pid = rustix::process::getpid().as_raw_nonzero().get() as u32;
        Ok(self.region().load(at + EXECUTING)? as u32 == pid)
    }

    /// Inodes of the locks that this process had as its program before.
    pub(crate) fn each_inheritance(&self, mut each: impl FnMut(InodeId) -> Result<()>) -> Result<()> {
        for index in 0..self.records_used()? {
            let at = self.record_at(index)?;
            if self.region().load(at)? & STATE == HELD && self.was_ours(at)? {
                each(InodeId::from_word(self.region().load(at + INODE)?))?;
            }
        }
        Ok(())
    }

    /// Says that somebody waits for a change of the inode's locks; what to sleep on. The inode is locked.
    pub(crate) fn announce_waiter(&self, inode: InodeId) -> Result<u32> {
        let word = self.field(inode, inode::FILE_LOCKS)? | SOMEBODY_WAITS;
        self.set(inode, inode::FILE_LOCKS, word)?;
        Ok(word as u32)
    }

    /// Wakes those who wait for a change of the inode's locks. The inode is locked.
    pub(crate) fn wake_waiters(&self, inode: InodeId) -> Result<()> {
        let word = self.field(inode, inode::FILE_LOCKS)?;
        if word & SOMEBODY_WAITS == 0 {
            return Ok(());
        }
        self.set(inode, inode::FILE_LOCKS, word & !SOMEBODY_WAITS)?;
        sleep::wake_all(self.region(), inode.at() + inode::FILE_LOCKS)
    }

    /// Makes a taken record say that `holder` waits for the lock with word 0 `blocker`.
    pub(crate) fn begin_wait(&self, at: u64, holder: Holder, inode: InodeId, blocker: u64) -> Result<()> {
        self.region().commit(at + INODE, inode.to_word(), MustFence::nothing())?;
        self.region().commit(at + WAITS_FOR, blocker, MustFence::nothing())?;
        self.region().commit(at, holder.word(WAITING, false), MustFence::nothing())
    }

    /// For whom `holder` waits, if it does: word 0 of the lock's record.
    pub(crate) fn waits_for(&self, holder: Holder) -> Result<Option<u64>> {
        let wanted = holder.word(WAITING, false);
        for index in 0..self.records_used()? {
            let at = self.record_at(index)?;
            if self.region().load(at)? == wanted {
                return Ok(Some(self.region().load(at + WAITS_FOR)?));
            }
        }
        Ok(None)
    }

    fn records_used(&self) -> Result<u64> {
        high_water::read(self.region(), FILE_LOCK_HIGH_WATER, self.region().geometry().file_locks)
    }

    /// Every record of `holder`: its offset, its inode, and whether it only waits.
    pub(crate) fn each_record_of(
        &self,
        holder: Holder,
        mut each: impl FnMut(u64, InodeId, bool) -> Result<()>,
    ) -> Result<()> {
        for index in 0..self.records_used()? {
            let at = self.record_at(index)?;
            let word = self.region().load(at)?;
            if word & STATE >= HELD && Holder::of_word(word) == Ok(holder) {
                each(at, InodeId::from_word(self.region().load(at + INODE)?), word & STATE == WAITING)?;
            }
        }
        Ok(())
    }

    /// Frees a record that belongs to an inode which is gone, if it is still what `holder` had.
    pub(crate) fn forget_record(&self, at: u64, holder: Holder) -> Result<()> {
        let word = self.region().load(at)?;
        if word & STATE >= HELD && Holder::of_word(word)? == holder {
            self.region().commit_exchange(at, word, FREE, MustFence::nothing())?;
        }
        Ok(())
    }
}
