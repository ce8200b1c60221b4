//! The fear: a file is cut while another process writes behind its new end, and the write that came after the cut is
//! wiped by what the cut still has to do.

use lifeboat_testkit::random::bytes;
use lifeboat_testkit::report::note;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchRegion, check};
use lifeboat_testkit::volume::{RegionVolume, Volume};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const CUT: u64 = 1000;

struct Stop(AtomicBool);

/// Ends the other thread, also when this one fails.
struct Ends<'s>(&'s Stop);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// One thread cuts to `CUT`, one writes `length` bytes at `at` and reads them back: it finds them, or the end of the file.
fn race(at: u64, length: usize) -> (u64, u64) {
    let region = ScratchRegion::new("cut-write", 32 * MIB);
    let files = region.attach();
    let make = RegionVolume::over(&files, b"").expect("the root");
    let file = make.open(None, b"file", libc::O_CREAT | libc::O_RDWR, 0o644).expect("create");
    make.write(file, &bytes(1, CUT as usize), Some(0)).expect("write");
    let stop = Stop(AtomicBool::new(false));
    thread::scope(|scope| {
        let cutter = scope.spawn(|| {
            let volume = RegionVolume::over(&files, b"").expect("the root");
            let mut cuts = 0u64;
            while !stop.0.load(Ordering::Relaxed) {
                volume.truncate(None, b"file", CUT).expect("cut");
                cuts += 1;
            }
            cuts
        });
        let ends = Ends(&stop);
        let (mut found, mut round) = (0u64, 2u64);
        let end = Instant::now() + Duration::from_millis(700);
        while Instant::now() < end {
            let data = bytes(round, length);
            let wrote = make.write(file, &data, Some(at));
            if wrote != Ok(length) {
                let usage = files.usage();
                let swept = files.sweep();
                let again = make.write(file, &data, Some(at));
                panic!("round {round}: {wrote:?}, {usage:?}; swept {swept:?}, again {again:?}");
            }
            let back = make.read(file, length, Some(at)).expect("read");
            if back.len() == length && back != data {
                let wrong = back.iter().zip(&data).position(|(have, want)| have != want);
                panic!("round {round}: a write that came after the cut is gone from byte {wrong:?} of {length} on");
            }
            found += (back.len() == length) as u64;
            round += 1;
        }
        drop(ends);
        let cuts = cutter.join().expect("the cutter ends");
        assert!(check(&files).is_clean());
        (found, cuts)
    })
}

#[test]
fn a_write_behind_a_cut_is_whole_or_cut_off() {
    let _nothing_left = NoResidue::begin();
    // In the block, the extent of the cut, behind it, and over several extents.
    for (at, length) in [(2000, 500), (20_000, 3000), (60_000, 20_000), (200_000, 5000), (1 << 20, 300_000)] {
        let (found, cuts) = race(at, length);
        assert!(cuts > 100, "{found} writes found, {cuts} cuts");
    }
}

/// One thread writes a few bytes again and again into a file that another cuts to nothing; what it gives up is taken for files whose
/// bytes must stay their own.
#[test]
fn a_writer_that_knew_where_the_bytes_were_does_not_write_into_what_is_there_now() {
    const PIECES: u64 = 16;
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("known-places", 10 * MIB);
    let files = region.attach();
    let make = RegionVolume::over(&files, b"").expect("the root");
    let file = make.open(None, b"cut", libc::O_CREAT | libc::O_RDWR, 0o644).expect("create");
    let stop = Stop(AtomicBool::new(false));
    let (written, rounds) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let volume = RegionVolume::over(&files, b"").expect("the root");
            let mut written = 0u64;
            while !stop.0.load(Ordering::Relaxed) {
                // In one block many times, so that it is known; then in the next.
                let at = (written / 50 % PIECES) * 4096 + written % 50 * 64;
                assert_eq!(volume.write(file, &[0xaa; 64], Some(at)), Ok(64));
                written += 1;
            }
            written
        });
        let ends = Ends(&stop);
        let (mut rounds, end) = (0u64, Instant::now() + Duration::from_millis(1500));
        let name = |piece: u64| format!("piece-{piece}");
        while Instant::now() < end {
            make.truncate(None, b"cut", 0).expect("cut");
            let mut open = Vec::new();
            for piece in 0..PIECES {
                let own = make.open(None, name(piece).as_bytes(), libc::O_CREAT | libc::O_RDWR, 0o644).expect("create");
                make.write(own, &[piece as u8; 4096], Some(0)).expect("write");
                open.push(own);
            }
            for (piece, own) in (0..PIECES).zip(open) {
                let found = make.read(own, 4096, Some(0)).expect("read");
                let wrong = found.iter().position(|byte| *byte != piece as u8);
                assert_eq!(wrong, None, "round {rounds}: a byte of another file in {}", name(piece));
                make.close(own).expect("close");
                make.unlink(None, name(piece).as_bytes()).expect("unlink");
            }
            rounds += 1;
        }
        drop(ends);
        (writer.join().expect("the writer ends"), rounds)
    });
    note("known places", &format!("{written} writes beside {rounds} cuts"));
    assert!(written > 1000 && rounds > 50, "{written} writes, {rounds} rounds");
    assert!(check(&files).is_clean());
}
