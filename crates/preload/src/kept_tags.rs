//! Placeholders that are kept for the next open file: to open one costs more than everything else that an `open` does.
//!
//! A kept placeholder is one more descriptor, out of the way, of the open file description that a descriptor of the program had.
//! When the region gives the same number of an open file again, which it is asked to do, the program's new descriptor is a
//! duplicate of it.
//!
//! What must hold:
//! - Whether an open file is held is a question to the kernel, and a kept description would answer it. So one is kept only for
//!   open files that one descriptor stands for, which are closed without that question. Whatever may come to share
//!   the description (a duplicate, a fork, a descriptor that is sent) ends the keeping first; a fork that is under way when
//!   something begins to be kept is seen ([`sharing::Moment`]).
//! - While no open file uses it, it holds none: its lock is given up before it is kept.
//! - Numbers may be closed behind the library, and be another file's by now: what is duplicated is looked at before it is used,
//!   and what is closed before it is closed. The offset of a placeholder is one that no other file has.
//! - An open file's number is used again only so often, so that its generations do not come round sooner than the numbers do.

use crate::tags::OFFSET;
use crate::{descriptors, sharing, state};
use core::sync::atomic::{AtomicU64, Ordering};
use lifeboat_fs::{Errno, OpenFile, Result};
use lifeboat_region::tags::{hold, let_go};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::SeekFrom;

/// How many are kept at most.
const KEPT: usize = 8;
/// Their numbers: below those of the library's own descriptors.
const FIRST_NUMBER: i32 = 984;
/// Open files of one number in a row.
const USES_MAX: u64 = 1024;

/// A place: state in bits 0..2, access mode in 2..4, uses in 8..24, number of the open file in 32..64.
static PLACES: [AtomicU64; KEPT] = [const { AtomicU64::new(EMPTY) }; KEPT];

const STATE: u64 = 3;
/// Nothing is kept here.
const EMPTY: u64 = 0;
/// Somebody is about to change what is kept here.
const BUSY: u64 = 1;
/// The number is the program's, or beyond its limit.
const REFUSED: u64 = BUSY | 1 << 8;
/// Waits for the next open file of its number.
const IDLE: u64 = 2;
/// The program has a descriptor of it.
const LENT: u64 = 3;

fn word(state: u64, file: OpenFile, access: i32, uses: u64) -> u64 {
    state | (access as u64 & 3) << 2 | uses << 8 | (file.0 as u64) << 32
}

fn file_of(word: u64) -> OpenFile {
    OpenFile((word >> 32) as u32)
}

fn uses_of(word: u64) -> u64 {
    word >> 8 & 0xffff
}

/// The number of the descriptor that belongs to a place.
fn number(index: usize) -> i32 {
    FIRST_NUMBER + index as i32
}

fn borrow(number: i32) -> BorrowedFd<'static> {
    // SAFETY: not -1; whether it is open is the kernel's to say, and nothing is taken for granted of what it is.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Whether a descriptor is of a placeholder.
fn is_placeholder(descriptor: impl AsFd) -> bool {
    rustix::fs::seek(descriptor, SeekFrom::Current(0)) == Ok(OFFSET)
}

/// Whether the number of a place is of a placeholder that the program has no part in.
fn is_ours(index: usize) -> bool {
    !descriptors::is_tabled(number(index)) && is_placeholder(borrow(number(index)))
}

/// Takes a place whose word says so; `None` when nothing is there or somebody else is faster.
fn take(place: &AtomicU64, wanted: impl Fn(u64) -> bool) -> Option<u64> {
    let word = place.load(Ordering::SeqCst);
    let taken = wanted(word) && place.compare_exchange(word, BUSY, Ordering::SeqCst, Ordering::Relaxed).is_ok();
    taken.then_some(word)
}

/// Closes what a place keeps, which was taken, if it is still what was kept.
fn empty(index: usize, place: &AtomicU64) {
    if is_ours(index) {
        // SAFETY: a duplicate that `keep` made, for which nothing else stands.
        drop(unsafe { OwnedFd::from_raw_fd(number(index)) });
    }
    place.store(EMPTY, Ordering::SeqCst);
}

/// A descriptor of the kept placeholder of this open file, if there is one that was opened with this access mode. It holds the
/// open file of this generation.
pub fn lend(file: OpenFile, generation: u16, access: i32, close_on_exec: bool) -> Option<OwnedFd> {
    if state::borrows_memory() {
        return None;
    }
    let is_meant = |word: u64| word & STATE == IDLE && file_of(word) == file && (word >> 2 & 3) as i32 == access;
    let (index, place, kept) =
        PLACES.iter().enumerate().find_map(|(index, place)| take(place, is_meant).map(|kept| (index, place, kept)))?;
    let duplicate = || {
        if descriptors::is_tabled(number(index)) {
            return Err(Errno::BADF);
        }
        let kept = borrow(number(index));
        if close_on_exec { rustix::io::fcntl_dupfd_cloexec(kept, 0) } else { dup(kept) }
    };
    let lent = duplicate().ok().filter(|lent| is_placeholder(lent));
    match lent.filter(|lent| hold(lent, generation, access == libc::O_WRONLY).is_ok()) {
        Some(lent) => {
            place.store(word(LENT, file, access, uses_of(kept) + 1), Ordering::SeqCst);
            Some(lent)
        }
        None => {
            empty(index, place);
            None
        }
    }
}

fn dup(kept: BorrowedFd<'_>) -> Result<OwnedFd> {
    let dup = libc_function!(c"fcntl", fn(libc::c_int, libc::c_int, libc::c_int) -> libc::c_int);
    match dup(kept.as_raw_fd(), libc::F_DUPFD, 0) {
        -1 => Err(Errno::from_raw_os_error(crate::answer::errno())),
        // SAFETY: a new descriptor, which is nobody else's.
        number => Ok(unsafe { OwnedFd::from_raw_fd(number) }),
    }
}

/// The open file that one descriptor stands for is about to be closed, with that descriptor: keeps its placeholder. True when it is kept, and
/// nothing holds the open file any more once the program's descriptor is closed.
pub fn keep(file: OpenFile, generation: u16, descriptor: BorrowedFd<'_>, access: i32) -> bool {
    let before = sharing::Moment::now();
    let of_this = |word: u64| word & STATE == LENT && file_of(word) == file;
    let lent = PLACES.iter().enumerate().find_map(|(index, place)| Some((index, place, take(place, of_this)?)));
    let (index, place, kept) = match lent {
        Some(lent) => lent,
        None => match begin(descriptor) {
            Some((index, place)) => (index, place, word(LENT, file, access, 0)),
            None => return false,
        },
    };
    if uses_of(kept) >= USES_MAX || let_go(descriptor, generation).is_err() {
        empty(index, place);
        return false;
    }
    place.store(kept & !STATE | IDLE, Ordering::SeqCst);
    if before.may_be_before_a_fork() {
        forget(file);
        return false;
    }
    true
}

/// Takes an empty place and duplicates the descriptor to its number.
fn begin(descriptor: BorrowedFd<'_>) -> Option<(usize, &'static AtomicU64)> {
    let (index, place) = PLACES.iter().enumerate().find(|(_, place)| take(place, |word| word == EMPTY).is_some())?;
    match rustix::io::fcntl_dupfd_cloexec(descriptor, number(index)) {
        // It may have been closed behind us, and be another file's by now.
        Ok(kept) if !is_placeholder(&kept) => {
            drop(kept);
            place.store(EMPTY, Ordering::SeqCst);
            None
        }
        Ok(kept) if kept.as_raw_fd() == number(index) => {
            core::mem::forget(kept);
            Some((index, place))
        }
        _ => {
            place.store(REFUSED, Ordering::SeqCst);
            None
        }
    }
}

/// Another descriptor of this open file may exist from now on.
pub fn forget(file: OpenFile) {
    for (index, place) in PLACES.iter().enumerate() {
        if take(place, |word| word & STATE >= IDLE && file_of(word) == file).is_some() {
            empty(index, place);
        }
    }
}

/// Every open file may come to be shared, or numbers are short.
pub fn forget_all() {
    for (index, place) in PLACES.iter().enumerate() {
        if take(place, |word| word & STATE >= IDLE).is_some() {
            empty(index, place);
        }
    }
}

/// In the child of a fork: what other threads of its parent were about to do is not done here.
pub fn after_fork() {
    for (index, place) in PLACES.iter().enumerate() {
        if !matches!(place.load(Ordering::Relaxed), EMPTY | REFUSED) {
            empty(index, place);
        }
    }
}

/// The program closes or replaces this number: it is its own from now on.
pub fn make_way(descriptor: i32) {
    let Some(index) = descriptor.checked_sub(FIRST_NUMBER).and_then(|index| usize::try_from(index).ok()) else {
        return;
    };
    let Some(place) = PLACES.get(index).filter(|_| !state::borrows_memory()) else { return };
    if take(place, |word| word & STATE >= IDLE || word == REFUSED).is_some() {
        empty(index, place);
    }
}
