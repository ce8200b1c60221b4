//! The fear: damaged bytes of a region kill a process, hang it, or make it throw away what is whole.
//!
//! Each case damages a copy of a region; a child process attaches it, reads all, checks, and makes a file. It must end by
//! itself, with an error in words where something is wrong, never by a signal.

use lifeboat_region::kept_lane::NOBODYS;
use lifeboat_region::layout::{CELL, RENAME_LOCK, SUPERBLOCK, SWEEP_LOCK};
use lifeboat_region::superblock::ENCODED;
use lifeboat_testkit::child::{self, Role, report, setting};
use lifeboat_testkit::random::{Random, bytes, seed};
use lifeboat_testkit::report::{full, note, skipped};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchRegion, attach, check, is_root};
use lifeboat_testkit::volume::{RegionVolume, Volume};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

const SIZE: u64 = 10 << 20;
const FILES: u64 = 12;
/// How the child begins to say that it could read everything, but not make a file.
const MAKING: &str = "making a file: errno ";
/// A dead holder of a lock is found out in 50 ms; a child that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn entry_of_child_processes() {
    child::enter(&[("prober", prober)]);
}

/// A region with known files, and its bytes, to be damaged and made whole again.
struct Victim {
    region: ScratchRegion,
    file: File,
    whole: Vec<u8>,
    /// Whether the region's bytes may differ from `whole`.
    touched: bool,
}

/// What the child said of a damaged region.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It was not attached; why.
    Refused(String),
    /// Attached, and all files have their content.
    Whole,
    /// Attached, and something answered with an error.
    Errors(String),
    /// Attached, no error, and yet content is wrong or missing.
    Wrong(String),
}

impl Victim {
    fn new(label: &str) -> Self {
        let region = ScratchRegion::new(label, SIZE);
        let files = region.attach();
        let volume = RegionVolume::over(&files, b"").expect("the root");
        volume.mkdir(None, b"d", 0o755).expect("mkdir");
        for index in 0..FILES {
            let flags = libc::O_CREAT | libc::O_WRONLY;
            let file = volume.open(None, name(index).as_bytes(), flags, 0o644).expect("create");
            let data = content(index);
            assert_eq!(volume.write(file, &data, None), Ok(data.len()));
            volume.close(file).expect("close");
        }
        drop(files);
        let path = region.file();
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("the region's file");
        Self { whole: std::fs::read(&path).expect("the region's bytes"), region, file, touched: false }
    }

    /// Offsets of words that hold something and are not file content.
    fn words_in_tables(&self) -> Vec<u64> {
        let mut content_of: Vec<u8> = vec![0; self.whole.len() / 8];
        for index in 0..FILES {
            // Content lies in pieces of at least a block; what begins as a piece of a file does is one.
            for piece in content(index).chunks(4096) {
                let places = (0..self.whole.len()).step_by(8).filter(|at| self.whole[*at..].starts_with(piece));
                for at in places.collect::<Vec<_>>() {
                    content_of[at / 8..(at + piece.len()).div_ceil(8)].fill(1);
                }
            }
        }
        let held = |word: &usize| self.whole[word * 8..][..8] != [0; 8] && content_of[*word] == 0;
        (0..content_of.len()).filter(held).map(|word| word as u64 * 8).collect()
    }

    fn restore(&mut self) {
        if self.touched {
            self.file.set_len(SIZE).expect("the region's length");
            self.file.write_all_at(&self.whole, 0).expect("the region's bytes");
        }
        self.touched = true;
    }

    fn flip(&mut self, offset: u64, bit: u32) {
        let byte = self.whole[offset as usize] ^ (1 << bit);
        self.file.write_all_at(&[byte], offset).expect("the region's bytes");
    }

    /// Starts the child on the region as it is now.
    fn probe(&self, what: &str) -> Verdict {
        self.try_probe().unwrap_or_else(|text| panic!("{what}: the reader {text}"))
    }

    /// The same; the error says how the child came to a bad end.
    fn try_probe(&self) -> Result<Verdict, String> {
        let ended = Role::new("prober").with("REGION", self.region.path().display()).spawn().wait(LIMIT);
        if !ended.status.is_some_and(|status| status.success()) {
            return Err(ended.describe());
        }
        let Some(said) = ended.reports.last() else { return Err("said nothing".to_string()) };
        let (word, text) = said.split_once(' ').unwrap_or((said, ""));
        Ok(match word {
            "refused" => Verdict::Refused(text.to_string()),
            "whole" => Verdict::Whole,
            "errors" => Verdict::Errors(text.to_string()),
            _ => Verdict::Wrong(text.to_string()),
        })
    }

    /// The check names something, the repair mends it, and everything works again.
    fn repair(&self, what: &str) {
        let files = self.region.attach();
        assert!(!check(&files).is_clean(), "{what}: the check finds nothing");
        lifeboat_fs::repair(&files, &mut |_| ()).unwrap_or_else(|error| panic!("{what}: cannot repair: {error}"));
        drop(files);
        assert_eq!(self.probe(what), Verdict::Whole, "{what}: after the repair");
        let checked = check(&self.region.attach());
        assert!(checked.is_clean(), "{what}: after the repair {checked}");
    }

    fn assert_refused(&self, what: &str, saying: &[&str]) {
        match self.probe(what) {
            Verdict::Refused(text) => {
                assert!(!text.contains('\n') && text.len() > 20, "{what}: not one clear line: {text:?}");
                assert!(saying.is_empty() || saying.iter().any(|word| text.contains(word)), "{what}: says {text:?}");
            }
            other => panic!("{what}: not refused but {other:?}"),
        }
    }
}

fn name(index: u64) -> String {
    if index.is_multiple_of(3) { format!("d/file-{index}") } else { format!("file-{index}") }
}

fn content(index: u64) -> Vec<u8> {
    bytes(index + 1, [0, 100, 5000, 70_000][index as usize % 4])
}

fn prober() {
    let files = match attach(Path::new(&setting("REGION"))) {
        Ok(files) => files,
        Err(text) => return report(&format!("refused {text}")),
    };
    let Ok(volume) = RegionVolume::over(&files, b"") else { return report("errors no root") };
    let mut errors = Vec::new();
    let mut wrong = Vec::new();
    for index in 0..FILES {
        let path = name(index);
        let expected = content(index);
        let found = volume.open(None, path.as_bytes(), libc::O_RDONLY, 0).and_then(|file| {
            let found = volume.read(file, expected.len() + 1, Some(0));
            let _ = volume.close(file);
            found
        });
        match found {
            Ok(found) if found == expected => {}
            Ok(_) => wrong.push(format!("{path} has other content")),
            Err(libc::ENOENT) => wrong.push(format!("{path} is gone")),
            Err(error) => errors.push(format!("{path}: errno {error}")),
        }
    }
    if let Ok(directory) = volume.open(None, b".", libc::O_RDONLY | libc::O_DIRECTORY, 0) {
        let _ = volume.list(directory);
        let _ = volume.close(directory);
    }
    let _ = check(&files);
    errors.extend(use_it(&volume).err().map(|error| format!("{MAKING}{error}")));
    let _ = check(&files);
    match (wrong.is_empty(), errors.is_empty()) {
        (true, true) => report("whole"),
        (_, false) => report(&format!("errors {}", errors.join(", "))),
        (false, true) => report(&format!("wrong {}", wrong.join(", "))),
    }
}

fn use_it(volume: &RegionVolume<'_>) -> Result<(), i32> {
    let file = volume.open(None, b"new", libc::O_CREAT | libc::O_RDWR, 0o644)?;
    let written = volume.write(file, &[7; 9000], None);
    let _ = volume.close(file);
    volume.rename(None, b"new", b"d/newer", 0)?;
    match volume.mkdir(None, b"e", 0o755) {
        // Left by a child that came no further than this.
        Ok(()) | Err(libc::EEXIST) => {}
        Err(other) => return Err(other),
    }
    volume.rename(None, b"e", b"d/e", 0)?;
    volume.rmdir(None, b"d/e")?;
    volume.unlink(None, b"d/newer")?;
    written.map(drop)
}

#[test]
fn one_flipped_bit_in_a_superblock_is_made_good_by_the_other() {
    let _nothing_left = NoResidue::begin();
    let mut victim = Victim::new("superblock");
    let step = if full() { 1 } else { 3 };
    let mut cases = 0;
    for copy in [0, SUPERBLOCK] {
        for byte in (0..ENCODED as u64).step_by(step) {
            victim.restore();
            victim.flip(copy + byte, (byte % 8) as u32);
            let what = format!("bit {} of byte {byte} of the superblock at {copy}", byte % 8);
            assert_eq!(victim.probe(&what), Verdict::Whole, "{what}");
            if cases % 10 == 0 {
                victim.repair(&what);
            }
            cases += 1;
        }
    }
    note("superblock", &format!("{cases} flipped bits, all made good"));
}

#[test]
fn both_superblocks_damaged_are_refused_in_words() {
    let _nothing_left = NoResidue::begin();
    let mut victim = Victim::new("superblocks");
    for byte in (0..ENCODED as u64).step_by(if full() { 1 } else { 16 }) {
        victim.restore();
        victim.flip(byte, 3);
        victim.flip(SUPERBLOCK + byte, 5);
        victim.assert_refused(&format!("byte {byte} of both superblocks"), &[]);
    }
    victim.restore();
    assert_eq!(victim.probe("the region made whole again"), Verdict::Whole, "a refusal changed the region");
}

#[test]
fn one_flipped_bit_in_a_lock_word_loses_nothing_and_can_be_repaired() {
    let _nothing_left = NoResidue::begin();
    let mut victim = Victim::new("locks");
    let mut locks = vec![("the lock of renames", RENAME_LOCK), ("the lock of sweeps", SWEEP_LOCK)];
    {
        let files = victim.region.attach();
        let volume = RegionVolume::over(&files, b"").expect("the root");
        for name in [".", "d", "file-1"] {
            // The number of an inode says where it is; its first word is its lock.
            let number = volume.stat(None, name.as_bytes(), true).expect("stat").number;
            locks.push((name, number * CELL));
        }
    }
    let (mut usable, mut repaired) = (0, 0);
    for (lock, at) in locks {
        for bit in (0..64).step_by(if full() { 1 } else { 3 }) {
            victim.restore();
            victim.flip(at + bit / 8, (bit % 8) as u32);
            let what = format!("bit {bit} of {lock}'s lock at {at:#x}");
            match victim.probe(&what) {
                Verdict::Whole => usable += 1,
                Verdict::Errors(text) => {
                    let only_damage = text.split("errno ").skip(1).all(|rest| rest.starts_with("117"));
                    assert!(only_damage, "{what}: not every error says that the region is damaged: {text}");
                    victim.repair(&what);
                    repaired += 1;
                }
                other => panic!("{what}: {other:?}"),
            }
        }
    }
    note("locks", &format!("{usable} flipped bits without effect, {repaired} named by the check and repaired"));
}

/// Met by kills of `detach` between its second and third store (`cargo xtask steps --full --only detach`, seed 5).
#[test]
fn a_lane_that_its_owner_died_over_giving_up_is_no_damage() {
    let _nothing_left = NoResidue::begin();
    let victim = Victim::new("given-up");
    let files = victim.region.attach();
    for lane in 0..files.region().geometry().lanes as u32 {
        let at = files.region().lane_at(lane).expect("a lane");
        let claimed = files.region().load(at).expect("a word") & 1 != 0;
        if !claimed {
            victim.file.write_at(&NOBODYS.to_le_bytes(), at + 32).expect("a hazard");
        }
    }
    drop(files);
    let files = victim.region.attach();
    assert!(check(&files).is_clean(), "{}", check(&files));
    let volume = RegionVolume::over(&files, b"").expect("the root");
    assert_eq!(use_it(&volume), Ok(()));
    drop(files);
    let files = victim.region.attach();
    assert!(check(&files).is_clean(), "after use: {}", check(&files));
}

#[test]
fn one_flipped_bit_anywhere_in_the_tables_ends_no_process() {
    let _nothing_left = NoResidue::begin();
    let mut victim = Victim::new("tables");
    let used = victim.words_in_tables();
    let cases = if full() { 5000 } else { 350 };
    let first = seed(31);
    let mut random = Random::new(first);
    let (mut whole, mut errors, mut wrong, mut refused, mut failures) = (0, 0, 0, 0, Vec::new());
    for _ in 0..cases {
        victim.restore();
        let at = random.pick(&used);
        let bit = random.below(64);
        victim.flip(at + bit / 8, (bit % 8) as u32);
        match victim.try_probe() {
            Ok(Verdict::Whole) => whole += 1,
            Ok(Verdict::Errors(_)) => errors += 1,
            Ok(Verdict::Wrong(_)) => wrong += 1,
            Ok(Verdict::Refused(_)) => refused += 1,
            Err(text) => failures.push(format!("bit {bit} of the word at {at:#x}: {text}")),
        }
        if failures.len() == 8 {
            break;
        }
    }
    let text = format!(
        "seed {first}, {cases} flipped bits: {whole} without effect, {errors} errors, {refused} refused, {wrong} other content"
    );
    note("tables", &text);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_truncated_region_is_refused_in_words() {
    let _nothing_left = NoResidue::begin();
    let mut victim = Victim::new("truncated");
    let sizes =
        [0, 1, 4095, 4096, 8192, 1 << 20, SIZE / 2, SIZE - (2 << 20), SIZE - 4096, SIZE - 1, SIZE + 4096, 1 << 33];
    for size in sizes {
        victim.restore();
        victim.file.set_len(size).expect("another length");
        victim.assert_refused(&format!("a region of {size} instead of {SIZE} bytes"), &["bytes", "superblock"]);
    }
}

#[test]
fn what_is_no_region_is_refused_in_words() {
    let _nothing_left = NoResidue::begin();
    let mut victim = Victim::new("no-region");
    for (what, fill) in
        [("zeros", vec![0; SIZE as usize]), ("ones", vec![0xff; SIZE as usize]), ("random", bytes(1, SIZE as usize))]
    {
        victim.restore();
        victim.file.write_all_at(&fill, 0).expect("other bytes");
        victim.assert_refused(what, &["not a Lifeboat region"]);
    }
    other_version(&mut victim);
}

/// A layout version that this build cannot know.
const LATER: u32 = lifeboat_region::layout::VERSION + 1;

/// A superblock of a later layout version, with its checksum in order.
fn other_version(victim: &mut Victim) {
    victim.restore();
    for copy in [0, SUPERBLOCK] {
        let start = copy as usize;
        let mut block: [u8; ENCODED] = victim.whole[start..start + ENCODED].try_into().expect("a superblock");
        block[8..16].copy_from_slice(&u64::from(LATER).to_le_bytes());
        let (body, checksum) = block.split_at_mut(ENCODED - 8);
        let sum = u64::from(crc32c(body)) | 1 << 32;
        checksum.copy_from_slice(&sum.to_le_bytes());
        victim.file.write_all_at(&block, copy).expect("another superblock");
    }
    let before = std::fs::read(victim.region.file()).expect("the region's bytes");
    victim.assert_refused("a later layout version", &[&format!("version {LATER}")]);
    assert!(before == std::fs::read(victim.region.file()).expect("the region's bytes"), "another version was touched");
}

/// Castagnoli's CRC, bit by bit: an independent second opinion on the region's checksums.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg()))
    })
}

#[test]
fn a_region_that_is_not_ours_alone_is_refused_in_words() {
    let _nothing_left = NoResidue::begin();
    let victim = Victim::new("not-ours");
    let (path, directory) = (victim.region.file(), victim.region.path().to_path_buf());
    let rights = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("rights of our file");
    };
    rights(&path, 0o666);
    victim.assert_refused("a file open to all", &["owned by this user alone"]);
    rights(&path, 0o600);
    rights(&directory, 0o755);
    victim.assert_refused("a directory open to all", &["owned by this user alone"]);
    rights(&directory, 0o700);
    let second = directory.join("second name");
    std::fs::hard_link(&path, &second).expect("a second name");
    victim.assert_refused("a file with two names", &["owned by this user alone"]);
    std::fs::remove_file(&path).expect("remove");
    std::os::unix::fs::symlink(&second, &path).expect("a link");
    victim.assert_refused("a symbolic link", &[]);
    std::fs::remove_file(&path).expect("remove");
    victim.assert_refused("no file at all", &["no such region"]);
    std::fs::create_dir(&path).expect("a directory");
    victim.assert_refused("a directory instead of the file", &[]);
    std::fs::remove_dir(&path).expect("remove");
    std::fs::rename(&second, &path).expect("the file again");
    if is_root() {
        std::os::unix::fs::chown(&path, Some(61001), None).expect("another owner");
        victim.assert_refused("a file of another user", &["owned by this user alone"]);
        std::os::unix::fs::chown(&path, Some(0), None).expect("the owner again");
    } else {
        skipped("region of another user", "needs root");
    }
    assert_eq!(victim.probe("the region made whole again"), Verdict::Whole, "a refusal changed the region");
}
