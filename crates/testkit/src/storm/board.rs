//! Memory that the killer and all writers share: what each writer is about to do and what has returned, entry by entry.
//! It belongs to nobody's region and outlives each writer, so a killed one leaves its log as it was.

use super::action::Action;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Writers at work at one time.
pub const WRITERS: usize = 4;
/// The place of a process that only recovers others.
pub const RECOVERER: usize = WRITERS;
/// Names that are moved about by everybody.
pub const TOKENS: usize = 6;
/// Entries of a writer that the killer has not taken yet, at most.
const RING: u64 = 2048;
const ENTRY_WORDS: usize = 8;
const SLOT_HEADER: usize = 32;
const SLOT_WORDS: usize = SLOT_HEADER + RING as usize * ENTRY_WORDS;
const HEADER: usize = 64;
const WORDS: usize = HEADER + (WRITERS + 1) * SLOT_WORDS;

/// A word that all share.
#[derive(Clone, Copy, Debug)]
pub enum Common {
    /// Not 0: writers stop between two actions.
    Pause = 0,
    /// Counts up at each announcement and at each return.
    Clock = 1,
    /// Attempts to create a name that several try to create.
    Prizes = 2,
    /// Who is between lock and unlock, 0 for nobody.
    Holder = 3,
}

/// A word of one writer.
#[derive(Clone, Copy, Debug)]
pub enum Field {
    /// Number of the process that writes here; every process has another.
    Incarnation = 0,
    /// Actions announced.
    Announced = 1,
    /// Actions returned.
    Returned = 2,
    /// When the announced action began, in nanoseconds of the monotonic clock; 0 between actions.
    Busy = 3,
    /// Entries taken by the killer.
    Taken = 4,
    /// 1 while it waits because of the pause.
    Paused = 5,
    /// Set by the killer: recover whoever is dead.
    Request = 6,
    /// Recoveries returned.
    Sweeps = 7,
    /// Longest action, in nanoseconds, less the time for which the processor was with others.
    Longest = 8,
    /// Set before it is killed: to this incarnation.
    Condemned = 9,
}

/// One logged action.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What.
    pub action: Action,
    /// 0, or the errno; meaningless while it is in flight.
    pub answer: u64,
    /// The clock at the announcement.
    pub began: u64,
    /// The clock at the return.
    pub ended: u64,
}

/// The shared memory. Never unmapped: there is one for each storm, and storms have a process of their own.
#[derive(Clone, Copy, Debug)]
pub struct Board(&'static [AtomicU64]);

impl Board {
    /// New, all zero; shared with all processes forked from now on.
    pub fn new() -> Self {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping where the kernel finds room for it.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), WORDS * 8, protection, flags, -1, 0) };
        assert!(start != libc::MAP_FAILED, "memory for the board");
        // SAFETY: the mapping is aligned, has this length, stays for ever, and is used as atomics only.
        Self(unsafe { std::slice::from_raw_parts(start.cast(), WORDS) })
    }

    /// A word that all share.
    pub fn common(&self, which: Common) -> &'static AtomicU64 {
        &self.0[which as usize]
    }

    /// Where a token was seen last.
    pub fn hint(&self, token: usize) -> &'static AtomicU64 {
        &self.0[16 + token]
    }

    /// The part of one writer.
    pub fn slot(&self, writer: usize) -> Slot {
        let start = HEADER + writer * SLOT_WORDS;
        Slot { words: &self.0[start..start + SLOT_WORDS], clock: self.common(Common::Clock) }
    }
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

/// One writer's part.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    words: &'static [AtomicU64],
    clock: &'static AtomicU64,
}

impl Slot {
    /// Value of a word.
    pub fn get(&self, field: Field) -> u64 {
        self.words[field as usize].load(Ordering::SeqCst)
    }

    /// Sets a word.
    pub fn set(&self, field: Field, value: u64) {
        self.words[field as usize].store(value, Ordering::SeqCst);
    }

    fn entry(&self, number: u64) -> &'static [AtomicU64] {
        let start = SLOT_HEADER + (number % RING) as usize * ENTRY_WORDS;
        &self.words[start..start + ENTRY_WORDS]
    }

    /// Whether the killer is too far behind for another entry.
    pub fn is_full(&self) -> bool {
        self.get(Field::Announced) - self.get(Field::Taken) >= RING - 1
    }

    /// Says what will be done next.
    pub fn announce(&self, action: Action) {
        let number = self.get(Field::Announced);
        let entry = self.entry(number);
        for (word, value) in entry.iter().zip(action.encode()) {
            word.store(value, Ordering::Relaxed);
        }
        entry[5].store(self.clock.fetch_add(1, Ordering::SeqCst), Ordering::Relaxed);
        self.set(Field::Busy, now());
        self.set(Field::Announced, number + 1);
    }

    /// Says that it was done.
    pub fn returned(&self, answer: u64) {
        let entry = self.entry(self.get(Field::Announced) - 1);
        entry[4].store(answer, Ordering::Relaxed);
        entry[6].store(self.clock.fetch_add(1, Ordering::SeqCst), Ordering::Relaxed);
        self.set(Field::Returned, self.get(Field::Announced));
        self.set(Field::Busy, 0);
    }

    fn read(&self, number: u64) -> Entry {
        let entry = self.entry(number);
        let word = |index: usize| entry[index].load(Ordering::Relaxed);
        let action = Action::decode([word(0), word(1), word(2), word(3)]);
        Entry { action, answer: word(4), began: word(5), ended: word(6) }
    }

    /// Gives the next returned action to the killer.
    pub fn take(&self) -> Option<Entry> {
        let taken = self.get(Field::Taken);
        if taken >= self.get(Field::Returned) {
            return None;
        }
        let entry = self.read(taken);
        self.set(Field::Taken, taken + 1);
        Some(entry)
    }

    /// Of a dead writer all of whose returned actions were taken: what it was doing.
    pub fn in_flight(&self) -> Option<Entry> {
        let returned = self.get(Field::Returned);
        (self.get(Field::Announced) > returned).then(|| self.read(returned))
    }

    /// Ready for another process.
    pub fn clear(&self, incarnation: u64) {
        for word in &self.words[..SLOT_HEADER] {
            word.store(0, Ordering::SeqCst);
        }
        self.set(Field::Incarnation, incarnation);
    }

    /// For how long the present action has been going on.
    pub fn busy_for(&self) -> Duration {
        let since = self.get(Field::Busy);
        if since == 0 { Duration::ZERO } else { Duration::from_nanos(now().saturating_sub(since)) }
    }
}

/// Nanoseconds of the monotonic clock, the same for all processes.
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills our own value.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
