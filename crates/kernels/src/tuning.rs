//! Where one way of copying gives way to the next, and a lid on the instructions used.

use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use crate::Level;

/// Copies into a region of at least this many bytes use non-temporal stores. Below it, the fence costs more than the
/// saved reading of the destination. Default 4096.
pub static STREAM_FROM: AtomicUsize = AtomicUsize::new(4096);

/// Copies of at least this many bytes go through four interleaved streams, one per 4 KiB page: more of the memory's
/// banks and of the prefetcher are busy at once. Default 16384, the least that makes sense.
pub static INTERLEAVE_FROM: AtomicUsize = AtomicUsize::new(16384);

/// The highest level that may be used, as the numeric value of a [`Level`]; anything above it means no limit.
pub static LEVEL_LIMIT: AtomicU8 = AtomicU8::new(u8::MAX);

/// Uses no instruction above `limit` from now on, in all threads; `None` lifts the limit. For tests, and for owners of a
/// processor that slows down with wide registers. A limit above what the machine offers changes nothing.
pub fn limit_level(limit: Option<Level>) {
    LEVEL_LIMIT.store(limit.map_or(u8::MAX, |level| level as u8), Ordering::Relaxed);
}
