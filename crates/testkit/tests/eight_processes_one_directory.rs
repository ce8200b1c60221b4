//! The fear: processes that work in one directory at once lose each other's files, tear each other's records, or leave
//! space behind that nobody owns.

use lifeboat_fs::{FileSystem, Usage};
use lifeboat_testkit::child::{self, Process, Role, number, report, setting};
use lifeboat_testkit::model::remove_all;
use lifeboat_testkit::random::{Random, bytes, seed};
use lifeboat_testkit::report::{full, note};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchRegion, attach, check};
use lifeboat_testkit::volume::{RegionVolume, Volume};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

const PROCESSES: u64 = 8;
const LOG: &[u8] = b"log of all";
const HEADER: usize = 24;
/// Each process ends its part of the common log here, so that all parts fit.
const LOG_SHARE: u64 = 6 << 20;
/// The same where hundreds of processes come and go.
const SMALL_LOG_SHARE: u64 = 60_000;
const CONTENDED: u64 = 4;
const FORKS: u64 = 4;

#[test]
fn entry_of_child_processes() {
    child::enter(&[("worker", worker), ("threads", threads), ("forks", forks), ("racer", racer), ("holder", holder)]);
}

#[test]
fn eight_processes_in_one_directory_lose_no_entry_and_tear_no_record() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("eight", 160 << 20);
    let seconds = if full() { 300 } else { 30 };
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

/// A worker's last words.
struct Done {
    index: u64,
    calls: u64,
    records: u64,
}

impl Done {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.strip_prefix("done ")?.split(' ').map(|field| field.parse().expect("a number"));
        let mut next = || fields.next().expect("three numbers");
        Some(Self { index: next(), calls: next(), records: next() })
    }
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
            .with("LOG_SHARE", SMALL_LOG_SHARE)
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

fn volume(files: &FileSystem) -> RegionVolume<'_> {
    RegionVolume::over(files, b"").expect("the root")
}

fn make_log(files: &FileSystem) {
    let volume = volume(files);
    let log = volume.open(None, LOG, libc::O_CREAT | libc::O_WRONLY, 0o644).expect("create the log");
    volume.close(log).expect("close");
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

/// A record of the common log: writer, its number, its length, then bytes that those three give.
fn record(index: u64, sequence: u64, length: usize) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER + length);
    for field in [index, sequence, length as u64] {
        record.extend_from_slice(&field.to_le_bytes());
    }
    record.extend_from_slice(&bytes(index << 32 | sequence, length));
    record
}

struct Worker<'f> {
    volume: RegionVolume<'f>,
    random: Random,
    index: u64,
    /// Our files: name, and the tag and length of the content.
    mine: BTreeMap<String, (u64, usize)>,
    next_name: u64,
    records: u64,
    logged: u64,
    log_share: u64,
    calls: u64,
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

fn work(files: &FileSystem, index: u64) {
    let mut worker = Worker {
        volume: volume(files),
        random: Random::new(number("SEED") + index),
        index,
        mine: BTreeMap::new(),
        next_name: 0,
        records: 0,
        logged: 0,
        log_share: number("LOG_SHARE"),
        calls: 0,
    };
    let log = worker.volume.open(None, LOG, libc::O_WRONLY | libc::O_APPEND, 0).expect("open the log");
    let end = Instant::now() + Duration::from_secs(number("SECONDS"));
    while Instant::now() < end {
        for _ in 0..20 {
            worker.step(log);
        }
        worker.sees_its_own();
    }
    worker.volume.close(log).expect("close");
    for (name, (tag, length)) in &worker.mine {
        report(&format!("file {tag} {length} {name}"));
    }
    report(&format!("done {index} {} {}", worker.calls, worker.records));
}

impl Worker<'_> {
    fn step(&mut self, log: lifeboat_fs::OpenFile) {
        self.calls += 1;
        match self.random.below(100) {
            0..30 if self.logged < self.log_share => {
                let length = self.random.pick(&[0, 40, 500, 3000, 5000]);
                let data = record(self.index, self.records, length);
                assert_eq!(self.volume.write(log, &data, None), Ok(data.len()), "append a record");
                self.records += 1;
                self.logged += data.len() as u64;
            }
            0..50 if self.mine.len() < 60 => self.create(),
            0..70 => self.rename(),
            70..85 => self.remove(),
            85..90 => self.append(),
            _ => self.contend(),
        }
    }

    fn fresh_name(&mut self) -> String {
        self.next_name += 1;
        let filler = self.random.pick(&["", "", "-with-a-name-that-is-longer-than-a-directory-entry-can-hold"]);
        format!("w{}-{}{filler}", self.index, self.next_name)
    }

    fn some_of_mine(&mut self) -> Option<String> {
        let count = self.mine.len() as u64;
        if count == 0 {
            return None;
        }
        self.mine.keys().nth(self.random.below(count) as usize).cloned()
    }

    fn create(&mut self) {
        let (name, tag) = (self.fresh_name(), self.random.word());
        let length = self.random.pick(&[0, 10, 4096, 10_000, 70_000]);
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
        let file = self.volume.open(None, name.as_bytes(), flags, 0o644).expect("create");
        assert_eq!(self.volume.write(file, &bytes(tag, length), None), Ok(length), "write");
        self.volume.close(file).expect("close");
        self.mine.insert(name, (tag, length));
    }

    /// Onto a new name, or over another of ours.
    fn rename(&mut self) {
        let Some(old) = self.some_of_mine() else { return };
        let new = match self.some_of_mine() {
            Some(other) if self.random.chance(30) && other != old => other,
            _ => self.fresh_name(),
        };
        self.volume.rename(None, old.as_bytes(), new.as_bytes(), 0).expect("rename");
        let content = self.mine.remove(&old).expect("ours");
        self.mine.insert(new, content);
    }

    fn remove(&mut self) {
        let Some(name) = self.some_of_mine() else { return };
        self.volume.unlink(None, name.as_bytes()).expect("unlink");
        self.mine.remove(&name);
    }

    fn append(&mut self) {
        let Some(name) = self.some_of_mine() else { return };
        let (tag, length) = self.mine[&name];
        let more = length + 900;
        if more > 100_000 {
            return;
        }
        let file = self.volume.open(None, name.as_bytes(), libc::O_WRONLY | libc::O_APPEND, 0).expect("open");
        assert_eq!(self.volume.write(file, &bytes(tag, more)[length..], None), Ok(900), "append");
        self.volume.close(file).expect("close");
        self.mine.insert(name, (tag, more));
    }

    /// Names that all processes fight for: only the answers that a race allows.
    fn contend(&mut self) {
        let (one, other) = (self.random.below(CONTENDED), self.random.below(CONTENDED));
        let (one, other) = (format!("everybodys-{one}"), format!("everybodys-{other}"));
        match self.random.below(4) {
            0 => {
                let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
                match self.volume.open(None, one.as_bytes(), flags, 0o644) {
                    Ok(file) => {
                        self.volume.write(file, &[1; 5000], None).expect("write to a contended file");
                        self.volume.close(file).expect("close");
                    }
                    Err(error) => assert_eq!(error, libc::EEXIST, "create a contended name"),
                }
            }
            1 => self.allowed(self.volume.unlink(None, one.as_bytes()), libc::ENOENT),
            2 => self.allowed(self.volume.rename(None, one.as_bytes(), other.as_bytes(), 0), libc::ENOENT),
            _ => self.allowed(self.volume.stat(None, one.as_bytes(), true).map(drop), libc::ENOENT),
        }
    }

    fn allowed(&self, answer: Result<(), i32>, error: i32) {
        assert!(answer.is_ok() || answer == Err(error), "a contended name: {answer:?}");
    }

    /// The directory, read while seven others change it, shows each of our files exactly once.
    fn sees_its_own(&self) {
        let directory = self.volume.open(None, b".", libc::O_RDONLY | libc::O_DIRECTORY, 0).expect("open directory");
        let names = self.volume.list(directory).expect("list");
        self.volume.close(directory).expect("close");
        let prefix = format!("w{}-", self.index);
        let seen: Vec<String> = (names.into_iter())
            .map(|(name, _)| String::from_utf8(name).expect("our names are text"))
            .filter(|name| name.starts_with(&prefix))
            .collect();
        let expected: Vec<String> = {
            let mut all: Vec<String> = self.mine.keys().cloned().collect();
            all.sort();
            all
        };
        assert_eq!(seen, expected, "a directory that others change loses or doubles an entry");
    }
}

/// Every file that the workers say they left is there with its content, and nothing else is.
fn check_names(files: &FileSystem, reports: &[String]) {
    let volume = volume(files);
    let mut expected = BTreeSet::new();
    for line in reports.iter().filter_map(|line| line.strip_prefix("file ")) {
        let mut fields = line.splitn(3, ' ');
        let mut next = || fields.next().expect("three fields");
        let (tag, length, name) = (next().parse().expect("tag"), next().parse().expect("length"), next());
        let file = volume.open(None, name.as_bytes(), libc::O_RDONLY, 0);
        let file = file.unwrap_or_else(|error| panic!("{name} is lost: errno {error}"));
        let content = volume.read(file, length + 1, Some(0)).expect("read");
        assert!(content == bytes(tag, length), "{name} has other content");
        volume.close(file).expect("close");
        expected.insert(name.as_bytes().to_vec());
    }
    let directory = volume.open(None, b".", libc::O_RDONLY | libc::O_DIRECTORY, 0).expect("open directory");
    for (name, _) in volume.list(directory).expect("list") {
        let known = expected.contains(&name) || name == LOG || name.starts_with(b"everybodys-");
        assert!(known, "{:?} should have been removed", String::from_utf8_lossy(&name));
    }
    volume.close(directory).expect("close");
}

/// How many records each writer has in the common log; fails on a torn one, and on one out of its writer's order.
fn whole_records(files: &FileSystem) -> BTreeMap<u64, u64> {
    let volume = volume(files);
    let log = volume.open(None, LOG, libc::O_RDONLY, 0).expect("open the log");
    let mut content = Vec::new();
    loop {
        let piece = volume.read(log, 1 << 20, None).expect("read the log");
        if piece.is_empty() {
            break;
        }
        content.extend_from_slice(&piece);
    }
    volume.close(log).expect("close");
    let mut counts = BTreeMap::new();
    let mut at = 0;
    while at < content.len() {
        let field = |index: usize| {
            let start = at + index * 8;
            let bytes = content.get(start..start + 8).expect("a whole header at the end of the log");
            u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
        };
        let (index, sequence, length) = (field(0), field(1), field(2) as usize);
        assert!(length <= 5000, "a torn record at {at}");
        let whole = record(index, sequence, length);
        assert!(content.get(at..at + whole.len()) == Some(&whole[..]), "a torn record at {at}");
        let count = counts.entry(index).or_insert(0);
        assert_eq!(sequence, *count, "a record of process {index} is lost or out of order");
        *count += 1;
        at += whole.len();
    }
    counts
}

fn check_log(files: &FileSystem, done: &[Done]) -> u64 {
    let counts = whole_records(files);
    for Done { index, records, .. } in done {
        assert_eq!(counts.get(index).copied().unwrap_or(0), *records, "records of worker {index} are lost");
    }
    counts.values().sum()
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
