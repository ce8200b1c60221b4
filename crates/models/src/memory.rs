//! The memory of a region in a model, and the processes that share it.

use crate::atomics::{AtomicU64, Ordering};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Offsets of the words that some execution of the model touched: loom wants them to be there before its threads are.
/// A new one ends the exploration, which begins again.
#[derive(Default)]
pub struct Touched(Mutex<BTreeSet<u64>>);

impl Touched {
    fn add(&self, offset: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(offset);
    }

    fn offsets(&self) -> Vec<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

/// Most processes of a model.
pub const PROCESSES: usize = 4;

/// Words that all processes see.
pub struct Memory {
    words: BTreeMap<u64, AtomicU64>,
    touched: Arc<Touched>,
    /// A word was touched for the first time: this execution shows nothing.
    incomplete: OnceLock<()>,
    /// What the kernel knows of the death of processes.
    dead: [AtomicU64; PROCESSES],
    /// Who has the kernel's lock on which slot: number of the process, plus one.
    slot_locks: [AtomicU64; PROCESSES],
}

impl Memory {
    /// Words that were touched before, zero but for those of `initial`.
    pub fn new(touched: &Arc<Touched>, initial: &BTreeMap<u64, u64>) -> Arc<Memory> {
        let offsets = touched.offsets().into_iter();
        let words = offsets.map(|at| (at, AtomicU64::new(initial.get(&at).copied().unwrap_or(0)))).collect();
        Arc::new(Memory {
            words,
            touched: touched.clone(),
            incomplete: OnceLock::new(),
            dead: std::array::from_fn(|_| AtomicU64::new(0)),
            slot_locks: std::array::from_fn(|_| AtomicU64::new(0)),
        })
    }

    fn word(&self, offset: u64) -> Option<&AtomicU64> {
        let word = self.words.get(&offset);
        if word.is_none() {
            self.touched.add(offset);
            let _ = self.incomplete.set(());
        }
        word
    }

    /// Whether this execution shows nothing, because a word was missing.
    pub fn is_incomplete(&self) -> bool {
        self.incomplete.get().is_some()
    }
}

/// One process: a view of the memory that ends when the process dies.
#[derive(Clone)]
pub struct Process {
    /// The memory of all.
    pub memory: Arc<Memory>,
    /// Its number, which is also its pid less one.
    pub number: usize,
    dies_at: Option<u32>,
    steps: Cell<u32>,
    dead: Cell<bool>,
}

impl Process {
    /// A process that dies instead of its `dies_at`-th access to the region, if any.
    pub fn new(memory: &Arc<Memory>, number: usize, dies_at: Option<u32>) -> Process {
        Process { memory: memory.clone(), number, dies_at, steps: Cell::new(0), dead: Cell::new(false) }
    }

    /// The word at `offset`; none from the process's death on.
    pub fn word(&self, offset: u64) -> Option<&AtomicU64> {
        if self.dead.get() || self.memory.is_incomplete() {
            return None;
        }
        self.steps.set(self.steps.get() + 1);
        if self.dies_at.is_some_and(|step| self.steps.get() >= step) {
            self.die();
            return None;
        }
        self.memory.word(offset)
    }

    /// Dies here, if it has not.
    pub fn die(&self) {
        if !self.dead.replace(true) {
            for lock in &self.memory.slot_locks {
                let _ = lock.compare_exchange(self.number as u64 + 1, 0, Ordering::AcqRel, Ordering::Acquire);
            }
            self.memory.dead[self.number].store(1, Ordering::Release);
        }
    }

    /// Whether it died.
    pub fn is_dead(&self) -> bool {
        self.dead.get()
    }

    /// Accesses so far.
    pub fn steps(&self) -> u32 {
        self.steps.get()
    }

    /// What the kernel says of another process.
    pub fn knows_dead(&self, number: usize) -> bool {
        self.memory.dead.get(number).is_some_and(|word| word.load(Ordering::Acquire) != 0)
    }

    /// Asks the kernel for the lock of a slot.
    pub fn take_slot_lock(&self, slot: usize) -> bool {
        let mine = self.number as u64 + 1;
        self.memory.slot_locks[slot].compare_exchange(0, mine, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}
