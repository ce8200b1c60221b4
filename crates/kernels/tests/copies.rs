//! Every way of copying and zeroing gives the bytes that the plain way gives, and touches nothing beside them.

mod common;

use std::sync::atomic::Ordering;

use common::{at_every_level, pattern};
use lifeboat_kernels::{
    MustFence, checksum_slice, copy_in, copy_in_checksum, copy_out, copy_out_streamed, tuning, zero,
};

/// Bytes before each destination that must stay as they were; behind it there are 64 less.
const GUARD: usize = 192;
const UNTOUCHED: u8 = 0xa5;

/// What is done to a destination: called with it, the source and the length.
type Operation = fn(*mut u8, *const u8, usize);

fn in_plain(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: `check` passes memory of its own that is long enough and does not overlap.
    unsafe { copy_in(dst, src, len) }.expect("memory of our own").fence();
}

fn in_checksum(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: as above.
    let (token, crc) = unsafe { copy_in_checksum(dst, src, len, 0) }.expect("memory of our own");
    token.fence();
    // SAFETY: as above.
    assert_eq!(crc, checksum_slice(0, unsafe { std::slice::from_raw_parts(src, len) }), "checksum of {len} bytes");
}

fn out(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: as above.
    unsafe { copy_out(dst, src, len) }.expect("memory of our own");
}

fn out_streamed(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: as above.
    unsafe { copy_out_streamed(dst, src, len) }.expect("memory of our own");
}

fn zeros(dst: *mut u8, _src: *const u8, len: usize) {
    // SAFETY: as above.
    unsafe { zero(dst, len) }.expect("memory of our own").fence();
}

/// A destination with guards, a source, and what is expected of an operation on them.
struct Bench {
    source: Vec<u8>,
    destination: Vec<u8>,
}

impl Bench {
    fn new(longest: usize) -> Bench {
        Bench { source: pattern(longest + 128), destination: vec![UNTOUCHED; longest + 2 * GUARD + 128] }
    }

    /// Does it at `to` and `from` bytes behind the start of a line, and looks at every byte from guard to guard.
    fn check(&mut self, operation: Operation, zeroing: bool, to: usize, from: usize, len: usize) {
        let start = GUARD + self.destination[GUARD..].as_ptr().align_offset(64) + to;
        let from = self.source.as_ptr().align_offset(64) + from;
        let around = &mut self.destination[start - GUARD..start + len + GUARD - 64];
        around.fill(UNTOUCHED);
        operation(around[GUARD..].as_mut_ptr(), self.source[from..].as_ptr(), len);
        let (before, rest) = around.split_at(GUARD);
        let (written, behind) = rest.split_at(len);
        let place = || format!("to {to}, from {from}, length {len}, level {:?}", lifeboat_kernels::level());
        assert!(before.iter().all(|&byte| byte == UNTOUCHED), "bytes before it were touched: {}", place());
        assert!(behind.iter().all(|&byte| byte == UNTOUCHED), "bytes behind it were touched: {}", place());
        if zeroing {
            assert!(written.iter().all(|&byte| byte == 0), "not all zero: {}", place());
        } else {
            assert!(written == &self.source[from..from + len], "wrong bytes: {}", place());
        }
    }
}

const OPERATIONS: [(Operation, bool); 5] =
    [(in_plain, false), (in_checksum, false), (out, false), (out_streamed, false), (zeros, true)];

#[test]
fn no_short_copy_is_wrong_or_reaches_beyond_its_end() {
    at_every_level(|_| {
        let mut bench = Bench::new(300);
        // Short lengths stream too, so that heads, lines and tails meet in every combination.
        for stream_from in [4096, 0] {
            tuning::STREAM_FROM.store(stream_from, Ordering::Relaxed);
            for (operation, zeroing) in OPERATIONS {
                for to in 0..64 {
                    for from in (0..if zeroing { 1 } else { 64 }).step_by(if to % 8 == 0 { 1 } else { 7 }) {
                        for len in 0..=300 {
                            bench.check(operation, zeroing, to, from, len);
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn no_copy_is_wrong_where_one_way_gives_over_to_the_next() {
    const EDGES: [usize; 6] = [4096, 16384, 2 * 16384, 3 * 16384, 65536, 2 << 20];
    at_every_level(|_| {
        let mut bench = Bench::new((2 << 20) + 128);
        for edge in EDGES {
            for len in [edge - 65, edge - 64, edge - 63, edge - 1, edge, edge + 1, edge + 63, edge + 64, edge + 65] {
                let step = if edge > 1 << 20 { 21 } else { 3 };
                for to in (0..64).step_by(step) {
                    for from in [0, to, (to + 1) % 64, 63] {
                        for (operation, zeroing) in OPERATIONS {
                            bench.check(operation, zeroing, to, from, len);
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn no_thresholds_make_a_copy_wrong() {
    at_every_level(|_| {
        let mut bench = Bench::new(70_000);
        for (stream_from, interleave_from) in [(0, 0), (64, 64), (usize::MAX, 0), (1, usize::MAX), (65536, 4096)] {
            tuning::STREAM_FROM.store(stream_from, Ordering::Relaxed);
            tuning::INTERLEAVE_FROM.store(interleave_from, Ordering::Relaxed);
            for len in [0, 1, 63, 64, 4096, 16383, 16384, 16448, 32768, 65535, 69_999] {
                for to in [0, 1, 32, 63] {
                    for (operation, zeroing) in OPERATIONS {
                        bench.check(operation, zeroing, to, 5, len);
                    }
                }
            }
        }
    });
}

#[test]
fn no_distance_between_the_two_sides_makes_a_copy_wrong() {
    at_every_level(|_| {
        let mut bench = Bench::new(75_000);
        // Some of these go backwards, which of them depends on the low bits of both addresses.
        for from in (0..4096).step_by(64).flat_map(|line| [line, line + 1, line + 63]) {
            for len in [4096, 5000, 16384 + 130, 69_999] {
                for (operation, zeroing) in OPERATIONS.into_iter().filter(|(_, zeroing)| !zeroing) {
                    bench.check(operation, zeroing, 0, from, len);
                }
            }
        }
    });
}

#[test]
fn a_token_is_needed_exactly_when_lines_were_streamed() {
    at_every_level(|level| {
        let source = pattern(8192);
        let mut destination = vec![0u8; 8192];
        let (to, from) = (destination.as_mut_ptr(), source.as_ptr());
        // SAFETY: memory of our own, long enough.
        let (short, long) = unsafe { (copy_in(to, from, 4095).unwrap(), copy_in(to, from, 4096).unwrap()) };
        assert!(!short.is_needed());
        assert_eq!(long.is_needed(), level != lifeboat_kernels::Level::Scalar);
        let streamed = long.is_needed();
        let both = short.and(MustFence::nothing()).and(long);
        assert_eq!(both.is_needed(), streamed, "a joined token keeps the duty of its parts");
        both.fence();
    });
}
