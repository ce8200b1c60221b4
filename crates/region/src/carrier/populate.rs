//! Reserving every page of a new file in steps, never past what memory allows.
//!
//! As long as there is plenty, all workers of a crew reserve at once, each in the part of the file that is to lie on its memory node: a page
//! lies where it is first touched. The rest, and all where little more is left, is one process's, step by step with a look at the limits
//! before each.

use core::sync::atomic::{AtomicU64, Ordering};

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::mm::ProtFlags;
use rustix::process::Resource;

use super::SIZE_STEP;
use super::crew::Crew;
use super::error::CreateError;
use super::pages::{PageReport, Window};
use crate::budget::{self, MIB};
use crate::layout::{MEMORY_NODES_LARGEST, memory_part};
use crate::place::{PathText, ShownPath};

/// Reserved between two looks at the limits.
const STEP: u64 = 64 * MIB;
/// The same when little more than the region is left.
const STEP_NEAR_LIMIT: u64 = 8 * MIB;
/// What "little more" is.
const NEAR_LIMIT: u64 = 512 * MIB;

/// How to ask for (free, total) space of the file system that takes the pages; `None` when only memory limits.
pub(super) type FreeSpace<'a> = Option<&'a (dyn Fn() -> Option<(u64, u64)> + Sync)>;

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
    crew: &mut dyn Crew,
) -> Result<PageReport, CreateError> {
    let nodes = crew.nodes().clamp(1, MEMORY_NODES_LARGEST);
    let next = core::array::from_fn(|node| AtomicU64::new(memory_part(size, nodes, (node as u32).min(nodes)).start));
    let filling = Filling { file, path, size, finish, free, nodes, next, done: AtomicU64::new(0) };
    crew.tell(0, size);
    let huge = filling.all_at_once(crew)? + filling.step_by_step(crew)?;
    Ok(PageReport { huge, total: filling.done.load(Ordering::Relaxed) })
}

/// A file that is being filled.
struct Filling<'f> {
    file: BorrowedFd<'f>,
    path: &'f PathText,
    size: u64,
    finish: Finish,
    free: FreeSpace<'f>,
    nodes: u32,
    /// Where the next piece of each node's part begins.
    next: [AtomicU64; MEMORY_NODES_LARGEST as usize],
    done: AtomicU64,
}

impl Filling<'_> {
    /// What the crew does together; answers the bytes that got huge pages. All use one mapping of the whole file: to map pieces would mean to
    /// wait for each other's pages. Without address space for that nothing is done here.
    fn all_at_once(&self, crew: &mut dyn Crew) -> Result<u64, CreateError> {
        let workers = crew.workers() as u64;
        let window = match workers {
            0..=1 => return Ok(0),
            _ => Window::new(self.file, 0, self.size as usize, ProtFlags::READ | ProtFlags::WRITE),
        };
        let Ok(window) = window else { return Ok(0) };
        let done = || self.done.load(Ordering::Relaxed);
        crew.all_at_once(&|node| self.while_there_is_plenty(node, workers, &window), &done, self.size)?;
        if self.finish == Finish::AsReserved {
            return Ok(done());
        }
        if window.huge_bytes() != Some(done()) {
            for (node, next) in (0..self.nodes).zip(&self.next) {
                let start = memory_part(self.size, self.nodes, node).start;
                window.collapse(start as usize..next.load(Ordering::Relaxed) as usize);
            }
        }
        // Without an answer of the kernel nothing is promised.
        Ok(window.huge_bytes().unwrap_or(0))
    }

    /// One of `workers`: fills pieces of its node's part, until they are done or so little memory would be left that what the others have in
    /// hand matters.
    fn while_there_is_plenty(&self, node: u32, workers: u64, window: &Window) -> Result<(), CreateError> {
        let enough = NEAR_LIMIT + workers * STEP;
        loop {
            let left = self.size - self.done.load(Ordering::Relaxed);
            let is_plenty = match self.finish {
                Finish::HugeAndFilled => check_memory(left, self.free).is_ok_and(|beyond| beyond >= enough),
                Finish::AsReserved => true,
            };
            match is_plenty.then(|| self.take(node, STEP)).flatten() {
                Some((offset, length)) => {
                    reserve(self.file, self.path, offset, length, self.size)?;
                    if self.finish == Finish::HugeAndFilled {
                        let filled = window.fill(offset as usize..(offset + length) as usize);
                        filled.map_err(|errno| CreateError::Failed {
                            doing: "fill",
                            path: ShownPath::of(self.path),
                            errno,
                        })?;
                    }
                    self.done.fetch_add(length, Ordering::Relaxed);
                }
                None => return Ok(()),
            }
        }
    }

    /// All that is left; answers the bytes that got huge pages.
    fn step_by_step(&self, crew: &mut dyn Crew) -> Result<u64, CreateError> {
        let mut huge = 0;
        for node in 0..self.nodes {
            loop {
                let left = self.size - self.done.load(Ordering::Relaxed);
                let step = match self.finish {
                    Finish::HugeAndFilled if left > 0 && check_memory(left, self.free)? < NEAR_LIMIT => STEP_NEAR_LIMIT,
                    Finish::HugeAndFilled | Finish::AsReserved => STEP,
                };
                let Some((offset, length)) = self.take(node, step) else { break };
                reserve(self.file, self.path, offset, length, self.size)?;
                huge += match self.finish {
                    Finish::HugeAndFilled => fill(self.file, self.path, offset, length)?,
                    Finish::AsReserved => length,
                };
                self.done.fetch_add(length, Ordering::Relaxed);
                crew.tell(self.done.load(Ordering::Relaxed), self.size);
            }
        }
        Ok(huge)
    }

    /// The next piece of a node's part.
    fn take(&self, node: u32, step: u64) -> Option<(u64, u64)> {
        let end = memory_part(self.size, self.nodes, node).end;
        let following = |at: u64| (at < end).then(|| end.min(at + step));
        let next = self.next.get(node as usize)?;
        let at = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, following).ok()?;
        Some((at, end.min(at + step) - at))
    }
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
    window.fill(0..length as usize).map_err(wrong)?;
    if window.huge_bytes() != Some(length) {
        window.collapse(0..length as usize);
    }
    // Without an answer of the kernel nothing is promised.
    Ok(window.huge_bytes().unwrap_or(0))
}
