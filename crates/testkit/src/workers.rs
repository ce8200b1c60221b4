//! Workers that use one directory at the same time: they create, append, rename and unlink, fight for a few names, and
//! write records to one common log; each reports what it leaves, so that everything can be checked afterwards.

use crate::child::{number, report};
use crate::random::{Random, bytes};
use crate::volume::{RegionVolume, Volume};
use lifeboat_fs::FileSystem;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The common log.
pub const LOG: &[u8] = b"log of all";
/// How many names all workers fight for: `everybodys-0` and so on.
pub const CONTENDED: u64 = 4;
const HEADER: usize = 24;

/// The root of the file system.
pub fn volume(files: &FileSystem) -> RegionVolume<'_> {
    RegionVolume::over(files, b"").expect("the root")
}

/// Makes the empty common log.
pub fn make_log(files: &FileSystem) {
    let volume = volume(files);
    let log = volume.open(None, LOG, libc::O_CREAT | libc::O_WRONLY, 0o644).expect("create the log");
    volume.close(log).expect("close");
}

/// A record of the common log: writer, its number, its length, then bytes that those three give.
pub fn record(index: u64, sequence: u64, length: usize) -> Vec<u8> {
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

/// Works for `SECONDS` from `SEED`, ends its part of the log at `LOG_SHARE` bytes, then reports what it leaves.
pub fn work(files: &FileSystem, index: u64) {
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
pub fn check_names(files: &FileSystem, reports: &[String]) {
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
pub fn whole_records(files: &FileSystem) -> BTreeMap<u64, u64> {
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

/// Every record that a worker counted is in the log; gives how many there are.
pub fn check_log(files: &FileSystem, done: &[Done]) -> u64 {
    let counts = whole_records(files);
    for Done { index, records, .. } in done {
        assert_eq!(counts.get(index).copied().unwrap_or(0), *records, "records of worker {index} are lost");
    }
    counts.values().sum()
}

/// A worker's last words.
pub struct Done {
    /// Which worker.
    pub index: u64,
    /// Calls that it made.
    pub calls: u64,
    /// Records that it wrote.
    pub records: u64,
}

impl Done {
    /// From a line that it reported; `None` when the line is another.
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.strip_prefix("done ")?.split(' ').map(|field| field.parse().expect("a number"));
        let mut next = || fields.next().expect("three numbers");
        Some(Self { index: next(), calls: next(), records: next() })
    }
}
