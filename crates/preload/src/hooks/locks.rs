//! Advisory locks: `flock`, `lockf` and the lock commands of `fcntl`. They are kept in the region, so they hold between
//! all processes that see the mount; the placeholder's own kernel lock says whether the file is open and is left alone.

use crate::answer::give;
use crate::{descriptors, signals, state, user};
use core::ffi::c_int;
use lifeboat_fs::{Errno, FileSystem, LOCK_TO_END, LockClass, LockRequest, OpenFile, Result};

/// The lock commands of `fcntl`.
pub(super) const LOCK_COMMANDS: [c_int; 6] =
    [libc::F_GETLK, libc::F_SETLK, libc::F_SETLKW, libc::F_OFD_GETLK, libc::F_OFD_SETLK, libc::F_OFD_SETLKW];

/// Takes a lock; signals are held back but while it sleeps.
fn acquire(file_system: &FileSystem, file: OpenFile, request: &LockRequest, wait: bool) -> Result<()> {
    let mut held = signals::hold();
    let mut wish = file_system.wish_for_lock(file, request)?;
    while !wish.attempt(wait)? {
        if !wait {
            return Err(Errno::AGAIN);
        }
        let interrupted = held.will_interrupt();
        drop(held);
        let slept = if interrupted { Err(Errno::INTR) } else { wish.sleep() };
        held = signals::hold();
        slept?;
    }
    Ok(())
}

fn release(file_system: &FileSystem, file: OpenFile, class: LockClass, range: (u64, u64)) -> Result<()> {
    let _held = signals::hold();
    file_system.unlock_file(file, class, range.0, range.1)
}

fn lock_whole(file: OpenFile, operation: c_int) -> Result<()> {
    let file_system = state::file_system()?;
    let wait = operation & libc::LOCK_NB == 0;
    let exclusive = match operation & !libc::LOCK_NB {
        libc::LOCK_SH => false,
        libc::LOCK_EX => true,
        libc::LOCK_UN => return release(&file_system, file, LockClass::Whole, (0, LOCK_TO_END)),
        _ => return Err(Errno::INVAL),
    };
    let request = LockRequest { class: LockClass::Whole, exclusive, start: 0, end: LOCK_TO_END };
    acquire(&file_system, file, &request, wait)
}

/// First and last byte that a `struct flock` means.
fn range_of(file_system: &FileSystem, file: OpenFile, lock: &libc::flock) -> Result<(u64, u64)> {
    let base = match lock.l_whence as c_int {
        libc::SEEK_SET => 0,
        libc::SEEK_CUR => file_system.seek(file, 0, libc::SEEK_CUR as u32)?,
        libc::SEEK_END => file_system.stat(file_system.inode_of(file)?)?.size,
        _ => return Err(Errno::INVAL),
    };
    let start = i64::try_from(base).ok().and_then(|base| base.checked_add(lock.l_start)).ok_or(Errno::OVERFLOW)?;
    let (start, end) = match lock.l_len {
        0 => (start, i64::MAX),
        length if length > 0 => (start, start.checked_add(length - 1).ok_or(Errno::OVERFLOW)?),
        length => (start.checked_add(length).ok_or(Errno::INVAL)?, start - 1),
    };
    match u64::try_from(start) {
        Ok(first) if end >= start => Ok((first, end as u64)),
        _ => Err(Errno::INVAL),
    }
}

fn is_exclusive(kind: libc::c_short) -> Result<bool> {
    match kind as c_int {
        libc::F_RDLCK => Ok(false),
        libc::F_WRLCK => Ok(true),
        _ => Err(Errno::INVAL),
    }
}

fn find_conflict(file: OpenFile, class: LockClass, asked: libc::flock) -> Result<libc::flock> {
    // As Linux since 6.6: asking an open file about no kind of lock tells of its own.
    let own = class == LockClass::OpenFile && asked.l_type as c_int == libc::F_UNLCK;
    let exclusive = !own && is_exclusive(asked.l_type)?;
    let file_system = state::file_system()?;
    let _held = signals::hold();
    let (start, end) = range_of(&file_system, file, &asked)?;
    let request = LockRequest { class, exclusive, start, end };
    let mut told = asked;
    let found = match own {
        true => file_system.find_own_lock(file, &request)?,
        false => file_system.find_file_lock(file, &request)?,
    };
    match found {
        None => told.l_type = libc::F_UNLCK as _,
        Some(lock) => {
            told.l_type = if lock.exclusive { libc::F_WRLCK } else { libc::F_RDLCK } as _;
            told.l_whence = libc::SEEK_SET as _;
            told.l_start = lock.start as i64;
            told.l_len = if lock.end == LOCK_TO_END { 0 } else { (lock.end - lock.start + 1) as i64 };
            told.l_pid = lock.pid;
        }
    }
    Ok(told)
}

fn change(file: OpenFile, class: LockClass, asked: &libc::flock, wait: bool) -> Result<()> {
    let file_system = state::file_system()?;
    let (start, end) = range_of(&file_system, file, asked)?;
    if asked.l_type as c_int == libc::F_UNLCK {
        return release(&file_system, file, class, (start, end));
    }
    let request = LockRequest { class, exclusive: is_exclusive(asked.l_type)?, start, end };
    acquire(&file_system, file, &request, wait)
}

/// A lock command of `fcntl` on a file of ours.
pub(super) fn control(file: OpenFile, command: c_int, argument: *mut libc::flock) -> Result<()> {
    if state::file_system()?.flags_of(file)? & libc::O_PATH != 0 {
        return Err(Errno::BADF);
    }
    let asked = user::get(argument)?;
    let class = match command {
        libc::F_GETLK | libc::F_SETLK | libc::F_SETLKW => LockClass::Process,
        _ if asked.l_pid != 0 => return Err(Errno::INVAL),
        _ => LockClass::OpenFile,
    };
    match command {
        libc::F_GETLK | libc::F_OFD_GETLK => user::put(argument, &find_conflict(file, class, asked)?),
        _ => change(file, class, &asked, command == libc::F_SETLKW || command == libc::F_OFD_SETLKW),
    }
}

/// As libc's `lockf`: record locks of the process, from the file's position on.
fn lock_from_here(file: OpenFile, command: c_int, length: libc::off_t) -> Result<()> {
    // SAFETY: all zeros are a valid `struct flock`.
    let mut asked: libc::flock = unsafe { core::mem::zeroed() };
    asked.l_whence = libc::SEEK_CUR as _;
    asked.l_len = length;
    asked.l_type = libc::F_WRLCK as _;
    match command {
        libc::F_LOCK | libc::F_TLOCK => change(file, LockClass::Process, &asked, command == libc::F_LOCK),
        libc::F_ULOCK => {
            asked.l_type = libc::F_UNLCK as _;
            change(file, LockClass::Process, &asked, false)
        }
        libc::F_TEST => {
            asked.l_type = libc::F_RDLCK as _;
            match find_conflict(file, LockClass::Process, asked)?.l_type as c_int {
                libc::F_UNLCK => Ok(()),
                _ => Err(Errno::ACCESS),
            }
        }
        _ => Err(Errno::INVAL),
    }
}

hooks! {
    fn flock(descriptor: c_int, operation: c_int) -> c_int {
        match descriptors::find(descriptor) {
            None => next(descriptor, operation),
            Some(file) => give(lock_whole(file, operation)),
        }
    }

    fn lockf(descriptor: c_int, command: c_int, length: libc::off_t) -> c_int, also lockf64 {
        match descriptors::find(descriptor) {
            None => next(descriptor, command, length),
            Some(file) => give(lock_from_here(file, command, length)),
        }
    }
}
