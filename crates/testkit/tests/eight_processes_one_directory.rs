//! The fear: processes that work in one directory at once lose each other's files, tear each other's records, or leave
//! space behind that nobody owns.

use lifeboat_fs::{FileSystem, Usage};
use lifeboat_testkit::child::{self, Process, Role, number, report, setting};
use lifeboat_testkit::model::remove_all;
use lifeboat_testkit::random::seed;
use lifeboat_testkit::report::{full, note};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchRegion, attach, check};
use lifeboat_testkit::volume::Volume;
use lifeboat_testkit::workers::{Done, check_log, check_names, make_log, volume, work};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const PROCESSES: u64 = 8;
/// Each worker ends its part of the common log here, so that all parts fit.
const LOG_SHARE: u64 = 6 << 20;
const FORKS: u64 = 4;

#[test]
fn entry_of_child_processes() {
    child::enter(&[("worker", worker), ("threads", threads), ("forks", forks), ("racer", racer)]);
}

#[test]
fn eight_processes_in_one_directory_lose_no_entry_and_tear_no_record() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("eight", 160 << 20);
    let seconds = if full() { 100 } else { 30 };
    let before = settled_usage(&region.attach());
    make_log(&region.attach());
    let workers: Vec<Process> = (0..PROCESSES)
        .map(|index| {
            Role::new("worker")
                .with("REGION", region.path().display())
                .with("INDEX", index)
                .with("SECONDS", seconds)
                .with("LOG_SHARE", LOG_SHARE)
                .with("SEED", seed(500))
                .spawn()
        })
        .collect();
    let reports: Vec<String> = (workers.into_iter())
        .flat_map(|worker| {
            let ended = worker.wait(Duration::from_secs(seconds + 40));
            assert!(ended.status.is_some_and(|status| status.success()), "a worker {}", ended.describe());
            ended.reports
        })
        .collect();
    assert_all_is_there("eight processes", &region, before, PROCESSES, &reports);
}

#[test]
fn eight_threads_of_one_process_lose_no_entry_and_tear_no_record() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("threads", 160 << 20);
    let before = settled_usage(&region.attach());
    make_log(&region.attach());
    let reports = of_one_process("threads", &region);
    assert_all_is_there("eight threads", &region, before, PROCESSES, &reports);
}

#[test]
fn forked_children_and_their_parent_lose_no_entry_and_tear_no_record() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("forks", 160 << 20);
    let before = settled_usage(&region.attach());
    make_log(&region.attach());
    let reports = of_one_process("forks", &region);
    assert_all_is_there("a parent and its children", &region, before, FORKS + 1, &reports);
}

fn of_one_process(role: &str, region: &ScratchRegion) -> Vec<String> {
    Role::new(role)
        .with("REGION", region.path().display())
        .with("SECONDS", if full() { 60 } else { 4 })
        .with("LOG_SHARE", LOG_SHARE)
        .with("SEED", seed(700))
        .run(Duration::from_secs(120))
}

/// Everything that the workers reported is in the region, nothing else, nothing torn, and it all can be removed.
fn assert_all_is_there(what: &str, region: &ScratchRegion, before: Usage, workers: u64, reports: &[String]) {
    let files = region.attach();
    files.reap(None);
    let done: Vec<Done> = reports.iter().filter_map(|line| Done::parse(line)).collect();
    assert_eq!(done.len() as u64, workers, "workers that came to their end");
    check_names(&files, reports);
    let records = check_log(&files, &done);
    let calls: u64 = done.iter().map(|done| done.calls).sum();
    note(what, &format!("{calls} calls, {records} records"));
    let checked = check(&files);
    assert!(checked.is_clean(), "after the work: {checked}");
    assert_empties(&files, before);
}

#[test]
fn of_thirty_two_processes_that_create_one_name_exactly_one_wins() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("race", 64 << 20);
    let names = 200;
    let racers: Vec<Process> = (0..32)
        .map(|_| Role::new("racer").with("REGION", region.path().display()).with("NAMES", names).spawn())
        .collect();
    let mut wins = BTreeMap::new();
    for racer in racers {
        let ended = racer.wait(Duration::from_secs(60));
        assert!(ended.status.is_some_and(|status| status.success()), "a racer {}", ended.describe());
        for won in ended.reports {
            *wins.entry(won).or_insert(0) += 1;
        }
    }
    assert_eq!(wins.len(), names, "a name that nobody won");
    assert!(wins.values().all(|count| *count == 1), "a name that two processes created: {wins:?}");
}

/// Usage after space has been taken and given back once, so that what a file system keeps for good is in it.
fn settled_usage(files: &FileSystem) -> Usage {
    let volume = volume(files);
    let file = volume.open(None, b"first", libc::O_CREAT | libc::O_WRONLY, 0o644).expect("create");
    volume.write(file, &[1; 200_000], None).expect("write");
    volume.close(file).expect("close");
    volume.unlink(None, b"first").expect("unlink");
    files.usage()
}

fn assert_empties(files: &FileSystem, before: Usage) {
    remove_all(&volume(files), b"").expect("remove all");
    let after = files.usage();
    assert_eq!(after.inodes_used, before.inodes_used, "inodes that nobody owns");
    // Space may stay assigned to a kind of unit, but the whole must be free for files again.
    assert!(after.bytes_free + (8 << 20) >= before.bytes_free, "space is gone: {before:?}, then {after:?}");
    let checked = check(files);
    assert!(checked.is_clean(), "when all is removed: {checked}");
}

fn worker() {
    let files = attach(Path::new(&setting("REGION"))).expect("attach");
    work(&files, number("INDEX"));
}

/// Eight workers, each a thread, with one file system between them.
fn threads() {
    let files = attach(Path::new(&setting("REGION"))).expect("attach");
    std::thread::scope(|scope| {
        for index in 0..PROCESSES {
            let files = &files;
            scope.spawn(move || work(files, index));
        }
    });
}

/// Workers that are forked off a process which has attached, and that process itself.
fn forks() {
    let files = attach(Path::new(&setting("REGION"))).expect("attach");
    let children: Vec<i32> = (0..FORKS)
        .map(|index| {
            // SAFETY: this process has one thread that runs and one that waits for it; the child uses what it has
            // inherited and leaves by `_exit`.
            let child = unsafe { libc::fork() };
            assert!(child >= 0, "cannot fork");
            if child == 0 {
                files.after_fork().expect("a slot for the child");
                let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&files, index)));
                // SAFETY: ends this process.
                unsafe { libc::_exit(i32::from(worked.is_err())) };
            }
            child
        })
        .collect();
    work(&files, FORKS);
    for child in children {
        let mut status = 0;
        // SAFETY: our own child, whose status goes into our own word.
        let waited = unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!((waited, status), (child, 0), "a forked worker failed");
    }
}

fn racer() {
    let files = attach(Path::new(&setting("REGION"))).expect("attach");
    let volume = volume(&files);
    for index in 0..number("NAMES") {
        let name = format!("prize-{index}");
        match volume.open(None, name.as_bytes(), libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY, 0o644) {
            Ok(file) => {
                report(&name);
                volume.close(file).expect("close");
            }
            Err(error) => assert_eq!(error, libc::EEXIST, "the loser of a race"),
        }
    }
}
