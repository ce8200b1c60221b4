//! Length, allocation, and making durable.

use crate::answer::{give, number};
use crate::{call, descriptors, limits, path, state};
use core::ffi::{c_char, c_int, c_uint};
use libc::{off_t, size_t};
use lifeboat_fs::{Errno, LastLink, OpenFile, Result};

fn length(length: off_t) -> Result<u64> {
    u64::try_from(length).map_err(|_| Errno::INVAL)
}

pub(super) fn allocate(file: OpenFile, mode: c_int, offset: off_t, count: off_t) -> Result<()> {
    // Answers EBADF for a descriptor opened with O_PATH.
    call::data(|file_system| file_system.sync(file))?;
    let mode = u32::try_from(mode).map_err(|_| Errno::OPNOTSUPP)?;
    let offset = length(offset)?;
    let count = length(count).and_then(|count| if count == 0 { Err(Errno::INVAL) } else { Ok(count) })?;
    if mode & libc::FALLOC_FL_PUNCH_HOLE as u32 == 0 {
        limits::check_growth(file, offset.saturating_add(count))?;
    }
    call::call(|file_system, _| file_system.allocate(file, mode, offset, count))
}

fn synchronise(file: OpenFile) -> c_int {
    give(call::call(|file_system, _| file_system.sync(file)))
}

hooks! {
    fn ftruncate(descriptor: c_int, to: off_t) -> c_int, also ftruncate64 {
        match descriptors::find(descriptor) {
            None => next(descriptor, to),
            Some(file) => {
                let cut = |to| {
                    limits::check_growth(file, to)?;
                    call::call(|file_system, _| file_system.truncate_open(file, to))
                };
                give(length(to).and_then(cut))
            }
        }
    }

    fn truncate(name: *const c_char, to: off_t) -> c_int, also truncate64 {
        path::on_inode(
            libc::AT_FDCWD,
            name,
            LastLink::Follow,
            |_, name| next(name, to),
            |file_system, who, inode| {
                let to = length(to)?;
                limits::check_growth_of(file_system, inode, to)?;
                file_system.claim_known(inode, None)?;
                file_system.truncate(who, inode, to)
            },
        )
    }

    fn fallocate(descriptor: c_int, mode: c_int, offset: off_t, count: off_t) -> c_int, also fallocate64 {
        match descriptors::find(descriptor) {
            None => next(descriptor, mode, offset, count),
            Some(file) => give(allocate(file, mode, offset, count)),
        }
    }

    fn posix_fallocate(descriptor: c_int, offset: off_t, count: off_t) -> c_int, also posix_fallocate64 {
        match descriptors::find(descriptor) {
            None => next(descriptor, offset, count),
            Some(file) => number(allocate(file, 0, offset, count)),
        }
    }

    fn posix_fadvise(descriptor: c_int, offset: off_t, count: off_t, advice: c_int) -> c_int, also posix_fadvise64 {
        match descriptors::find(descriptor) {
            None => next(descriptor, offset, count, advice),
            Some(_) if !(0..=5).contains(&advice) || count < 0 => libc::EINVAL,
            Some(_) => 0,
        }
    }

    fn readahead(descriptor: c_int, offset: off_t, count: size_t) -> isize {
        match descriptors::find(descriptor) {
            None => next(descriptor, offset, count),
            Some(_) => 0,
        }
    }

    fn fsync(descriptor: c_int) -> c_int {
        match descriptors::find(descriptor) {
            None => next(descriptor),
            Some(file) => synchronise(file),
        }
    }

    fn fdatasync(descriptor: c_int) -> c_int {
        match descriptors::find(descriptor) {
            None => next(descriptor),
            Some(file) => synchronise(file),
        }
    }

    fn sync_file_range(descriptor: c_int, offset: off_t, count: off_t, flags: c_uint) -> c_int {
        match descriptors::find(descriptor) {
            None => next(descriptor, offset, count, flags),
            Some(file) => synchronise(file),
        }
    }

    fn syncfs(descriptor: c_int) -> c_int {
        match descriptors::find(descriptor) {
            None => next(descriptor),
            Some(file) => synchronise(file),
        }
    }
}

/// Notes a limit that may have been changed for this process.
fn limited(answer: c_int) -> c_int {
    if answer == 0 && state::attached() && !state::borrows_memory() {
        limits::note();
    }
    answer
}

hooks! {
    fn setrlimit(resource: c_int, limit: *const libc::rlimit) -> c_int, also setrlimit64 {
        limited(next(resource, limit))
    }

    fn prlimit(
        process: libc::pid_t,
        resource: c_int,
        limit: *const libc::rlimit,
        before: *mut libc::rlimit,
    ) -> c_int, also prlimit64 {
        limited(next(process, resource, limit, before))
    }
}
