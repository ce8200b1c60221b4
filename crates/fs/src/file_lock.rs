//! Locks of programs on files: `flock`, and the record locks of processes and of open files. Meanings are those of
//! `fcntl(2)` and `flock(2)` on Linux.
//!
//! Invariants: two locks that conflict are never held at once by holders that live; a lock of a process goes with the
//! process, or when it closes any descriptor of the file; a lock of an open file goes with the last descriptor of it.
//! What a dead holder left is found when it is in somebody's way, so nobody waits for the dead.

use crate::file_lock_table::{Holder, Record};
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId};
use crate::open_file::{OpenFile, reads, writes};
use crate::{Errno, Result};
use core::sync::atomic::Ordering;
use lifeboat_region::image::{self, Image};
use lifeboat_region::lane::Lane;
use lifeboat_region::layout::FILE_LOCK_WAITS;
use lifeboat_region::sleep::{self, Woken};
use rustix::fs::OFlags;

pub use crate::file_lock_table::LockClass;

/// Last byte of a lock that reaches to the end of the file, wherever that will be.
pub const LOCK_TO_END: u64 = i64::MAX as u64;

/// How far a chain of processes that wait for each other is followed.
const DEADLOCK_LONGEST: usize = 64;

/// A lock that is wanted.
#[derive(Clone, Copy, Debug)]
pub struct LockRequest {
    /// Whose it will be.
    pub class: LockClass,
    /// Whether nobody else may have one.
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// Last byte; [`LOCK_TO_END`] for all that follow.
    pub end: u64,
}

/// A lock that is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldLock {
    /// Whether nobody else may have one.
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// Process that holds it; -1 when an open file does.
    pub pid: i32,
}

/// What an attempt came to.
enum Attempt {
    Done,
    /// In the way, and what to sleep on.
    Blocked(Record, u32),
}

fn conflicts(record: &Record, holder: Holder, request: &LockRequest) -> bool {
    let same_family = (record.holder.class == LockClass::Whole) == (request.class == LockClass::Whole);
    same_family
        && record.holder != holder
        && (record.exclusive || request.exclusive)
        && record.start <= request.end
        && request.start <= record.end
}

/// A lock that somebody tries to get. Dropping it ends the attempt; a lock that it got stays.
pub struct LockWish<'f> {
    fs: &'f FileSystem,
    inode: InodeId,
    holder: Holder,
    request: LockRequest,
    /// The record that says for whom we wait.
    waiting: Option<u64>,
    /// Value of the word to sleep on.
    unchanged: u32,
}

impl LockWish<'_> {
    /// Tries to get the lock; true when it is held now. With `wait`, false means: [`LockWish::sleep`], then try again.
    ///
    /// # Errors
    /// `DEADLK` when the holder of what is in the way waits for this process; `NOLCK` when all records are in use.
    pub fn attempt(&mut self, wait: bool) -> Result<bool> {
        loop {
            match self.fs.try_to_lock(self.inode, self.holder, &self.request, wait)? {
                Attempt::Done => return Ok(true),
                Attempt::Blocked(blocker, unchanged) => {
                    if self.fs.bury(self.inode, &blocker)? {
                        continue;
                    }
                    if wait && self.request.class == LockClass::Process {
                        self.fs.wait_in_line(self.inode, self.holder, &blocker, &mut self.waiting)?;
                    }
                    self.unchanged = unchanged;
                    return Ok(false);
                }
            }
        }
    }

    /// Sleeps until something about the file's locks changes, or 50 ms are over.
    ///
    /// # Errors
    /// `INTR` when a signal was handled that does not restart calls.
    pub fn sleep(&self) -> Result<()> {
        let at = self.inode.at() + inode::FILE_LOCKS;
        match sleep::while_unchanged_restarting(self.fs.region(), at, self.unchanged)? {
            Woken::Interrupted => Err(Errno::INTR),
            _ => Ok(()),
        }
    }
}

impl Drop for LockWish<'_> {
    fn drop(&mut self) {
        if let Some(at) = self.waiting {
            // Only a damaged region could refuse, and then the record is as good as lost.
            let _ = self.fs.forget_record(at, self.holder);
        }
    }
}

impl FileSystem {
    fn holder_for(&self, file: OpenFile, class: LockClass) -> Result<Holder> {
        match class {
            LockClass::Process => Ok(Holder::process(image::own(self.region())?)),
            _ => Ok(Holder { class, number: file.0 as u16, generation: self.generation_of(file)? }),
        }
    }

    fn lockable(&self, file: OpenFile, class: LockClass, exclusive: bool) -> Result<InodeId> {
        let (_, flags) = self.flags(file)?;
        let allowed = match class {
            LockClass::Whole => !flags.contains(OFlags::PATH),
            _ if exclusive => writes(flags),
            _ => reads(flags),
        };
        if allowed { self.inode_of(file) } else { Err(Errno::BADF) }
    }

    /// Takes a lock. What the same holder has in the range already is changed to the kind wanted.
    ///
    /// # Errors
    /// Those of [`FileSystem::wish_for_lock`] and [`LockWish::attempt`]; `AGAIN` when another's lock is in the way and
    /// `wait` is false; `INTR` when a signal ended the wait.
    pub fn lock_file(&self, file: OpenFile, request: &LockRequest, wait: bool) -> Result<()> {
        let mut wish = self.wish_for_lock(file, request)?;
        while !wish.attempt(wait)? {
            if !wait {
                return Err(Errno::AGAIN);
            }
            wish.sleep()?;
        }
        Ok(())
    }

    /// The first step towards a lock, for callers that must do something before and after they sleep.
    ///
    /// # Errors
    /// `BADF` when the file is not open for reading (a shared lock) or writing (an exclusive one).
    pub fn wish_for_lock(&self, file: OpenFile, request: &LockRequest) -> Result<LockWish<'_>> {
        let inode = self.lockable(file, request.class, request.exclusive)?;
        let holder = self.holder_for(file, request.class)?;
        if request.class == LockClass::Process {
            self.process_locks.store(true, Ordering::Relaxed);
        }
        Ok(LockWish { fs: self, inode, holder, request: *request, waiting: None, unchanged: 0 })
    }

    fn try_to_lock(&self, inode: InodeId, holder: Holder, request: &LockRequest, wait: bool) -> Result<Attempt> {
        let lane = self.lane()?;
        self.lock_inode(&lane, inode)?;
        let file = OpenFile(holder.number as u32);
        let is_open = || self.generation_of(file) == Ok(holder.generation) && self.inode_of(file) == Ok(inode);
        // Closed meanwhile, it would keep the lock for whatever has its number next.
        if request.class != LockClass::Process && !is_open() {
            return Err(Errno::BADF);
        }
        if request.class == LockClass::Whole {
            // As `flock` does: a lock of the other kind is given up before the new one is waited for.
            let other_kind = |record: &Record| record.holder == holder && record.exclusive != request.exclusive;
            self.remove_where(&lane, inode, other_kind)?;
        }
        let blocker = self.find_record(inode, |record| Ok(conflicts(record, holder, request).then_some(*record)))?;
        match blocker {
            Some(blocker) => {
                let unchanged = if wait { self.announce_waiter(inode)? } else { 0 };
                Ok(Attempt::Blocked(blocker, unchanged))
            }
            None => self.place(&lane, inode, holder, request).map(|()| Attempt::Done),
        }
    }

    /// Enters the lock, joined with what the holder has of the same kind, then cuts the rest of his out of its range.
    fn place(&self, lane: &Lane<'_>, inode: InodeId, holder: Holder, request: &LockRequest) -> Result<()> {
        let (mut start, mut end) = (request.start, request.end);
        loop {
            let touches = |record: &Record| {
                record.holder == holder
                    && record.exclusive == request.exclusive
                    && record.start <= end.saturating_add(1)
                    && start <= record.end.saturating_add(1)
                    && (record.start < start || record.end > end)
            };
            let joined = self.find_record(inode, |record| Ok(touches(record).then_some((record.start, record.end))))?;
            match joined {
                Some((low, high)) => (start, end) = (start.min(low), end.max(high)),
                None => break,
            }
        }
        let covered = |record: &Record| {
            record.holder == holder
                && record.exclusive == request.exclusive
                && (record.start, record.end) == (start, end)
        };
        if self.find_record(inode, |record| Ok(covered(record).then_some(())))?.is_some() {
            return Ok(());
        }
        let spare = self.take_record(lane)?;
        let at = match self.take_record(lane) {
            Ok(at) => at,
            Err(error) => {
                self.return_record(spare)?;
                return Err(error);
            }
        };
        self.insert_record(lane, inode, at, (holder, request.exclusive), (start, end))?;
        self.cut(lane, inode, holder, (start, end), Some(at), spare)
    }

    /// Takes a range out of the holder's locks, but for the record `except`. `spare` is a taken record, in case that one
    /// becomes two.
    fn cut(
        &self,
        lane: &Lane<'_>,
        inode: InodeId,
        holder: Holder,
        (start, end): (u64, u64),
        except: Option<u64>,
        spare: u64,
    ) -> Result<()> {
        let mut spare = Some(spare);
        let concerned = |record: &Record| {
            record.holder == holder && Some(record.at) != except && record.start <= end && start <= record.end
        };
        while let Some(record) = self.find_record(inode, |record| Ok(concerned(record).then_some(*record)))? {
            match (record.start < start, record.end > end) {
                (false, false) => self.remove_record(lane, inode, &record)?,
                (true, false) => self.resize_record(lane, inode, &record, record.start, start - 1)?,
                (false, true) => self.resize_record(lane, inode, &record, end + 1, record.end)?,
                (true, true) => {
                    let rest = spare.take().ok_or(Errno::NOLCK)?;
                    self.insert_record(lane, inode, rest, (holder, record.exclusive), (end + 1, record.end))?;
                    self.resize_record(lane, inode, &record, record.start, start - 1)?;
                }
            }
        }
        if let Some(unused) = spare {
            self.return_record(unused)?;
        }
        self.wake_waiters(inode)
    }

    /// Gives up what the holder has of `[start, end]`; nothing is fine, too.
    ///
    /// # Errors
    /// `BADF` for an `O_PATH` file; `NOLCK` when a lock would become two and all records are in use.
    pub fn unlock_file(&self, file: OpenFile, class: LockClass, start: u64, end: u64) -> Result<()> {
        let (_, flags) = self.flags(file)?;
        if flags.contains(OFlags::PATH) {
            return Err(Errno::BADF);
        }
        let inode = self.inode_of(file)?;
        if !self.has_file_locks(inode)? {
            return Ok(());
        }
        let holder = self.holder_for(file, class)?;
        let lane = self.lane()?;
        self.lock_inode(&lane, inode)?;
        let spare = self.take_record(&lane)?;
        self.cut(&lane, inode, holder, (start, end), None, spare)
    }

    /// The first lock that would be in the way, without taking anything.
    ///
    /// # Errors
    /// `BADF` for an `O_PATH` file.
    pub fn find_file_lock(&self, file: OpenFile, request: &LockRequest) -> Result<Option<HeldLock>> {
        let holder = self.holder_for(file, request.class)?;
        self.first_lock(file, |record| conflicts(record, holder, request))
    }

    /// The first lock that the open file itself has in the range of `request`.
    ///
    /// # Errors
    /// `BADF` for an `O_PATH` file.
    pub fn find_own_lock(&self, file: OpenFile, request: &LockRequest) -> Result<Option<HeldLock>> {
        let holder = self.holder_for(file, request.class)?;
        self.first_lock(file, |record| {
            record.holder == holder && record.start <= request.end && request.start <= record.end
        })
    }

    fn first_lock(&self, file: OpenFile, wanted: impl Fn(&Record) -> bool) -> Result<Option<HeldLock>> {
        let inode = self.lockable(file, LockClass::Whole, false)?;
        loop {
            let lane = self.lane()?;
            self.lock_inode(&lane, inode)?;
            let found = self.find_record(inode, |record| Ok(wanted(record).then_some(*record)))?;
            drop(lane);
            let Some(record) = found else { return Ok(None) };
            if self.bury(inode, &record)? {
                continue;
            }
            let pid = match record.holder.image() {
                Some(image) => image::holder(self.region(), image.slot)?.pid as i32,
                None => -1,
            };
            return Ok(Some(HeldLock { exclusive: record.exclusive, start: record.start, end: record.end, pid }));
        }
    }

    /// Whether this process ever asked for a lock of its own on a file.
    pub fn has_process_locks(&self) -> bool {
        self.process_locks.load(Ordering::Relaxed)
    }

    /// This process closes a descriptor of the inode: all locks that it has there as a process go.
    pub fn release_process_locks(&self, inode: InodeId) -> Result<()> {
        if !self.process_locks.load(Ordering::Relaxed) || !self.has_file_locks(inode)? {
            return Ok(());
        }
        self.release_locks_of(inode, Holder::process(image::own(self.region())?))
    }

    fn release_locks_of(&self, inode: InodeId, holder: Holder) -> Result<()> {
        let lane = self.lane()?;
        self.lock_inode(&lane, inode)?;
        self.remove_where(&lane, inode, |record| record.holder == holder)
    }

    /// Removes locks of the inode, which `lane` has locked.
    pub(crate) fn remove_where(
        &self,
        lane: &Lane<'_>,
        inode: InodeId,
        mut doomed: impl FnMut(&Record) -> bool,
    ) -> Result<()> {
        let mut any = false;
        while let Some(record) = self.find_record(inode, |record| Ok(doomed(record).then_some(*record)))? {
            self.remove_record(lane, inode, &record)?;
            any = true;
        }
        if any { self.wake_waiters(inode) } else { Ok(()) }
    }

    /// Removes what an open file holds on its inode, which `lane` has locked.
    pub(crate) fn remove_locks_of_open_file(
        &self,
        lane: &Lane<'_>,
        inode: InodeId,
        file: u32,
        generation: u16,
    ) -> Result<()> {
        if !self.has_file_locks(inode)? {
            return Ok(());
        }
        self.remove_where(lane, inode, |record| {
            record.holder.class != LockClass::Process
                && (record.holder.number as u32, record.holder.generation) == (file, generation)
        })
    }

    /// Removes the locks of a holder that is gone; tells whether it was.
    fn bury(&self, inode: InodeId, record: &Record) -> Result<bool> {
        let holder = record.holder;
        let gone = match holder.image() {
            Some(_) if self.is_executing(record)? => false,
            Some(image) => image != image::own(self.region())? && !image::is_alive(self.region(), image)?,
            None => {
                let file = OpenFile(holder.number as u32);
                let other = self.generation_of(file) != Ok(holder.generation);
                // Closing it removes its locks.
                if !other && self.reap_one(file, None)? {
                    return Ok(true);
                }
                other
            }
        };
        if gone {
            self.release_locks_of(inode, holder)?;
        }
        Ok(gone)
    }

    /// Says for whom this process waits, unless that would close a ring.
    fn wait_in_line(&self, inode: InodeId, holder: Holder, blocker: &Record, waiting: &mut Option<u64>) -> Result<()> {
        let lane = self.lane()?;
        lane.lock(FILE_LOCK_WAITS, self)?;
        if blocker.holder.class == LockClass::Process {
            let mut next = blocker.holder;
            for _ in 0..DEADLOCK_LONGEST {
                let Some(word) = self.waits_for(next)? else { break };
                next = Holder::of_word(word)?;
                if next == holder {
                    return Err(Errno::DEADLK);
                }
            }
        }
        let at = match *waiting {
            Some(at) => at,
            None => *waiting.insert(self.take_record(&lane)?),
        };
        self.begin_wait(at, holder, inode, blocker.word())
    }

    /// What a dead image held as a process, but for what its next program will take over. False when an inode is left
    /// because somebody has it locked: its locks are found when they are in the way, or at the next look.
    pub(crate) fn settle_file_locks(&self, dead: Image) -> Result<bool> {
        let holder = Holder::process(dead);
        let mut settled = true;
        self.each_record_of(holder, |at, inode, waits| {
            let lane = self.lane()?;
            match self.try_lock_inode(&lane, inode) {
                _ if waits => self.forget_record(at, holder),
                Err(Errno::STALE) => self.forget_record(at, holder),
                Err(error) => Err(error),
                Ok(false) => {
                    settled = false;
                    Ok(())
                }
                Ok(true) => self.remove_where(&lane, inode, |record| {
                    record.holder == holder && !self.is_executing(record).unwrap_or(false)
                }),
            }
        })?;
        Ok(settled)
    }

    /// This process is about to execute another program (`begins`), or could not: its locks wait for the next program.
    /// Costs a load when it never asked for a lock.
    pub fn hand_on_process_locks(&self, begins: bool) -> Result<()> {
        if !self.process_locks.load(Ordering::Relaxed) {
            return Ok(());
        }
        let own = Holder::process(image::own(self.region())?);
        self.each_record_of(own, |at, _, waits| if waits { Ok(()) } else { self.note_execution(at, begins) })
    }

    /// After a program was executed: takes over the locks that the process had, and gives up those on files of which
    /// it has no descriptor any more.
    pub fn inherit_process_locks(&self, has_descriptor: &dyn Fn(InodeId) -> bool) -> Result<()> {
        self.each_inheritance(|inode| {
            self.process_locks.store(true, Ordering::Relaxed);
            let own = Holder::process(image::own(self.region())?);
            let lane = self.lane()?;
            match self.lock_inode(&lane, inode) {
                Err(Errno::STALE) => return Ok(()),
                locked => locked?,
            }
            self.inherit_records(inode, own)?;
            if has_descriptor(inode) { Ok(()) } else { self.remove_where(&lane, inode, |record| record.holder == own) }
        })
    }
}
