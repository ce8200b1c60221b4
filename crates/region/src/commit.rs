//! The one way to publish: an aligned 8-byte word, after the data it speaks for.
//!
//! A release store alone does not order non-temporal stores: without the fence a reader on another core can see the
//! word before the data. So every commit consumes the [`MustFence`] of the copies before it, and the order is checked
//! by types.

use core::sync::atomic::{AtomicU64, Ordering};
use lifeboat_kernels::MustFence;

/// How stores reach what the region must survive on.
pub trait Persistence {
    /// Starts writing back the cache lines of `[address, address + length)`.
    fn flush(address: usize, length: usize);
    /// Waits until flushed lines are where they must be.
    fn drain();
}

/// Memory that lives as long as the machine runs: nothing to flush.
pub struct Volatile;

impl Persistence for Volatile {
    fn flush(_address: usize, _length: usize) {}
    fn drain() {}
}

/// Publishes `value` in `word`: whatever was stored before, `data` included, is visible to whoever sees the value.
pub fn commit<P: Persistence>(word: &AtomicU64, value: u64, data: MustFence) {
    data.fence();
    P::drain();
    word.store(value, Ordering::Release);
    P::flush(word.as_ptr() as usize, 8);
    P::drain();
}

/// Publishes `new` if the word still holds `old`; otherwise the value found.
pub fn commit_exchange<P: Persistence>(word: &AtomicU64, old: u64, new: u64, data: MustFence) -> Result<(), u64> {
    data.fence();
    P::drain();
    word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)?;
    P::flush(word.as_ptr() as usize, 8);
    P::drain();
    Ok(())
}
