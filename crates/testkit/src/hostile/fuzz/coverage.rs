//! Which code an input reached: counters that LLVM puts into every branch when it is asked to.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

static START: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// Called by instrumented code before `main`: where its counters are.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    START.store(start, Ordering::Relaxed);
    LENGTH.store(stop as usize - start as usize, Ordering::Relaxed);
}

/// Called by instrumented code before `main`; nothing is done with the addresses.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_pcs_init(_start: *const usize, _stop: *const usize) {}

/// What was reached so far.
#[derive(Debug, Default)]
pub struct Coverage {
    /// For each counter the ranges of counts that were seen.
    seen: Vec<u8>,
}

impl Coverage {
    /// Nothing reached.
    pub fn new() -> Self {
        Self { seen: vec![0; LENGTH.load(Ordering::Relaxed)] }
    }

    fn each(mut act: impl FnMut(usize, *mut u8)) {
        let start = START.load(Ordering::Relaxed);
        for index in 0..LENGTH.load(Ordering::Relaxed) {
            // SAFETY: inside the range that the instrumented code named, which stays for the life of the process.
            act(index, unsafe { start.add(index) });
        }
    }

    /// Sets all counters to zero.
    pub fn reset(&self) {
        // SAFETY: as above; counters are plain bytes that only this thread's code changes.
        Self::each(|_, counter| unsafe { counter.write_volatile(0) });
    }

    /// Takes the counters over; whether something is new.
    pub fn learn(&mut self) -> bool {
        let mut new = false;
        let seen = &mut self.seen;
        Self::each(|index, counter| {
            // SAFETY: as above.
            let count = unsafe { counter.read_volatile() };
            let range = match count {
                0 => 0,
                1 => 1,
                2 => 2,
                3..=7 => 4,
                8..=31 => 8,
                _ => 16,
            };
            if let Some(before) = seen.get_mut(index) {
                new |= range & !*before != 0;
                *before |= range;
            }
        });
        new
    }

    /// Counters that were ever reached, and all.
    pub fn reached(&self) -> (u64, u64) {
        (self.seen.iter().filter(|seen| **seen != 0).count() as u64, self.seen.len() as u64)
    }
}
