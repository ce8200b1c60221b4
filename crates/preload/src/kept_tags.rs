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
use lifeboat_fs::OpenFile;
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

/// A place that nobody else changes, and what it said.
struct Taken {
    index: usize,
    place: &'static AtomicU64,
    word: u64,
}

impl Taken {
    fn leave(&self, word: u64) {
        self.place.store(word, Ordering::SeqCst);
    }

    /// Closes what the place keeps, if it is still what was kept.
    fn empty(&self) {
        if is_ours(self.index) {
            // SAFETY: a duplicate that `keep` made, for which nothing else stands.
            drop(unsafe { OwnedFd::from_raw_fd(number(self.index)) });
        }
        self.leave(EMPTY);
    }
}

/// Takes the place if its word says so; `None` also when somebody else is faster.
fn take_at(index: usize, wanted: &impl Fn(u64) -> bool) -> Option<Taken> {
    let place = PLACES.get(index)?;
    let word = place.load(Ordering::SeqCst);
    let taken = wanted(word) && place.compare_exchange(word, BUSY, Ordering::SeqCst, Ordering::Relaxed).is_ok();
    taken.then_some(Taken { index, place, word })
}

/// Takes the first place whose word says so.
fn take(wanted: impl Fn(u64) -> bool) -> Option<Taken> {
    (0..KEPT).find_map(|index| take_at(index, &wanted))
}

/// Empties all places whose words say so.
fn empty_all(wanted: impl Fn(u64) -> bool) {
    (0..KEPT).filter_map(|index| take_at(index, &wanted)).for_each(|taken| taken.empty());
}

/// A descriptor of the kept placeholder of this open file, if there is one that was opened with this access mode. It holds the
/// open file of this generation.
pub fn lend(file: OpenFile, generation: u16, access: i32, close_on_exec: bool) -> Option<OwnedFd> {
    if state::borrows_memory() {
        return None;
    }
    let is_meant = |word: u64| word & STATE == IDLE && file_of(word) == file && (word >> 2 & 3) as i32 == access;
    let kept = take(is_meant)?;
    let lent = duplicate(kept.index, close_on_exec);
    match lent.filter(|lent| is_placeholder(lent) && hold(lent, generation, access == libc::O_WRONLY).is_ok()) {
        Some(lent) => {
            kept.leave(word(LENT, file, access, uses_of(kept.word) + 1));
            Some(lent)
        }
        None => {
            kept.empty();
            None
        }
    }
}

fn duplicate(index: usize, close_on_exec: bool) -> Option<OwnedFd> {
    if descriptors::is_tabled(number(index)) {
        return None;
    }
    let kept = borrow(number(index));
    let duplicate = if close_on_exec { rustix::io::fcntl_dupfd_cloexec(kept, 0) } else { rustix::io::dup(kept) };
    duplicate.ok()
}

/// The open file that one descriptor stands for is about to be closed, with that descriptor: keeps its placeholder. True when it is kept, and
/// nothing holds the open file any more once the program's descriptor is closed.
pub fn keep(file: OpenFile, generation: u16, descriptor: BorrowedFd<'_>, access: i32) -> bool {
    let before = sharing::Moment::now();
    let of_this = |word: u64| word & STATE == LENT && file_of(word) == file;
    let lent =
        take(of_this).or_else(|| begin(descriptor).map(|taken| Taken { word: word(LENT, file, access, 0), ..taken }));
    let Some(lent) = lent else { return false };
    if uses_of(lent.word) >= USES_MAX || let_go(descriptor, generation).is_err() {
        lent.empty();
        return false;
    }
    lent.leave(lent.word & !STATE | IDLE);
    if before.may_be_before_a_fork() {
        forget(file);
        return false;
    }
    true
}

/// Takes an empty place and duplicates the descriptor to its number.
fn begin(descriptor: BorrowedFd<'_>) -> Option<Taken> {
    let taken = take(|word| word == EMPTY)?;
    match rustix::io::fcntl_dupfd_cloexec(descriptor, number(taken.index)) {
        // It may have been closed behind us, and be another file's by now.
        Ok(kept) if !is_placeholder(&kept) => {
            drop(kept);
            taken.leave(EMPTY);
            None
        }
        Ok(kept) if kept.as_raw_fd() == number(taken.index) => {
            core::mem::forget(kept);
            Some(taken)
        }
        _ => {
            taken.leave(REFUSED);
            None
        }
    }
}

/// Another descriptor of this open file may exist from now on.
pub fn forget(file: OpenFile) {
    empty_all(|word| word & STATE >= IDLE && file_of(word) == file);
}

/// Every open file may come to be shared, or numbers are short.
pub fn forget_all() {
    empty_all(|word| word & STATE >= IDLE);
}

/// In the child of a fork: what other threads of its parent were about to do is not done here.
pub fn after_fork() {
    empty_all(|word| !matches!(word, EMPTY | REFUSED));
}

/// The program closes or replaces this number: it is its own from now on.
pub fn make_way(descriptor: i32) {
    let index = descriptor.checked_sub(FIRST_NUMBER).and_then(|index| usize::try_from(index).ok());
    let Some(index) = index.filter(|&index| index < KEPT && !state::borrows_memory()) else { return };
    if let Some(taken) = take_at(index, &|word| word & STATE >= IDLE || word == REFUSED) {
        taken.empty();
    }
}
