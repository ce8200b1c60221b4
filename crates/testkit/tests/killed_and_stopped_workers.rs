//! The fear: processes that are killed or stopped in the middle of their work damage what the others do, or stop them.

use lifeboat_fs::{FileSystem, OpenFile};
use lifeboat_region::image;
use lifeboat_region::lane::Lane;
use lifeboat_region::layout::CELL;
use lifeboat_testkit::child::{self, Process, Role, number, report, setting};
use lifeboat_testkit::random::{Random, seed};
use lifeboat_testkit::report::{full, note};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchRegion, attach, check};
use lifeboat_testkit::volume::Volume;
use lifeboat_testkit::workers::{
    CONTENDED, Done, LOG, check_log, check_names, make_log, record, volume, whole_records, work,
};
use std::path::Path;
use std::time::{Duration, Instant};

/// Each process ends its part of the common log here: hundreds come and go.
const LOG_SHARE: u64 = 60_000;

#[test]
fn entry_of_child_processes() {
    child::enter(&[
        ("worker", worker),
        ("holder", holder),
        ("keeper", keeper_of_a_lock),
        ("opener", opener),
        ("freer", freer),
    ]);
}

#[test]
fn workers_that_are_killed_do_not_stop_the_others() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("storm", 160 << 20);
    make_log(&region.attach());
    let mut random = Random::new(seed(900));
    let start = |index: u64, random: &mut Random| {
        Role::new("worker")
            .with("REGION", region.path().display())
            .with("INDEX", index)
            .with("SECONDS", 600)
            .with("LOG_SHARE", LOG_SHARE)
            .with("SEED", random.word() >> 1)
            .spawn()
    };
    let survivor = Role::new("holder").with("REGION", region.path().display()).with("SECONDS", 6).spawn();
    let files = region.attach();
    let mut workers: Vec<(u64, Process)> = (0..3).map(|index| (index, start(index, &mut random))).collect();
    let end = Instant::now() + Duration::from_secs(6);
    let mut kills = 0;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_micros(random.below(50_000)));
        let (index, victim) = workers.swap_remove(random.below(3) as usize);
        let ended = victim.kill();
        assert!(!ended.noise.contains("panicked"), "a worker {}", ended.describe());
        remove_files_of(&files, index);
        kills += 1;
        workers.push((kills + 2, start(kills + 2, &mut random)));
    }
    drop(workers);
    let ended = survivor.wait(Duration::from_secs(30));
    assert!(ended.status.is_some_and(|status| status.success()), "the survivor {}", ended.describe());
    note("storm", &format!("{kills} kills; longest call of a survivor {}", ended.reports.join(" ")));
    files.reap(None);
    let checked = check(&files);
    assert!(checked.is_clean(), "after {kills} kills: {checked}");
    whole_records(&files);
}

/// Makes room for the next worker.
fn remove_files_of(files: &FileSystem, index: u64) {
    let volume = volume(files);
    let directory = volume.open(None, b".", libc::O_RDONLY | libc::O_DIRECTORY, 0).expect("open directory");
    let prefix = format!("w{index}-");
    for (name, _) in volume.list(directory).expect("list") {
        if name.starts_with(prefix.as_bytes()) {
            volume.unlink(None, &name).expect("unlink a dead worker's file");
        }
    }
    volume.close(directory).expect("close");
}

#[test]
fn workers_that_are_stopped_are_waited_for_and_lose_nothing() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("stopped", 160 << 20);
    make_log(&region.attach());
    let (count, seconds) = (4, if full() { 60 } else { 4 });
    let workers: Vec<Process> = (0..count)
        .map(|index| {
            Role::new("worker")
                .with("REGION", region.path().display())
                .with("INDEX", index)
                .with("SECONDS", seconds)
                .with("LOG_SHARE", 50 * LOG_SHARE)
                .with("SEED", seed(950))
                .spawn()
        })
        .collect();
    let mut random = Random::new(seed(951));
    let end = Instant::now() + Duration::from_secs(seconds - 1);
    let mut stops = 0;
    while Instant::now() < end {
        let id = workers[random.below(count) as usize].id();
        signal(id, libc::SIGSTOP);
        // Often longer than the time after which a waiter looks whether the holder of a lock is dead.
        std::thread::sleep(Duration::from_millis(random.below(200)));
        signal(id, libc::SIGCONT);
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        stops += 1;
    }
    let mut reports = Vec::new();
    for worker in workers {
        let ended = worker.wait(Duration::from_secs(40));
        assert!(ended.status.is_some_and(|status| status.success()), "a worker {}", ended.describe());
        reports.extend(ended.reports);
    }
    let files = region.attach();
    let done: Vec<Done> = reports.iter().filter_map(|line| Done::parse(line)).collect();
    assert_eq!(done.len() as u64, count, "workers that came to their end");
    check_names(&files, &reports);
    let records = check_log(&files, &done);
    note("stopped workers", &format!("{stops} stops, {records} records"));
    let checked = check(&files);
    assert!(checked.is_clean(), "after {stops} stops: {checked}");
}

fn signal(process: u32, number: i32) {
    // SAFETY: sends a signal to a child of ours that has not been waited for, so the number is still its own.
    assert_eq!(unsafe { libc::kill(process as i32, number) }, 0, "signal our child");
}

fn worker() {
    let files = attach(Path::new(&setting("REGION"))).expect("attach");
    work(&files, number("INDEX"));
}

/// Works among processes that are killed, and says how long its longest call took.
fn holder() {
    let files = attach(Path::new(&setting("REGION"))).expect("attach");
    let volume = volume(&files);
    let end = Instant::now() + Duration::from_secs(number("SECONDS"));
    let mut longest = Duration::ZERO;
    let mut sequence = 0_u64;
    while Instant::now() < end {
        sequence += 1;
        let started = Instant::now();
        let name = format!("everybodys-{}", sequence % CONTENDED);
        if let Ok(file) = volume.open(None, name.as_bytes(), libc::O_CREAT | libc::O_RDWR, 0o644) {
            volume.write(file, &[3; 9000], Some(0)).expect("write among the dying");
            volume.close(file).expect("close");
        }
        let log = volume.open(None, LOG, libc::O_WRONLY | libc::O_APPEND, 0).expect("open the log");
        if sequence < 2000 {
            let data = record(1 << 40, sequence - 1, 500);
            assert_eq!(volume.write(log, &data, None), Ok(data.len()), "append among the dying");
        }
        volume.close(log).expect("close");
        longest = longest.max(started.elapsed());
        std::thread::sleep(Duration::from_micros(200));
    }
    assert!(longest < Duration::from_secs(2), "a survivor waited {longest:?} for the dead");
    report(&format!("{longest:?}"));
}

/// Opens one file, takes the lock of another's inode, and never gives it back.
fn keeper_of_a_lock() {
    let files = attach(Path::new(&setting("REGION"))).expect("attach");
    let volume = volume(&files);
    let open = volume.open(None, b"open", libc::O_RDWR, 0).expect("open");
    let locked = volume.open(None, b"locked", libc::O_RDONLY, 0).expect("open");
    let lane = Lane::claim(files.region()).expect("a lane");
    lane.lock(lock_at(&files, locked), &files).expect("the lock");
    report("ready");
    std::thread::sleep(Duration::from_secs(60));
    drop(lane);
    volume.close(open).expect("close");
}

/// Where the lock word of a file's inode lies.
fn lock_at(files: &FileSystem, file: OpenFile) -> u64 {
    files.inode_of(file).expect("an open file").number() * CELL
}

#[test]
fn who_recovers_a_dead_process_never_waits_for_a_lock_of_its_own() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("own-lock", 16 << 20);
    let files = region.attach();
    let volume = volume(&files);
    let [open, locked] = [&b"open"[..], b"locked"]
        .map(|name| volume.open(None, name, libc::O_CREAT | libc::O_RDWR, 0o644).expect("create"));
    let mut dead = Role::new("keeper").with("REGION", region.path().display()).spawn();
    assert_eq!(dead.next_report(Duration::from_secs(20)), "ready");
    dead.kill();
    // As a call that needs both inodes: the second is the dead process's, which has the first open.
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let lane = Lane::claim(files.region()).expect("a lane");
            lane.lock(lock_at(&files, open), &files).expect("free");
            lane.lock(lock_at(&files, locked), &files).expect("taken over from the dead");
            drop(lane);
            done.send(()).expect("somebody listens");
        });
        if finished.recv_timeout(Duration::from_secs(10)).is_err() {
            // The thread cannot be ended, so the process is.
            eprintln!("recovering a dead process waits for a lock that the recoverer holds");
            std::process::abort();
        }
    });
    volume.close(open).expect("close");
    volume.close(locked).expect("close");
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
}

/// Opens a file many times.
fn opener() {
    let files = attach(Path::new(&setting("REGION"))).expect("attach");
    let volume = volume(&files);
    for _ in 0..OPENED {
        volume.open(None, b"open", libc::O_CREAT | libc::O_RDWR, 0o644).expect("open");
    }
    report("ready");
    std::thread::sleep(Duration::from_secs(60));
}

const OPENED: usize = 300;

#[test]
fn two_who_close_what_a_dead_process_had_open_do_not_fail_each_other() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("two-reapers", 16 << 20);
    let files = region.attach();
    for round in 0..10 {
        let mut dead = Role::new("opener").with("REGION", region.path().display()).spawn();
        assert_eq!(dead.next_report(Duration::from_secs(20)), "ready");
        dead.kill();
        let together = std::sync::Barrier::new(2);
        let closed = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                together.wait();
                files.reap(None)
            });
            together.wait();
            // It answered EBADF when the other was faster somewhere.
            files.sweep().unwrap_or_else(|error| panic!("round {round}: recovering failed: {error}"));
            other.join().expect("a reaper")
        });
        note("two reapers", &format!("{closed} of {OPENED} closed by the other"));
    }
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
}

/// As a process that has freed an inode, whose place has a file's bytes by now, and has not yet forgotten the lock.
fn freer() {
    let files = attach(Path::new(&setting("REGION"))).expect("attach");
    let file = volume(&files).open(None, b"freed", libc::O_RDWR, 0).expect("open");
    let mut place = 0;
    let pin = files.map(file, 0, 4096, false, &mut |piece| place = piece.region_offset).expect("a place of the file");
    files.unmap(pin).expect("unmap");
    let lane = Lane::claim(files.region()).expect("a lane");
    lane.lock(place, &files).expect("the lock");
    volume(&files).write(file, b"no lock any more", Some(0)).expect("write");
    report("ready");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn who_died_while_freeing_an_inode_is_recovered_though_its_place_is_used_again() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("freed", 16 << 20);
    let files = region.attach();
    let volume = volume(&files);
    let file = volume.open(None, b"freed", libc::O_CREAT | libc::O_RDWR, 0o644).expect("create");
    volume.write(file, &[0; 4096], None).expect("write");
    let mut dead = Role::new("freer").with("REGION", region.path().display()).spawn();
    assert_eq!(dead.next_report(Duration::from_secs(20)), "ready");
    dead.kill();
    // It answered EUCLEAN for ever.
    files.sweep().expect("recover the dead process");
    let own = image::own(files.region()).expect("our image");
    let mut others = 0;
    image::attached(files.region(), |image, _| others += u32::from(image != own)).expect("the table of images");
    assert_eq!(others, 0, "the dead process was not recovered");
    assert_eq!(volume.read(file, 16, Some(0)), Ok(b"no lock any more".to_vec()));
    volume.close(file).expect("close");
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
}
