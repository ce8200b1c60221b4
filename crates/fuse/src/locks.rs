//! Record locks (`fcntl`), shared with intercepted programs.
//!
//! The kernel hands on whose a lock is as a number: one for each process, or for each open file (`F_OFD_SETLK`). Here each
//! such owner has an open file of its own in the region, whose locks conflict with all others'. It is closed, and its
//! locks with it, when the kernel tells that the owner has closed a descriptor of the file, or when the file through which
//! the owner locked is gone.
//!
//! Whoever must wait does so in a thread of its own. The kernel does not tell of signals, so that thread looks whether
//! the waiting process has one to act on. Rings of waiting owners are found here; an intercepted program in one is not
//! seen.

use crate::deadlock::Waits;
use crate::service::{CHECKED_ROOT, Service, errno};
use fuser::{ReplyEmpty, ReplyLock};
use lifeboat_fs::{Errno, FileSystem, InodeId, LockClass, LockRequest, OpenFile, Result};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// More wait for locks than a machine has processes.
const WAITERS_LARGEST: usize = 4096;
/// Waiting needs little.
const WAITER_STACK: usize = 256 << 10;
/// Signals that stop a process, for which a wait is not ended.
const STOPPING: [i32; 4] = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// An owner of locks on one file.
#[derive(Debug)]
struct Owner {
    /// The open file whose locks they are.
    file: OpenFile,
    /// The process that asked last.
    pid: u32,
    /// The open files through which it asked.
    through: Vec<OpenFile>,
}

/// All owners, by inode and the kernel's number.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    owners: Mutex<HashMap<(InodeId, u64), Owner>>,
    waiters: AtomicUsize,
    waits: Waits,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) id: InodeId,
    pub(crate) through: OpenFile,
    pub(crate) owner: u64,
    pub(crate) pid: u32,
    /// First and last byte.
    pub(crate) range: (u64, u64),
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub(crate) kind: i32,
}

impl Asked {
    fn request(&self) -> LockRequest {
        let (start, end) = self.range;
        LockRequest { class: LockClass::OpenFile, exclusive: self.kind == libc::F_WRLCK, start, end }
    }
}

impl Locks {
    fn owners(&self) -> MutexGuard<'_, HashMap<(InodeId, u64), Owner>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open file that stands for the owner; made when it has none.
    fn file_of(&self, files: &FileSystem, asked: &Asked) -> Result<OpenFile> {
        let mut owners = self.owners();
        if let Some(owner) = owners.get_mut(&(asked.id, asked.owner)) {
            owner.pid = asked.pid;
            if !owner.through.contains(&asked.through) {
                owner.through.push(asked.through);
            }
            return Ok(owner.file);
        }
        // Opened for writing it would take the seal off.
        let access = if files.stat(asked.id)?.sealed { libc::O_RDONLY } else { libc::O_RDWR };
        let file = files.open_inode(&CHECKED_ROOT, asked.id, access)?;
        let owner = Owner { file, pid: asked.pid, through: vec![asked.through] };
        owners.insert((asked.id, asked.owner), owner);
        Ok(file)
    }

    /// The owner has closed a descriptor of the inode: all its locks there go.
    pub(crate) fn drop_owner(&self, files: &FileSystem, id: InodeId, owner: u64) -> Result<()> {
        let found = self.owners().remove(&(id, owner));
        found.map_or(Ok(()), |owner| files.close(owner.file))
    }

    /// The open file is gone: so are the owners who locked through it.
    pub(crate) fn drop_through(&self, files: &FileSystem, id: InodeId, file: OpenFile) -> Result<()> {
        let mut gone = Vec::new();
        self.owners().retain(|(inode, _), owner| {
            let goes = *inode == id && owner.through.contains(&file);
            if goes {
                gone.push(owner.file);
            }
            !goes
        });
        gone.into_iter().try_for_each(|file| files.close(file))
    }

    /// Who of the others here holds a lock of exactly this range: the kernel's number, and the process.
    fn holder(&self, files: &FileSystem, asked: &Asked, request: &LockRequest) -> Option<(u64, u32)> {
        let owners = self.owners();
        let mut others = owners.iter().filter(|((inode, owner), _)| *inode == asked.id && *owner != asked.owner);
        others.find_map(|((_, number), owner)| {
            let held = files.find_own_lock(owner.file, request).ok()??;
            ((held.start, held.end) == (request.start, request.end)).then_some((*number, owner.pid))
        })
    }

    /// Whose lock is in the way of what was asked, if that is somebody here.
    fn blocker(&self, files: &FileSystem, asked: &Asked) -> Option<u64> {
        let file = self.owners().get(&(asked.id, asked.owner))?.file;
        let held = files.find_file_lock(file, &asked.request()).ok()??;
        let exact = LockRequest { start: held.start, end: held.end, ..asked.request() };
        self.holder(files, asked, &exact).map(|(owner, _)| owner)
    }

    /// Waits until the owner has the lock. `DEADLK` when whom it waits for waits for it.
    fn wait(&self, files: &FileSystem, file: OpenFile, asked: &Asked) -> Result<()> {
        let mut wish = files.wish_for_lock(file, &asked.request())?;
        let noted = self.waits.of(asked.owner);
        while !wish.attempt(true)? {
            if is_called_away(asked.pid) {
                return Err(Errno::INTR);
            }
            if !noted.may_wait(asked, &|asked| self.blocker(files, asked)) {
                return Err(Errno::DEADLK);
            }
            wish.sleep()?;
        }
        Ok(())
    }
}

impl Service {
    /// `F_GETLK`.
    pub(crate) fn find_lock(&self, asked: &Asked, reply: ReplyLock) {
        let known = self.locks.owners().get(&(asked.id, asked.owner)).map(|owner| owner.file);
        match self.files.find_file_lock(known.unwrap_or(asked.through), &asked.request()) {
            Ok(None) => reply.locked(asked.range.0, asked.range.1, libc::F_UNLCK, 0),
            Ok(Some(held)) => {
                let exact = LockRequest { start: held.start, end: held.end, ..asked.request() };
                let other = u32::try_from(held.pid).unwrap_or(0);
                let pid = self.locks.holder(&self.files, asked, &exact).map_or(other, |(_, pid)| pid);
                let kind = if held.exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
                reply.locked(held.start, held.end, kind, pid);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    /// `F_SETLK`, and with `wait` `F_SETLKW`.
    pub(crate) fn set_lock(&self, asked: &Asked, wait: bool, reply: ReplyEmpty) {
        match self.try_lock(asked) {
            Ok(()) => reply.ok(),
            Err(Errno::AGAIN) if wait => self.wait_for_lock(*asked, reply),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn try_lock(&self, asked: &Asked) -> Result<()> {
        if asked.kind == libc::F_UNLCK {
            let known = self.locks.owners().get(&(asked.id, asked.owner)).map(|owner| owner.file);
            let (start, end) = asked.range;
            return known.map_or(Ok(()), |file| self.files.unlock_file(file, LockClass::OpenFile, start, end));
        }
        let file = self.locks.file_of(&self.files, asked)?;
        match self.files.lock_file(file, &asked.request(), false) {
            // The kernel has seen that the caller may; the seal does not let us.
            Err(Errno::BADF) => Err(Errno::NOLCK),
            other => other,
        }
    }

    fn wait_for_lock(&self, asked: Asked, reply: ReplyEmpty) {
        let (files, locks) = (Arc::clone(&self.files), Arc::clone(&self.locks));
        if locks.waiters.fetch_add(1, Ordering::SeqCst) >= WAITERS_LARGEST {
            locks.waiters.fetch_sub(1, Ordering::SeqCst);
            return reply.error(fuser::Errno::ENOLCK);
        }
        let waiter = std::thread::Builder::new().name("waits for a lock".into()).stack_size(WAITER_STACK);
        let started = waiter.spawn(move || {
            let got = locks.file_of(&files, &asked).and_then(|file| locks.wait(&files, file, &asked));
            locks.waiters.fetch_sub(1, Ordering::SeqCst);
            match got {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
        // Its closure, and the reply in it, was dropped, which answers with an error.
        if started.is_err() {
            self.locks.waiters.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Whether the process has a signal to act on, or is gone.
fn is_called_away(pid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    signals_waiting(&status)
}

fn signals_waiting(status: &str) -> bool {
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("");
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap_or(0)
    };
    let stopping = STOPPING.iter().fold(0, |all, signal| all | 1 << (signal - 1));
    (set("SigPnd") | set("ShdPnd")) & !(set("SigBlk") | set("SigIgn") | stopping) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_signals_that_are_acted_on_end_a_wait() {
        let status = |pending: u64, shared: u64, blocked: u64, ignored: u64| {
            format!(
                "Name:\tx\nSigQ:\t0/1\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\n"
            )
        };
        let (kill, alarm) = (1 << (libc::SIGKILL - 1), 1 << (libc::SIGALRM - 1));
        assert!(signals_waiting(&status(kill, 0, 0, 0)));
        assert!(signals_waiting(&status(0, alarm, 0, 0)));
        assert!(!signals_waiting(&status(0, alarm, alarm, 0)));
        assert!(!signals_waiting(&status(alarm, 0, 0, alarm)));
        assert!(!signals_waiting(&status(0, 1 << (libc::SIGTSTP - 1), 0, 0)));
        assert!(!signals_waiting(&status(0, 0, 0, 0)));
        assert!(is_called_away(0x3fff_ffff));
    }
}
