//! The fear: a process is killed, and a write that it was told had succeeded is not there, or half of something else is.
//!
//! A writer counts each call after it returned and before it makes the next, in a page that outlives it. The same calls, made on tmpfs up to the
//! last count and once more up to the call in flight, give the two trees of which a reader in a new process, at another
//! address, must see one.

use lifeboat_testkit::child::{self, Progress, Role, number, report, setting};
use lifeboat_testkit::model::{Node, compare, walk};
use lifeboat_testkit::random::{Random, bytes, seed};
use lifeboat_testkit::report::{full, note, skipped};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, ScratchRegion, attach, check};
use lifeboat_testkit::volume::{KernelVolume, RegionVolume, Volume};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);
const MOST_STEPS: u64 = 200_000;

type Tree = BTreeMap<Vec<u8>, Node>;

#[test]
fn entry_of_child_processes() {
    child::enter(&[("writer", writer), ("reader", reader)]);
}

#[test]
fn a_killed_writer_loses_no_completed_write() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("killed", 64 << 20);
    let rounds = if full() { 400 } else { 20 };
    let mut random = Random::new(seed(11));
    let (mut steps, mut other_address, mut in_flight) = (0, 0, 0);
    for round in 0..rounds {
        let first = random.word();
        // Every fourth writer is not killed but leaves by itself, without closing anything.
        let leaves_after = if round % 4 == 3 { 50 + random.below(2000) } else { MOST_STEPS };
        let seen = one_round(&region, round, first, leaves_after, Duration::from_micros(random.below(60_000)));
        steps += seen.steps;
        other_address += u64::from(seen.other_address);
        in_flight += u64::from(seen.was_in_flight);
    }
    let text = format!(
        "{rounds} rounds, {steps} completed calls all found, {in_flight} times a call in flight had taken effect, \
         reader at another address {other_address} times"
    );
    note("killed writer", &text);
    assert!(steps > 100 * rounds, "the writers were killed before they did anything");
    match std::fs::read_to_string("/proc/sys/kernel/randomize_va_space") {
        Ok(text) if text.trim() == "0" => skipped("reader at another address", "address randomisation is off"),
        _ => assert!(other_address * 10 >= rounds * 9, "the reader was at the writer's address"),
    }
}

struct Seen {
    steps: u64,
    other_address: bool,
    was_in_flight: bool,
}

fn one_round(region: &ScratchRegion, round: u64, first: u64, leaves_after: u64, life: Duration) -> Seen {
    let top = format!("round-{round}");
    let copy = ScratchDirectory::on_tmpfs("copy");
    let count = copy.path().join("count");
    let role = |name: &str| {
        let role = Role::new(name).with("REGION", region.path().display()).with("TOP", &top);
        role.with("SEED", first).with("COUNT", count.display())
    };
    let mut writer = role("writer").with("STEPS", leaves_after).spawn();
    let base = writer.next_report(LIMIT);
    std::thread::sleep(life);
    let ended = if leaves_after == MOST_STEPS { writer.kill() } else { writer.wait(LIMIT) };
    assert!(!ended.noise.contains("panicked"), "{}", ended.describe());
    let steps = Progress::open(&count).expect("the writer's count").get();
    let kernel = copy.make("kernel");
    let started = Instant::now();
    let reports = role("reader").with("STEPS", steps).with("KERNEL", kernel.display()).run(LIMIT);
    assert!(started.elapsed() < LIMIT, "the reader hung");
    Seen {
        steps,
        other_address: reports.first() != Some(&base),
        was_in_flight: reports.get(1).is_some_and(|line| line == "after the call in flight"),
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(setting(name))
}

fn address(files: &lifeboat_fs::FileSystem) -> String {
    format!("{:#x}", files.region().base())
}

fn writer() {
    let files = attach(&path("REGION")).expect("attach");
    report(&address(&files));
    let top = setting("TOP");
    let root = RegionVolume::over(&files, b"").expect("the root");
    root.mkdir(None, top.as_bytes(), 0o755).expect("a directory for this round");
    let volume = RegionVolume::over(&files, top.as_bytes()).expect("this round's directory");
    let count = Progress::open(&path("COUNT")).expect("the count");
    let mut steps = Steps::new(&volume, number("SEED"));
    for step in 0..number("STEPS") {
        steps.next();
        count.set(step + 1);
    }
    // As a program that calls `_exit`: nothing is closed.
    std::process::exit(0);
}

fn reader() {
    let files = attach(&path("REGION")).expect("attach after the writer's death");
    report(&address(&files));
    // Nobody holds a file open any more.
    files.reap(None);
    let top = setting("TOP");
    let root = RegionVolume::over(&files, b"").expect("the root");
    if root.stat(None, top.as_bytes(), false) == Err(libc::ENOENT) {
        assert_eq!(number("STEPS"), 0, "the whole directory is gone");
        root.mkdir(None, top.as_bytes(), 0o755).expect("a directory for this round");
    }
    let volume = RegionVolume::over(&files, top.as_bytes()).expect("this round's directory");
    let found = walk(&volume, b"").expect("walk what the writer left");
    let (steps, first) = (number("STEPS"), number("SEED"));
    let kernel = path("KERNEL");
    let (before, after, in_flight) = expected(&kernel, first, steps);
    match (compare(&found, &before), compare(&found, &after)) {
        (None, _) => report("before the call in flight"),
        (_, None) => report("after the call in flight"),
        (Some(first), Some(second)) => {
            if !is_a_torn_overwrite(&found, &before, &after, &in_flight) {
                panic!("after {steps} calls: {first}; with the call in flight ({in_flight:?}): {second}");
            }
            report("in the middle of an overwrite");
        }
    }
    goes_on(&volume);
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
    lifeboat_testkit::model::remove_all(&volume, b"").expect("remove what the writer left");
    root.rmdir(None, top.as_bytes()).expect("remove this round's directory");
    let used = files.usage().inodes_used;
    assert!(used <= 1, "{used} inodes are in use in an empty region");
}

/// Nothing that the writer held may stop the living.
fn goes_on(volume: &RegionVolume<'_>) {
    let started = Instant::now();
    let file = volume.open(None, b"goes on", libc::O_CREAT | libc::O_RDWR, 0o600).expect("create after the death");
    volume.write(file, &[1; 100_000], None).expect("write after the death");
    volume.close(file).expect("close");
    volume.rename(None, b"goes on", b"went on", 0).expect("rename after the death");
    volume.unlink(None, b"went on").expect("unlink after the death");
    for index in 0..Steps::<RegionVolume<'_>>::FILES {
        let name = format!("log-{index}");
        if volume.stat(None, name.as_bytes(), true).is_ok() {
            let file = volume.open(None, name.as_bytes(), libc::O_WRONLY | libc::O_APPEND, 0).expect("open");
            volume.write(file, b"one more", None).expect("append after the death");
            volume.close(file).expect("close");
        }
    }
    assert!(started.elapsed() < Duration::from_secs(1), "the living waited {:?} for the dead", started.elapsed());
}

/// The trees after the reported calls and after one more, made on tmpfs; and what that one more is.
fn expected(kernel: &Path, first: u64, count: u64) -> (Tree, Tree, Call) {
    let volume = KernelVolume::over(kernel, false).expect("a directory on tmpfs");
    let mut steps = Steps::new(&volume, first);
    for _ in 0..count {
        steps.next();
    }
    let before = walk(&volume, b"").expect("a tree on tmpfs");
    let in_flight = steps.next();
    (before, walk(&volume, b"").expect("a tree on tmpfs"), in_flight)
}

/// What a killed `write` inside existing bytes may leave: old and new bytes of its own range, nothing else; when it also
/// grows the file, any size between.
fn is_a_torn_overwrite(found: &Tree, before: &Tree, after: &Tree, in_flight: &Call) -> bool {
    let Call::Overwrite { name, at, length } = in_flight else { return false };
    let name = name.as_bytes();
    let without = |tree: &Tree| {
        let mut rest = tree.clone();
        rest.remove(name);
        rest
    };
    if compare(&without(found), &without(before)).is_some() {
        return false;
    }
    let content = |tree: &Tree| tree.get(name).and_then(|node| node.content.clone().ok());
    let (Some(found), Some(old), Some(new)) = (content(found), content(before), content(after)) else { return false };
    let range = *at..at + length;
    (old.len()..=new.len().max(old.len())).contains(&found.len())
        && found.iter().enumerate().all(|(place, byte)| {
            let is_old = *byte == old.get(place).copied().unwrap_or(0);
            is_old || (range.contains(&place) && Some(byte) == new.get(place))
        })
}

/// One call of the writer.
#[derive(Debug)]
enum Call {
    /// A call that happens wholly or not at all; said in messages.
    Whole(#[allow(dead_code)] String),
    /// A write into existing bytes.
    Overwrite { name: String, at: usize, length: usize },
}

/// The writer's calls: the seed gives them, so that they can be made once more elsewhere. Each step is one call that
/// changes something.
struct Steps<'v, V: Volume> {
    volume: &'v V,
    random: Random,
    open: Vec<Option<V::File>>,
    sizes: Vec<usize>,
    made: u64,
}

impl<'v, V: Volume> Steps<'v, V> {
    const FILES: usize = 3;
    /// Files are emptied at this size, so that many rounds fit into the region.
    const LARGE: usize = 1_500_000;

    fn new(volume: &'v V, first: u64) -> Self {
        Self { volume, random: Random::new(first), open: vec![None; Self::FILES], sizes: vec![0; Self::FILES], made: 0 }
    }

    fn next(&mut self) -> Call {
        let index = self.random.below(Self::FILES as u64) as usize;
        let Some(file) = self.open[index] else { return self.create_log(index) };
        match self.random.below(100) {
            _ if self.sizes[index] > Self::LARGE => {
                self.volume.truncate_open(file, 0).expect("truncate");
                self.sizes[index] = 0;
                Call::Whole(format!("empty log-{index}"))
            }
            0..35 => self.append(index, file),
            35..50 => self.overwrite(index),
            50..55 => {
                let length = self.random.below(self.sizes[index] as u64 + 5000);
                self.volume.truncate(None, format!("log-{index}").as_bytes(), length).expect("truncate");
                self.sizes[index] = length as usize;
                Call::Whole(format!("truncate log-{index} to {length}"))
            }
            _ => self.name_call(),
        }
    }

    fn create_log(&mut self, index: usize) -> Call {
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_APPEND;
        let file = self.volume.open(None, format!("log-{index}").as_bytes(), flags, 0o644).expect("create");
        self.open[index] = Some(file);
        Call::Whole(format!("create log-{index}"))
    }

    fn append(&mut self, index: usize, file: V::File) -> Call {
        let length = 1 + self.random.pick(&[10, 60, 700, 4096, 9000, 70_000]);
        let data = bytes(self.random.word(), length);
        assert_eq!(self.volume.write(file, &data, None), Ok(length), "append");
        self.sizes[index] += length;
        Call::Whole(format!("append {length} to log-{index}"))
    }

    fn overwrite(&mut self, index: usize) -> Call {
        let name = format!("log-{index}");
        let at = self.random.below(self.sizes[index] as u64 + 1) as usize;
        let length = self.random.pick(&[1, 64, 5000, 4096, 100_000]);
        let data = bytes(self.random.word(), length);
        // The log itself is open for appending, which `pwrite` obeys on Linux.
        let file = self.volume.open(None, name.as_bytes(), libc::O_WRONLY, 0).expect("open");
        assert_eq!(self.volume.write(file, &data, Some(at as u64)), Ok(length), "overwrite");
        self.volume.close(file).expect("close");
        self.sizes[index] = self.sizes[index].max(at + length);
        Call::Overwrite { name, at, length }
    }

    fn some_name(&mut self) -> String {
        let long = "long-".repeat(12);
        let stem = self.random.pick(&["f", "g", "d/f", "d/g", long.as_str()]);
        format!("{stem}{}", self.random.below(6))
    }

    fn name_call(&mut self) -> Call {
        self.made += 1;
        let (name, other) = (self.some_name(), self.some_name());
        let (volume, path, new) = (self.volume, name.as_bytes(), other.as_bytes());
        // Errors are part of it: the same calls give the same errors on tmpfs.
        let text = match self.random.below(10) {
            0 | 1 => {
                let file = volume.open(None, path, libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY, 0o600);
                if let Ok(file) = file {
                    volume.close(file).expect("close");
                }
                format!("create {name}: {:?}", file.map(drop))
            }
            2 | 3 => format!("rename {name} to {other}: {:?}", volume.rename(None, path, new, 0)),
            4 => format!("exchange {name} and {other}: {:?}", volume.rename(None, path, new, libc::RENAME_EXCHANGE)),
            5 => format!("unlink {name}: {:?}", volume.unlink(None, path)),
            6 => format!("link {name} to {other}: {:?}", volume.link(None, path, new, false)),
            7 => format!("symlink at {name}: {:?}", volume.symlink(b"target/of/it", None, path)),
            8 => format!("mkdir: {:?}", volume.mkdir(None, b"d", 0o755)),
            _ => format!("rmdir: {:?}", volume.rmdir(None, b"d")),
        };
        Call::Whole(text)
    }
}
