//! A writer announces an inode and looks up where bytes go; who unlinks takes the place away and looks for announcements.
//! Either the writer sees the unlinking or the unlinker sees the writer: asked of two real processors, with the real
//! words of a region. (Each stores one word and loads another: processors let the load go first unless they are told.)

use lifeboat_region::announcements::{Announced, announced};
use lifeboat_region::lane::Lane;
use lifeboat_region::layout::CHUNK;
use lifeboat_region::{MustFence, Region};
use lifeboat_testkit::processors;
use lifeboat_testkit::report::{note, skipped};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::ScratchRegion;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const INODE: u64 = 77;
const ROUNDS: u64 = 300_000;
const LIMIT: Duration = Duration::from_secs(2);
/// So many times it was seen: that will do.
const ENOUGH: u64 = 5;
/// So often what is planted is looked for: once in a long while a virtual machine's two processors take turns on a real one.
const TRIES: u64 = 10;
/// Fewer show nothing.
const ROUNDS_NEEDED: u64 = 5_000;

/// A word of the region for the place that is taken away, far from the lanes.
fn place(region: &Region) -> u64 {
    region.geometry().data_at + CHUNK
}

struct Turns {
    round: AtomicU64,
    ready: AtomicU64,
    done: [AtomicU64; 2],
    end: AtomicU64,
}

fn wait_for(word: &AtomicU64, value: u64, end: &AtomicU64) -> bool {
    let mut turns = 0u32;
    while word.load(Ordering::Acquire) != value {
        turns += 1;
        if turns.is_multiple_of(1 << 12) {
            if end.load(Ordering::Relaxed) != 0 {
                return false;
            }
            std::thread::yield_now();
        }
        std::hint::spin_loop();
    }
    true
}

/// Lets the two meet at every distance; how far apart they are at most changes from time to time, as two threads of one core and two cores
/// differ in how long a store takes to be seen.
fn skew(turn: u64, round: u64, most: u64) {
    let most = (most << ((round >> 11) % 4)) / 4;
    for _ in 0..turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) % most {
        std::hint::black_box(round);
    }
}

/// Rounds made, and those in which neither saw the other.
fn run(announce: impl Fn(&Region, &Lane<'_>) + Sync) -> Option<(u64, u64)> {
    let Some(pair) = processors::two() else {
        skipped("announcements on two processors", "only one processor: nothing can be seen out of order");
        return None;
    };
    let scratch = ScratchRegion::new("litmus", 8 << 20);
    let files = scratch.attach();
    let region = files.region();
    let turns = Turns {
        round: AtomicU64::new(0),
        ready: AtomicU64::new(0),
        done: [const { AtomicU64::new(0) }; 2],
        end: AtomicU64::new(0),
    };
    let writer_saw_place = AtomicU64::new(0);
    let mut neither = 0;
    let rounds = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            processors::pin_to(pair[1]);
            let lane = Lane::claim(region).expect("a lane");
            for round in 1.. {
                if !wait_for(&turns.round, round, &turns.end) {
                    break;
                }
                turns.ready.store(round, Ordering::Release);
                skew(round, round, 600);
                // In the cache, so that the load below is quicker than the store before it.
                region.load(place(region)).expect("the place");
                announce(region, &lane);
                let seen = region.load(place(region)).expect("the place");
                writer_saw_place.store(seen, Ordering::Relaxed);
                turns.done[0].store(round, Ordering::Release);
                if !wait_for(&turns.done[1], round, &turns.end) {
                    break;
                }
                lane.withdraw().expect("withdraw");
                turns.ready.store(0, Ordering::Release);
            }
        });
        processors::pin_to(pair[0]);
        let start = Instant::now();
        let mut rounds = 0;
        while rounds < ROUNDS && start.elapsed() < LIMIT && neither < ENOUGH {
            let round = rounds + 1;
            region.commit(place(region), 1, MustFence::nothing()).expect("the place");
            turns.round.store(round, Ordering::Release);
            assert!(wait_for(&turns.ready, round, &turns.end));
            announced(region, INODE, None).expect("the lanes");
            skew(round.rotate_left(17), round, 300);
            region.commit(place(region), 0, MustFence::nothing()).expect("the place");
            let seen = announced(region, INODE, None).expect("the lanes");
            assert!(wait_for(&turns.done[0], round, &turns.end));
            neither += u64::from(seen == Announced::Nothing && writer_saw_place.load(Ordering::Relaxed) == 1);
            turns.done[1].store(round, Ordering::Release);
            assert!(wait_for(&turns.ready, 0, &turns.end));
            rounds = round;
        }
        turns.end.store(1, Ordering::Relaxed);
        writer.join().expect("the writer");
        rounds
    });
    Some((rounds, neither))
}

#[test]
fn either_the_writer_sees_the_unlinking_or_the_unlinker_sees_the_writer() {
    let _clean = NoResidue::begin();
    let Some((rounds, neither)) = run(|_, lane| lane.announce(INODE, 0, 8).expect("announce")) else { return };
    note("litmus", &format!("announce against unlink: {rounds} rounds, {neither} in which neither saw the other"));
    assert_eq!(neither, 0, "of {rounds} rounds");
    assert!(rounds >= ROUNDS_NEEDED, "too busy a machine to show anything: {rounds} rounds");
}

#[test]
fn an_announcement_by_a_plain_store_is_caught() {
    let _clean = NoResidue::begin();
    // What `announce` must not be: the same stores, and nothing between them and the load that follows.
    let planted = |region: &Region, lane: &Lane<'_>| {
        let hazard = region.lane_at(lane.index()).expect("the lane") + 32;
        region.word(hazard).expect("a word").store(INODE, Ordering::Release);
    };
    let (mut rounds, mut neither) = (0, 0);
    for _ in 0..TRIES {
        let Some(found) = run(planted) else { return };
        (rounds, neither) = (rounds + found.0, neither + found.1);
        if neither > 0 {
            break;
        }
    }
    note("litmus", &format!("plain store against unlink: {rounds} rounds, {neither} in which neither saw the other"));
    assert!(neither > 0, "the harness cannot see what it is made to see, in {rounds} rounds");
}
