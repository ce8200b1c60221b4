//! Atomic words as the product uses them, over loom's.
//!
//! One thing is put in by hand. A read-modify-write with `SeqCst` is a locked instruction on the processors that
//! Lifeboat runs on, and those are full fences; loom (like the memory model of the language) takes it for acquire and
//! release only. So such an operation has a fence on both sides here. That real processors keep this is what the litmus
//! tests of the crate `kernels` ask.

pub use core::sync::atomic::Ordering;

/// As `core::sync::atomic::fence`.
pub fn fence(order: Ordering) {
    loom::sync::atomic::fence(order);
}

/// As `core::sync::atomic::AtomicU64`.
#[derive(Debug)]
pub struct AtomicU64(loom::sync::atomic::AtomicU64);

fn locked<R>(order: Ordering, operation: impl FnOnce() -> R) -> R {
    if order != Ordering::SeqCst {
        return operation();
    }
    fence(Ordering::SeqCst);
    let result = operation();
    fence(Ordering::SeqCst);
    result
}

impl Default for AtomicU64 {
    fn default() -> AtomicU64 {
        AtomicU64::new(0)
    }
}

impl AtomicU64 {
    /// A word that holds `value`.
    pub fn new(value: u64) -> AtomicU64 {
        AtomicU64(loom::sync::atomic::AtomicU64::new(value))
    }

    /// As the standard library's.
    pub fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    /// As the standard library's; a `SeqCst` store ends with a fence, as it does on x86.
    pub fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
        if order == Ordering::SeqCst {
            fence(order);
        }
    }

    /// As the standard library's.
    pub fn swap(&self, value: u64, order: Ordering) -> u64 {
        locked(order, || self.0.swap(value, order))
    }

    /// As the standard library's.
    pub fn compare_exchange(&self, old: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64> {
        locked(success, || self.0.compare_exchange(old, new, success, failure))
    }

    /// As the standard library's.
    pub fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
        locked(order, || self.0.fetch_max(value, order))
    }

    /// As the standard library's.
    pub fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        locked(order, || self.0.fetch_or(value, order))
    }

    /// As the standard library's.
    pub fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        locked(order, || self.0.fetch_add(value, order))
    }

    /// Nothing is written back here: only its being called is part of the code.
    pub fn as_ptr(&self) -> *mut u64 {
        core::ptr::null_mut()
    }
}
