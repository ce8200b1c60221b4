//! Where reads put their bytes lately, so that large ones go past the caches where that is better.
//!
//! An ordinary store loads its line from memory first. Who reads a large file into ever new places does that for nothing: what he read
//! first has left the caches when he comes to look at it. Who reads into the same place again has it in the cache still, and looks at what
//! is there before he reads on; his bytes belong there.

use core::sync::atomic::{AtomicUsize, Ordering};
use lifeboat_region::tuning;

/// Places that are remembered: a program may read into a few buffers in turns.
const PLACES: usize = 16;

/// Memory of this process alone; a place that two threads remember at once is remembered for one of them.
pub(crate) struct ReadTargets([AtomicUsize; PLACES]);

impl ReadTargets {
    pub(crate) const fn new() -> ReadTargets {
        ReadTargets([const { AtomicUsize::new(0) }; PLACES])
    }

    /// Whether a read of so many bytes to this address goes past the caches: a large one to a place of no late read. Remembers the place.
    #[inline]
    pub(crate) fn go_past_caches(&self, address: usize, length: u64) -> bool {
        length >= tuning::STREAM_OUT_FROM.load(Ordering::Relaxed) as u64 && self.is_new(address)
    }

    fn is_new(&self, address: usize) -> bool {
        let mixed = (address as u64 >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
        let place = &self.0[mixed as usize % PLACES];
        let is_new = place.load(Ordering::Relaxed) != address;
        if is_new {
            place.store(address, Ordering::Relaxed);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: u64 = 1 << 20;

    #[test]
    fn a_buffer_that_is_read_into_again_is_left_in_the_cache() {
        let targets = ReadTargets::new();
        assert!(targets.go_past_caches(0x7000_0000, LARGE));
        assert!((0..9).all(|_| !targets.go_past_caches(0x7000_0000, LARGE)));
    }

    #[test]
    fn ever_new_places_go_past_the_caches_and_small_reads_never() {
        let targets = ReadTargets::new();
        assert!((1..1000).all(|piece| targets.go_past_caches(piece << 20, LARGE)));
        assert!((1..1000).all(|piece| !targets.go_past_caches(piece << 14, LARGE - 1)));
    }
}
