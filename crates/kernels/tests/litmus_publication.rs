//! Does whoever sees the flag see the data? Asked of two real processors, a million times.
//!
//! Non-temporal stores wait in the write-combining buffers of one core until a line is full or a fence comes. A release
//! store does not wait for them, so without the fence another core sees "published" and then old bytes. No check on one
//! core can find that:
//!
//! * Single-stepping (and every other interruption) empties the buffers after each instruction, and the core that wrote
//!   always sees its own stores in order: the broken program looks correct at every step.
//! * loom, Miri and the memory models of languages know relaxed and release stores, but no stores that are weaker than
//!   the model itself; for them a copy followed by a release store is published by definition.
//!
//! So two threads on two cores do what a writer and a reader of a region do: copy with [`copy_in`], fence, store the
//! flag; load the flag, compare. That nothing is ever seen out of order means something only because the same harness
//! does see it when the writer is bad: a writer of its own stores parts of lines without a fence, and must be caught.
//! The routine of the crate stores parts of lines the ordinary way, so it may come through without its fence, too, on
//! a given processor; how often it did not is printed, and nothing is promised about it.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::_mm_stream_si64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lifeboat_kernels::{copy_in, copy_in_checksum, tuning};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Rounds of the litmus test itself.
const ROUNDS: u64 = 1_000_000;

/// No variant runs longer than this, however busy the machine is.
const TIME_LIMIT: Duration = Duration::from_secs(25);

/// Fewer rounds than this show nothing.
const ROUNDS_NEEDED: u64 = 100_000;

/// The longest block; its place moves over all 64 alignments.
const LONGEST: usize = 20_480;

/// Fills that follow each other, so that a byte of an earlier round is never taken for one of this.
const FILLS: usize = 7;

/// What the two threads share. Flag and answer lie in lines of their own, away from the data.
struct Shared {
    published: Line,
    seen: Line,
    stop: AtomicBool,
    data: *mut u8,
}

#[repr(align(128))]
struct Line(AtomicU64);

// SAFETY: the data is written between `seen` and `published` by one thread, read between `published` and `seen` by the other.
unsafe impl Sync for Shared {}

/// One round: which bytes are written.
#[derive(Clone, Copy)]
struct Block {
    offset: usize,
    source_offset: usize,
    length: usize,
    fill: u8,
}

/// All alignments of both sides, mostly short blocks (the harder case), now and then ones that stream interleaved.
fn block_of_round(round: u64, longest: usize) -> Block {
    let mut mixed = round.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^= mixed >> 29;
    let most = match round % 64 {
        0 => longest,
        1..8 => 4096 + 512,
        _ => 600,
    };
    Block {
        offset: (round % 64) as usize,
        source_offset: (round / 64 % 64) as usize,
        length: 64 + (mixed >> 8) as usize % (most.min(longest) - 64),
        fill: 1 + (round % FILLS as u64) as u8,
    }
}

/// Two processors that this thread may use.
fn two_processors() -> Option<[usize; 2]> {
    let set = sched_getaffinity(None).ok()?;
    let mut allowed = (0..CpuSet::MAX_CPU).filter(|&processor| set.is_set(processor));
    Some([allowed.next()?, allowed.next()?])
}

fn pin_to(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).expect("pinning to a processor that is allowed");
}

/// Waits until `line` holds `value`; false when told to stop. Lets others run when they seem to need it.
fn wait_for(line: &Line, value: u64, stop: &AtomicBool) -> bool {
    let mut turns = 0u32;
    while line.0.load(Ordering::Acquire) != value {
        turns += 1;
        if turns.is_multiple_of(1 << 14) {
            if stop.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::yield_now();
        }
        std::hint::spin_loop();
    }
    true
}

/// Lets the reader go when the writer is done, however that came.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What came of a run.
#[derive(Debug)]
struct Outcome {
    rounds: u64,
    /// Rounds in which the flag was seen before the data.
    out_of_order: u64,
}

/// The reader: how many rounds showed old bytes after the flag.
fn read_rounds(shared: &Shared, longest: usize) -> u64 {
    let mut out_of_order = 0;
    for round in 1.. {
        if !wait_for(&shared.published, round, &shared.stop) {
            break;
        }
        let block = block_of_round(round, longest);
        // The last bytes first: they are the ones still on their way. Volatile, as the compiler must not read them twice.
        let stale = (0..block.length).rev().any(|place| {
            // SAFETY: within the data; the writer waits for `seen`, and what non-temporal stores still do to these
            // bytes is what the test is about.
            unsafe { shared.data.add(block.offset + place).read_volatile() != block.fill }
        });
        out_of_order += u64::from(stale);
        shared.seen.0.store(round, Ordering::Release);
    }
    out_of_order
}

/// The writer: up to `rounds` rounds with `write(to, from, length)`, which fences or not; says how many there were.
fn write_rounds(
    shared: &Shared,
    sources: &[Vec<u8>],
    rounds: u64,
    longest: usize,
    write: impl Fn(*mut u8, *const u8, usize),
) -> u64 {
    let start = Instant::now();
    for round in 1..=rounds {
        let block = block_of_round(round, longest);
        // SAFETY: within the data, by `block_of_round`.
        let to = unsafe { shared.data.add(block.offset) };
        write(to, sources[usize::from(block.fill)][block.source_offset..].as_ptr(), block.length);
        shared.published.0.store(round, Ordering::Release);
        let in_time = wait_for(&shared.seen, round, &shared.stop);
        if !in_time || (round.is_multiple_of(1024) && start.elapsed() > TIME_LIMIT) {
            return round;
        }
    }
    rounds
}

/// Runs writer and reader on two processors; `None` (and a line that says so) where there is only one.
fn run(rounds: u64, longest: usize, write: impl Fn(*mut u8, *const u8, usize) + Sync) -> Option<Outcome> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some([first, second]) = two_processors() else {
        println!("skip: publication litmus test (only one processor: nothing can be seen out of order)");
        return None;
    };
    let mut memory = vec![0u8; LONGEST + 256];
    let align = memory.as_ptr().align_offset(64);
    let shared = Shared {
        published: Line(AtomicU64::new(0)),
        seen: Line(AtomicU64::new(0)),
        stop: AtomicBool::new(false),
        data: memory[align..].as_mut_ptr(),
    };
    let sources: Vec<Vec<u8>> = (0..=FILLS).map(|fill| vec![fill as u8; LONGEST + 64]).collect();
    let write = &write;
    let outcome = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            pin_to(second);
            read_rounds(&shared, longest)
        });
        let writer = scope.spawn(|| {
            let _stop = Stop(&shared.stop);
            pin_to(first);
            write_rounds(&shared, &sources, rounds, longest, write)
        });
        let rounds = writer.join().expect("the writer");
        Outcome { rounds, out_of_order: reader.join().expect("the reader") }
    });
    Some(outcome)
}

/// Blocks of any length stream, so that a round is short and there can be many. The environment may limit the
/// instructions.
fn stream_always() {
    if let Some(level) = std::env::var_os(tuning::LEVEL_KEY) {
        tuning::limit_level_to(level.as_encoded_bytes()).expect("the name of a level");
    }
    tuning::STREAM_FROM.store(0, Ordering::Relaxed);
}

fn assert_published(name: &str, write: fn(*mut u8, *const u8, usize)) {
    stream_always();
    let start = Instant::now();
    let Some(outcome) = run(ROUNDS, LONGEST, write) else { return };
    let level = lifeboat_kernels::level().name();
    println!("{name} ({level}), fence, flag: {outcome:?} in {:.1} s", start.elapsed().as_secs_f64());
    assert_eq!(outcome.out_of_order, 0, "{name}: {outcome:?}");
    assert!(outcome.rounds >= ROUNDS_NEEDED, "{name}: too busy a machine to show anything: {outcome:?}");
}

#[test]
fn nobody_sees_the_flag_before_the_data() {
    assert_published("copy", |to, from, length| {
        // SAFETY: memory of the test, long enough, apart from each other.
        unsafe { copy_in(to, from, length) }.expect("memory of our own").fence();
    });
}

#[test]
fn nobody_sees_the_flag_before_data_that_was_checksummed() {
    assert_published("copy with checksum", |to, from, length| {
        // SAFETY: as above.
        unsafe { copy_in_checksum(to, from, length, 0) }.expect("memory of our own").0.fence();
    });
}

#[test]
fn a_writer_without_its_fence_is_caught() {
    // Parts of lines, eight bytes at a time, and no fence: what `copy_in` must never do.
    let outcome = run(ROUNDS / 10, 600, |to, from, length| {
        for place in (0..length - 7).step_by(8) {
            // SAFETY: memory of the test, long enough.
            unsafe { _mm_stream_si64(to.add(place).cast(), from.add(place).cast::<i64>().read_unaligned()) };
        }
        for place in length / 8 * 8..length {
            // SAFETY: as above.
            unsafe { to.add(place).write(*from.add(place)) };
        }
    });
    let Some(outcome) = outcome else { return };
    println!("parts of lines, no fence, flag: {outcome:?}");
    assert!(outcome.out_of_order > 0, "the harness cannot see what it is made to see: {outcome:?}");
}

#[test]
fn what_the_copy_without_its_fence_shows() {
    stream_always();
    let outcome = run(ROUNDS / 10, LONGEST, |to, from, length| {
        // SAFETY: memory of the test, long enough, apart from each other.
        std::mem::forget(unsafe { copy_in(to, from, length) }.expect("memory of our own"));
    });
    let Some(outcome) = outcome else { return };
    println!("copy, NO fence, flag: {outcome:?} (nothing is promised about this one)");
}
