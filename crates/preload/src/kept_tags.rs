//! Placeholders that are kept for the next open file: to open and to hold one costs more than everything else that an `open` does.
//!
//! A kept placeholder is one more descriptor, out of the way, of the open file description that a descriptor of the program had.
//! The region keeps the number of that open file for this process, with its generation, so that the description goes on to hold what
//! the next `open` with this access mode opens; the program's new descriptor is a duplicate of it.
//!
//! What must hold:
//! - Whether an open file is held is a question to the kernel, and a kept description answers it with yes. So one is kept only of
//!   open files that one descriptor stands for, which are closed without that question. Whatever may come to share
//!   the description (a duplicate, a fork, a descriptor that is sent) ends the keeping first; a fork that is under way when
//!   something begins to be kept is seen ([`sharing::Moment`]).
//! - While no file is open with it, its number names none, and belongs to this process: who takes a place has both. Who ends the keeping
//!   of such a one frees the number, and so ends its generation.
//! - Numbers of descriptors may be closed behind the library, and be another file's by now: of what is duplicated the kernel is asked
//!   which file it is, and whether that has a name still (it has none when the region was deleted); what is closed is looked at
//!   before. The offset of a placeholder is one that no other file has.

use crate::tags::OFFSET;
use crate::{descriptors, sharing, state};
use core::sync::atomic::{AtomicU64, Ordering};
use lifeboat_fs::{FileSystem, OpenFile, Result};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::SeekFrom;

/// How many are kept at most.
const KEPT: usize = 8;
/// Their numbers: below those of the library's own descriptors.
const FIRST_NUMBER: i32 = 984;

/// A place: state in bits 0..2, access mode in 2..4, number of the open file in 32..64.
static PLACES: [AtomicU64; KEPT] = [const { AtomicU64::new(EMPTY) }; KEPT];

/// Which placeholder it is, for the kernel.
static FILES: [AtomicU64; KEPT] = [const { AtomicU64::new(0) }; KEPT];

const STATE: u64 = 3;
/// Nothing is kept here.
const EMPTY: u64 = 0;
/// Somebody is about to change what is kept here.
const BUSY: u64 = 1;
/// The number is the program's, or beyond its limit.
const REFUSED: u64 = BUSY | 1 << 8;
/// Waits for the next open file.
const IDLE: u64 = 2;
/// The program has a descriptor of it.
const LENT: u64 = 3;

fn word(state: u64, file: OpenFile, access: i32) -> u64 {
    state | (access as u64 & 3) << 2 | (file.0 as u64) << 32
}

fn file_of(word: u64) -> OpenFile {
    OpenFile((word >> 32) as u32)
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

/// Which file it is, if that has a name.
fn file_behind(descriptor: impl AsFd) -> Option<u64> {
    let about = rustix::fs::fstat(descriptor).ok().filter(|about| about.st_nlink != 0)?;
    Some(about.st_dev.rotate_left(32) ^ about.st_ino)
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

    /// Closes the kept descriptor, if it is still what was kept.
    fn close(&self) {
        if is_ours(self.index) {
            // SAFETY: a duplicate that `begin` made, for which nothing else stands.
            drop(unsafe { OwnedFd::from_raw_fd(number(self.index)) });
        }
        self.leave(EMPTY);
    }

    /// Ends the keeping.
    fn empty(&self) {
        if self.word & STATE == IDLE
            && let Ok(file_system) = state::file_system()
        {
            // What is damaged here is found by who looks for a free number.
            let _ = file_system.free_kept(file_of(self.word));
        }
        self.close();
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

/// Empties all places whose words say so. In a `vfork`'s child they are its parent's.
fn empty_all(wanted: impl Fn(u64) -> bool) {
    if state::borrows_memory() {
        return;
    }
    (0..KEPT).filter_map(|index| take_at(index, &wanted)).for_each(|taken| taken.empty());
}

/// A placeholder that waited, with its open file, for an `open` that is under way: waits again when dropped.
pub struct Reserved {
    taken: Taken,
    before: sharing::Moment,
}

/// Takes a placeholder with this access mode, if one waits.
pub fn reserve(access: i32) -> Option<Reserved> {
    if state::borrows_memory() {
        return None;
    }
    let before = sharing::Moment::now();
    let taken = take(|word| word & STATE == IDLE && (word >> 2 & 3) as i32 == access)?;
    Some(Reserved { taken, before })
}

impl Reserved {
    /// The open file.
    pub fn file(&self) -> OpenFile {
        file_of(self.taken.word)
    }

    /// A descriptor of it, for the file that was opened with it.
    pub fn lend(self, close_on_exec: bool) -> Option<OwnedFd> {
        let Taken { index, word, .. } = self.taken;
        let lent = duplicate(index, close_on_exec);
        match lent {
            Some(_) => self.taken.leave(word | LENT),
            None => self.taken.close(),
        }
        core::mem::forget(self);
        lent
    }

    /// The open file is another one.
    pub fn refuse(self) {
        self.taken.empty();
        core::mem::forget(self);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        wait_for_next(&self.taken, self.taken.word, self.before);
    }
}

/// Lets a place wait for the next open file, unless a fork may have copied what it keeps.
fn wait_for_next(taken: &Taken, word: u64, since: sharing::Moment) {
    taken.leave(word & !STATE | IDLE);
    if since.may_be_before_a_fork() {
        forget(file_of(word));
    }
}

fn duplicate(index: usize, close_on_exec: bool) -> Option<OwnedFd> {
    if descriptors::is_tabled(number(index)) {
        return None;
    }
    let kept = borrow(number(index));
    let duplicate = if close_on_exec { rustix::io::fcntl_dupfd_cloexec(kept, 0) } else { rustix::io::dup(kept) };
    let wanted = FILES.get(index)?.load(Ordering::Relaxed);
    duplicate.ok().filter(|duplicate| file_behind(duplicate) == Some(wanted))
}

/// Closes an open file that this descriptor alone stands for, and keeps its placeholder and its number if it can. The descriptor is
/// still to be closed. `before`: when it was known that it alone does.
pub fn close(
    file_system: &FileSystem,
    file: OpenFile,
    (descriptor, access): (BorrowedFd<'_>, i32),
    before: sharing::Moment,
) -> Result<()> {
    let of_this = |word: u64| word & STATE == LENT && file_of(word) == file;
    let Some(taken) = take(of_this).or_else(|| begin(descriptor)) else { return file_system.close(file) };
    let closed = file_system.close_and_keep(file);
    match closed {
        Ok(true) => wait_for_next(&taken, word(IDLE, file, access), before),
        _ => taken.close(),
    }
    closed.map(|_| ())
}

/// Takes an empty place and duplicates the descriptor to its number.
fn begin(descriptor: BorrowedFd<'_>) -> Option<Taken> {
    let taken = take(|word| word == EMPTY)?;
    let Some(kept) = rustix::io::fcntl_dupfd_cloexec(descriptor, number(taken.index))
        .ok()
        .filter(|kept| kept.as_raw_fd() == number(taken.index))
    else {
        taken.leave(REFUSED);
        return None;
    };
    // It may have been closed behind us, and be another file's by now.
    match (FILES.get(taken.index), file_behind(&kept).filter(|_| is_placeholder(&kept))) {
        (Some(note), Some(file)) => {
            note.store(file, Ordering::Relaxed);
            core::mem::forget(kept);
            Some(taken)
        }
        _ => {
            drop(kept);
            taken.leave(EMPTY);
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

/// In the child of a fork: what other threads of its parent were about to do is not done here. The open files are its parent's.
pub fn after_fork() {
    (0..KEPT)
        .filter_map(|index| take_at(index, &|word| !matches!(word, EMPTY | REFUSED)))
        .for_each(|taken| taken.close());
}

/// The program closes or replaces this number: it is its own from now on.
pub fn make_way(descriptor: i32) {
    let index = descriptor.checked_sub(FIRST_NUMBER).and_then(|index| usize::try_from(index).ok());
    let Some(index) = index.filter(|&index| index < KEPT && !state::borrows_memory()) else { return };
    if let Some(taken) = take_at(index, &|word| word & STATE >= IDLE || word == REFUSED) {
        taken.empty();
    }
}
