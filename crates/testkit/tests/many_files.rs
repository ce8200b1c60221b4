//! The fear: with many files everything becomes slow, or the limit is far below what was promised.
//!
//! One million files, 100,000 of them in one directory; the processor time of each call must not grow with their number.

use lifeboat_fs::FileSystem;
use lifeboat_testkit::cgroup::memory_left;
use lifeboat_testkit::random::Random;
use lifeboat_testkit::report::note;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::ScratchRegion;
use lifeboat_testkit::volume::{RegionVolume, Volume};
use std::time::Duration;

const MILLION: u64 = 1_000_000;
const PER_DIRECTORY: u64 = 100_000;
/// Room for a file with its name and its place in the directory's index, generously.
const BYTES_PER_FILE: u64 = 640;
/// A call among a million files may cost this many times what it costs among a hundred...
const GROWTH: f64 = 1.5;
/// ...and in so many places it may have to wait for memory, which is farther away then: of each level of the index, of the
/// entry, of the inode, and of the owner of each of those, who is asked whether it belongs there. The wait is measured on
/// the same pages.
const PLACES: f64 = 16.0;

#[test]
fn a_million_files_are_found_as_fast_as_a_hundred() {
    let _nothing_left = NoResidue::begin();
    let room = memory_left() / 2;
    let wanted = MILLION.min(room / BYTES_PER_FILE / PER_DIRECTORY * PER_DIRECTORY).max(PER_DIRECTORY);
    if wanted < MILLION {
        note("many files", &format!("only {wanted} instead of {MILLION} files: {} MiB of memory", room >> 19));
    }
    let size = (wanted * BYTES_PER_FILE).next_multiple_of(2 << 20) + (32 << 20);
    let region = ScratchRegion::new("many", size);
    let files = region.attach();
    let counts: Vec<u64> = [100, 10_000, PER_DIRECTORY, wanted].into_iter().collect();
    let costs: Vec<Costs> = counts.iter().map(|count| measure(&files, *count)).collect();
    for (count, costs) in counts.iter().zip(&costs) {
        let text = format!(
            "{count} files: create {:.0}, look up {:.0}, look up what is absent {:.0}, list {:.0}, unlink {:.0} ns of processor time",
            costs.create, costs.look_up, costs.absent, costs.list, costs.unlink
        );
        note("many files", &text);
    }
    let wait = memory_wait(&region.file());
    note("many files", &format!("a look at a random place in the region costs {wait:.0} ns"));
    let (few, many) = (&costs[0], &costs[costs.len() - 1]);
    for (what, few, many) in [
        ("create", few.create, many.create),
        ("look up", few.look_up, many.look_up),
        ("look up what is absent", few.absent, many.absent),
        ("list", few.list, many.list),
        ("unlink", few.unlink, many.unlink),
    ] {
        let most = few * GROWTH + wait * PLACES;
        assert!(many <= most, "{what}: {few:.0} ns among 100 files, {many:.0} ns among {wanted}, at most {most:.0}");
    }
    assert_eq!(files.usage().inodes_used, few.inodes, "inodes that nobody owns");
}

/// Nanoseconds of processor time per call.
struct Costs {
    create: f64,
    look_up: f64,
    absent: f64,
    list: f64,
    unlink: f64,
    inodes: u64,
}

fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn per_call(count: u64, mut call: impl FnMut(u64)) -> f64 {
    let started = processor_time();
    (0..count).for_each(&mut call);
    (processor_time() - started).as_nanos() as f64 / count as f64
}

/// Nanoseconds that one load from a random place of the file's mapping takes when the next depends on it.
fn memory_wait(file: &std::path::Path) -> f64 {
    let file = std::fs::File::open(file).expect("the region's file");
    let length = file.metadata().expect("its length").len() as usize;
    let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED | libc::MAP_POPULATE);
    // SAFETY: a new mapping of the whole file, where the kernel finds room for it.
    let start =
        unsafe { libc::mmap(std::ptr::null_mut(), length, read, shared, std::os::fd::AsRawFd::as_raw_fd(&file), 0) };
    assert_ne!(start, libc::MAP_FAILED, "map the region's file");
    let mut random = Random::new(1);
    let mut mixed = 0;
    let mut load = |_| {
        let place = (random.word() ^ (mixed & 1)) as usize % (length / 64) * 64;
        // SAFETY: inside the mapping; bytes that others change meanwhile are only mixed up.
        mixed = unsafe { std::ptr::read_volatile(start.cast::<u8>().add(place)) }.into();
    };
    (0..100_000).for_each(&mut load);
    let wait = per_call(100_000, load);
    // SAFETY: our own mapping, used no more.
    unsafe { libc::munmap(start, length) };
    wait
}

fn path(index: u64) -> String {
    format!("d{}/file-{index}", index / PER_DIRECTORY)
}

fn measure(files: &FileSystem, count: u64) -> Costs {
    let volume = RegionVolume::over(files, b"").expect("the root");
    let directories = count.div_ceil(PER_DIRECTORY);
    let inodes = files.usage().inodes_used;
    for index in 0..directories {
        volume.mkdir(None, format!("d{index}").as_bytes(), 0o755).expect("mkdir");
    }
    // A hundred files are made often enough that the clock sees them.
    let rounds = (20_000 / count).max(1);
    let (mut create, mut unlink) = (0.0, 0.0);
    for round in 0..rounds {
        create += per_call(count, |index| {
            let name = path(index);
            let file = volume.open(None, name.as_bytes(), libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY, 0o644);
            let file = file.unwrap_or_else(|error| panic!("create {name}: errno {error}"));
            if index.is_multiple_of(100) {
                volume.write(file, b"tiny", None).expect("write");
            }
            volume.close(file).expect("close");
        });
        if round + 1 < rounds {
            unlink += per_call(count, |index| volume.unlink(None, path(index).as_bytes()).expect("unlink"));
        }
    }
    let mut random = Random::new(count);
    let looks = count.clamp(20_000, 300_000);
    let look_up = per_call(looks, |_| {
        let name = path(random.below(count));
        volume.stat(None, name.as_bytes(), true).unwrap_or_else(|error| panic!("{name} is lost: errno {error}"));
    });
    let absent = per_call(looks, |index| {
        let name = format!("d{}/absent-{index}", index % directories);
        assert_eq!(volume.stat(None, name.as_bytes(), true), Err(libc::ENOENT));
    });
    let mut listed = 0;
    let list_rounds = (20_000 / count).max(1);
    let list = per_call(directories * list_rounds, |index| {
        let name = format!("d{}", index % directories);
        let directory = volume.open(None, name.as_bytes(), libc::O_RDONLY | libc::O_DIRECTORY, 0).expect("open");
        listed += volume.list(directory).expect("list").len() as u64;
        volume.close(directory).expect("close");
    });
    assert_eq!(listed, count * list_rounds, "names in the lists");
    unlink += per_call(count, |index| volume.unlink(None, path(index).as_bytes()).expect("unlink"));
    for index in 0..directories {
        volume.rmdir(None, format!("d{index}").as_bytes()).expect("rmdir");
    }
    let rounds = rounds as f64;
    let list = list * (directories * list_rounds) as f64 / listed as f64;
    Costs { create: create / rounds, look_up, absent, list, unlink: unlink / rounds, inodes }
}
