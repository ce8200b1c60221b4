//! Files mapped into this process: pieces of the region, in one address range per mapping.
//!
//! The kernel knows such a range as a mapping of the region, so reads, writes, protection and forks need no hook. What
//! is kept here is which ranges pin which blocks, so that unmapping gives the blocks back.

use crate::{signals, state};
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use lifeboat_fs::{Errno, FileSystem, OpenFile, Piece, Pin, Result};
use lifeboat_region::layout::EXTENT;
use lifeboat_region::process;
use rustix::fd::AsRawFd;

/// Most mappings of a process at a time.
const MAPPINGS_MAX: usize = 4096;

const PAGE: usize = 4096;

/// The C signature of `mmap`.
pub type Map = fn(*mut c_void, usize, c_int, c_int, c_int, libc::off_t) -> *mut c_void;

/// One mapping.
struct Entry {
    start: usize,
    /// Bytes of address range.
    length: usize,
    /// Bytes of it that are still mapped.
    left: usize,
    /// Byte of the file at its start.
    offset: u64,
    /// Flags that bring further pages into it, and by what.
    flags: c_int,
    map: Map,
    pin: Pin,
    /// Held for a child that is about to be forked.
    copy: Option<Pin>,
}

struct Table(UnsafeCell<[Option<Entry>; MAPPINGS_MAX]>);

// SAFETY: reached only through `locked`, which lets one thread of a process in at a time.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([const { None }; MAPPINGS_MAX]));

/// Mappings in the table: when there are none, unmapping costs one load.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The process that is changing the table; 0 when nobody is.
static LOCK: AtomicU32 = AtomicU32::new(0);

fn locked<R>(use_it: impl FnOnce(&mut [Option<Entry>; MAPPINGS_MAX]) -> R) -> R {
    let _held = signals::hold();
    let own = state::own_pid();
    while let Err(holder) = LOCK.compare_exchange_weak(0, own, Ordering::Acquire, Ordering::Relaxed) {
        // A thread of the parent held it when this process was forked: it does not exist here.
        if holder != 0
            && holder != own
            && LOCK.compare_exchange(holder, own, Ordering::Acquire, Ordering::Relaxed).is_ok()
        {
            break;
        }
        rustix::thread::sched_yield();
    }
    // SAFETY: this thread holds the lock.
    let result = use_it(unsafe { &mut *TABLE.0.get() });
    LOCK.store(0, Ordering::Release);
    result
}

/// Whether any file of ours is mapped.
#[inline(always)]
pub fn any() -> bool {
    COUNT.load(Ordering::Relaxed) != 0
}

/// What is asked of `mmap`.
#[derive(Clone, Copy)]
pub struct Wish {
    /// Where, or a hint.
    pub address: *mut c_void,
    /// Bytes.
    pub length: usize,
    /// `PROT_*`.
    pub protection: c_int,
    /// `MAP_*`.
    pub flags: c_int,
    /// The placeholder.
    pub descriptor: c_int,
    /// Byte in the file.
    pub offset: libc::off_t,
}

/// Maps a file of ours, by `map` for every address range that changes.
pub fn map(file: OpenFile, wish: Wish, map: Map) -> Result<*mut c_void> {
    let file_system = state::file_system()?;
    let offset =
        u64::try_from(wish.offset).ok().filter(|offset| offset.is_multiple_of(PAGE as u64)).ok_or(Errno::INVAL)?;
    // The placeholder is an empty file with the right access mode: mapping it first lets the kernel check all that it
    // would check of a file, and leaves the bus error that belongs behind the end of one.
    let base = map(wish.address, wish.length, wish.protection, wish.flags, wish.descriptor, wish.offset);
    if base == libc::MAP_FAILED {
        return Err(Errno::from_raw_os_error(crate::answer::errno()));
    }
    let length = wish.length.next_multiple_of(PAGE);
    removed(base as usize, length);
    let shared = wish.flags & libc::MAP_TYPE != libc::MAP_PRIVATE;
    let kept = wish.flags & (libc::MAP_NORESERVE | libc::MAP_POPULATE | libc::MAP_LOCKED);
    let flags = kept | libc::MAP_FIXED | if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    let writable = shared && wish.protection & libc::PROT_WRITE != 0;
    let mut refused = None;
    let held = signals::hold();
    let pinned = file_system.map(file, offset, length as u64, writable, &mut |piece| {
        let within = piece.file_offset.saturating_sub(offset) as usize;
        let inside = within < length && piece.length as usize <= length - within;
        if !inside || refused.is_some() {
            refused = refused.or(Some(Errno::UCLEAN));
            return;
        }
        refused = show(&file_system, base as usize + within, &piece, wish.protection, flags, map).err();
    });
    drop(held);
    let kept = match (pinned, refused) {
        (Ok(pin), None) => {
            keep(Entry { start: base as usize, length, left: length, offset, flags, map, pin, copy: None })
        }
        (Ok(pin), Some(error)) => file_system.unmap(pin).and(Err(error)),
        (Err(error), _) => Err(error),
    };
    match kept {
        Ok(()) => Ok(base),
        Err(error) => {
            let unmap = libc_function!(c"munmap", fn(*mut c_void, usize) -> c_int);
            unmap(base, length);
            Err(error)
        }
    }
}

/// Maps a run of the region at `address`.
fn show(
    file_system: &FileSystem,
    address: usize,
    piece: &Piece,
    protection: c_int,
    flags: c_int,
    map: Map,
) -> Result<()> {
    let length = piece.length as usize;
    let place = || {
        let region = file_system.region().file().as_raw_fd();
        map(address as *mut c_void, length, protection, flags, region, piece.region_offset as i64)
    };
    let mut mapped = place();
    if mapped == libc::MAP_FAILED
        && crate::answer::errno() == libc::EBADF
        && crate::descriptors::restore_file(file_system)
    {
        mapped = place();
    }
    if mapped != libc::MAP_FAILED {
        return Ok(());
    }
    Err(match Errno::from_raw_os_error(crate::answer::errno()) {
        // The pages of the region are larger than the pieces of files.
        Errno::INVAL => Errno::NODEV,
        error => error,
    })
}

fn keep(entry: Entry) -> Result<()> {
    let rejected = locked(|table| match table.iter_mut().find(|place| place.is_none()) {
        Some(place) => {
            *place = Some(entry);
            COUNT.fetch_add(1, Ordering::Relaxed);
            None
        }
        None => Some(entry),
    });
    match rejected {
        None => Ok(()),
        Some(entry) => {
            if let Ok(file_system) = state::file_system() {
                let _ = file_system.unmap(entry.pin);
            }
            Err(Errno::NOMEM)
        }
    }
}

/// Bytes that two ranges have in common.
fn common(entry: &Entry, start: usize, length: usize) -> usize {
    let end = entry.start.saturating_add(entry.length).min(start.saturating_add(length));
    end.saturating_sub(entry.start.max(start))
}

/// After `[start, start + length)` was unmapped or covered by something else: pins of mappings that are gone entirely
/// are given back.
pub fn removed(start: usize, length: usize) {
    if !any() || state::borrows_memory() {
        return;
    }
    let length = length.next_multiple_of(PAGE);
    loop {
        let gone = locked(|table| {
            for place in table.iter_mut() {
                let Some(entry) = place else { continue };
                let lost = common(entry, start, length);
                if lost == 0 {
                    continue;
                }
                entry.left = entry.left.saturating_sub(lost);
                if entry.left == 0 {
                    COUNT.fetch_sub(1, Ordering::Relaxed);
                    return place.take().map(Some);
                }
                trim(entry, start, length);
            }
            None
        });
        match gone.flatten() {
            Some(entry) => {
                if let Ok(file_system) = state::file_system() {
                    let _held = signals::hold();
                    let _ = file_system.unmap(entry.pin);
                }
            }
            None => return,
        }
    }
}

/// Takes a lost head or tail off an entry's range, so that what comes to lie there later is not counted as ours. A hole
/// in the middle is only counted.
fn trim(entry: &mut Entry, start: usize, length: usize) {
    let (from, to) = (entry.start, entry.start + entry.length);
    let end = start.saturating_add(length);
    if start <= from {
        entry.offset += (end.min(to) - from) as u64;
        entry.start = end.min(to);
        entry.length = to - entry.start;
    } else if end >= to {
        entry.length = start - from;
    }
}

/// Whether any byte of the range belongs to a file of ours.
pub fn overlaps(start: usize, length: usize) -> bool {
    any() && locked(|table| table.iter().flatten().any(|entry| common(entry, start, length) != 0))
}

/// After a mapping was moved.
pub fn moved(from: usize, length: usize, to: usize) {
    locked(|table| {
        for entry in table.iter_mut().flatten() {
            if common(entry, from, length) != 0 {
                entry.start = entry.start.wrapping_sub(from).wrapping_add(to);
            }
        }
    });
}

/// A page of one of our mappings behind which there is nothing yet.
#[derive(Clone, Copy)]
struct Late {
    start: usize,
    length: usize,
    offset: u64,
    flags: c_int,
    map: Map,
    pin: Pin,
}

fn find_late(address: usize) -> Option<Late> {
    locked(|table| {
        let entry = table.iter().flatten().find(|entry| common(entry, address, 1) != 0)?;
        let Entry { start, length, offset, flags, map, pin, .. } = *entry;
        Some(Late { start, length, offset, flags, map, pin })
    })
}

/// After a bus error at `address`: shows what the file has there by now, which are bytes that it has grown by or a hole that
/// was left out. False when the bus error is the program's: behind the end of the file, or where there is no room.
pub fn show_late(address: usize) -> bool {
    if !any() || state::borrows_memory() {
        return false;
    }
    let (Some(late), Ok(file_system)) = (find_late(address), state::file_system()) else { return false };
    // Only the placeholder's own pages are covered, never what the program has put into the range since. (Another thread that
    // does so at this very moment to pages next to these races with this one as with any page fault.)
    let Some(empty) = process::range_around(address) else { return false };
    let page = address - address % PAGE;
    let first = late.offset + (page - late.start) as u64;
    let extent_start = page.saturating_sub((first % EXTENT) as usize);
    let from = extent_start.max(empty.start).max(late.start);
    let to = (page - (first % EXTENT) as usize + EXTENT as usize).min(empty.end).min(late.start + late.length);
    let offset = late.offset + (from - late.start) as u64;
    let mut shown = true;
    let _held = signals::hold();
    let further = file_system.map_further(late.pin, offset, (to - from) as u64, &mut |piece| {
        let at = from + piece.file_offset.saturating_sub(offset) as usize;
        let inside = at >= from && at.checked_add(piece.length as usize).is_some_and(|end| end <= to);
        shown &= inside && show(&file_system, at, &piece, empty.protection, late.flags, late.map).is_ok();
    });
    // The page itself may still be behind the end.
    further.is_ok_and(|count| count > 0) && shown && is_within(&file_system, late.pin, first)
}

fn is_within(file_system: &FileSystem, pin: Pin, offset: u64) -> bool {
    file_system.size_of_pinned(pin).is_ok_and(|size| offset < size)
}

/// Holds what is mapped a second time, for a child that is about to be forked.
pub fn before_fork() {
    if !any() {
        return;
    }
    let Ok(file_system) = state::file_system() else { return };
    locked(|table| {
        for entry in table.iter_mut().flatten() {
            entry.copy = file_system.copy_pin(entry.pin).ok();
        }
    });
}

/// In the parent: the child has what was held for it, if there is one.
pub fn after_fork_in_parent(forked: bool) {
    if !any() {
        return;
    }
    let Ok(file_system) = state::file_system() else { return };
    locked(|table| {
        for copy in table.iter_mut().flatten().filter_map(|entry| entry.copy.take()) {
            if !forked {
                let _ = file_system.unmap(copy);
            }
        }
    });
}

/// In the child: makes its own what the parent held for it. What another thread mapped in the moment of the fork, and
/// everything where libc did not fork, is held from now on.
pub fn adopt(file_system: &FileSystem) {
    if !any() {
        return;
    }
    locked(|table| {
        for place in table.iter_mut() {
            let Some(entry) = place else { continue };
            let adopted = match entry.copy.take() {
                Some(copy) => file_system.adopt_pin(copy),
                None => file_system.copy_pin(entry.pin),
            };
            match adopted {
                Ok(pin) => entry.pin = pin,
                Err(_) => {
                    *place = None;
                    COUNT.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
    });
}
