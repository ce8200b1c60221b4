//! Reserving every page of a new file in steps, never past what memory allows.

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::mm::ProtFlags;
use rustix::process::Resource;

use super::SIZE_STEP;
use super::error::CreateError;
use super::pages::{PageReport, Window};
use crate::budget::{self, MIB};
use crate::place::{PathText, ShownPath};

/// Reserved between two looks at the limits.
const STEP: u64 = 64 * MIB;
/// The same when little more than the region is left.
const STEP_NEAR_LIMIT: u64 = 8 * MIB;
/// What "little more" is.
const NEAR_LIMIT: u64 = 512 * MIB;

/// How to ask for (free, total) space of the file system that takes the pages; `None` when only memory limits.
pub(super) type FreeSpace<'a> = Option<&'a dyn Fn() -> Option<(u64, u64)>>;

/// Free space of the file system that `file` is on; `None` when it has no limit.
pub(super) fn free_space(file: BorrowedFd<'_>) -> Option<(u64, u64)> {
    let found = rustix::fs::fstatvfs(file).ok()?;
    (found.f_blocks > 0).then(|| (found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize))
}

/// Checks everything that can be known before the first page.
pub(super) fn check_before(size: u64, free: FreeSpace<'_>) -> Result<(), CreateError> {
    if size == 0 || !size.is_multiple_of(SIZE_STEP) {
        return Err(CreateError::Size(size));
    }
    check_file_size(size)?;
    check_memory(size, free).map(|_| ())
}

/// Fails if this process may not make a file that large: the kernel would send SIGXFSZ, which kills.
pub(super) fn check_file_size(size: u64) -> Result<(), CreateError> {
    match rustix::process::getrlimit(Resource::Fsize).current {
        Some(limit) if size > limit => Err(CreateError::FileSizeLimit { limit, needed: size }),
        _ => Ok(()),
    }
}

/// Fails if `needed` bytes more are too many; else answers how many could be reserved beyond them.
fn check_memory(needed: u64, free: FreeSpace<'_>) -> Result<u64, CreateError> {
    let available = match free.and_then(|ask| ask()) {
        Some((free, total)) => budget::available_on(free, total),
        None => budget::available(),
    };
    available.check(needed)?;
    Ok(available.usable() - needed)
}

/// What is done with every step of a new file after its pages are reserved.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    /// Try to get 2 MiB pages, give every page its zeros, and see what came of it.
    HugeAndFilled,
    /// Nothing: the kernel reserves zero-filled huge pages here, which were set aside before and are no memory that
    /// could run out.
    AsReserved,
}

/// Reserves all `size` bytes of `file`.
pub(super) fn populate(
    file: BorrowedFd<'_>,
    path: &PathText,
    size: u64,
    finish: Finish,
    free: FreeSpace<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<PageReport, CreateError> {
    let mut report = PageReport::default();
    let mut done = 0;
    progress(done, size);
    while done < size {
        let step = match finish {
            Finish::HugeAndFilled if check_memory(size - done, free)? < NEAR_LIMIT => STEP_NEAR_LIMIT,
            Finish::HugeAndFilled | Finish::AsReserved => STEP,
        };
        let length = step.min(size - done);
        reserve(file, path, done, length, size)?;
        report.huge += match finish {
            Finish::HugeAndFilled => fill(file, path, done, length)?,
            Finish::AsReserved => length,
        };
        report.total += length;
        done += length;
        progress(done, size);
    }
    Ok(report)
}

fn reserve(file: BorrowedFd<'_>, path: &PathText, offset: u64, length: u64, size: u64) -> Result<(), CreateError> {
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), offset, length) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::NOSPC | Errno::NOMEM) => {
                return Err(CreateError::NoSpace { path: ShownPath::of(path), done: offset, needed: size });
            }
            Err(errno) => return Err(CreateError::Failed { doing: "reserve", path: ShownPath::of(path), errno }),
        }
    }
}

/// Returns the bytes that got huge pages.
fn fill(file: BorrowedFd<'_>, path: &PathText, offset: u64, length: u64) -> Result<u64, CreateError> {
    let wrong = |errno| CreateError::Failed { doing: "map", path: ShownPath::of(path), errno };
    let window =
        Window::new(file.as_fd(), offset, length as usize, ProtFlags::READ | ProtFlags::WRITE).map_err(wrong)?;
    // Content first: huge pages that were only reserved would be mapped by the collapse as they are, and be cleared at
    // somebody's first touch after all.
    window.fill().map_err(wrong)?;
    if window.huge_bytes() != Some(length) {
        window.collapse();
    }
    // Without an answer of the kernel nothing is promised.
    Ok(window.huge_bytes().unwrap_or(0))
}
