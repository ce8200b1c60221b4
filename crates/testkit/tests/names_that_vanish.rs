//! The fear: a call that looks at a name without a lock, while others remove it and its space becomes something else, takes
//! the reuse for damage, or takes another directory's rights for its own.
//!
//! The same workers run on tmpfs: the answers that are allowed are those of a race there.

use lifeboat_fs::{Caller, LastLink};
use lifeboat_region::Errno;
use lifeboat_testkit::random::{Random, seed};
use lifeboat_testkit::report::{note, sized};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, ScratchRegion, check};
use lifeboat_testkit::volume::{Answer, KernelVolume, RegionVolume, Volume};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const WORKERS: u64 = 6;
const DIRECTORIES: u64 = 2;
const NAMES: u64 = 2;
/// Longer than an inode holds: the target lies in a block.
const LONG_TARGET: &[u8] = &[b't'; 300];

/// The longest time that the workers run.
fn duration() -> Duration {
    Duration::from_secs(sized(4, 30, 300))
}

#[test]
fn a_name_that_vanishes_is_absent_and_never_damaged() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("vanish", 32 << 20);
    let files = region.attach();
    let calls = race(|| RegionVolume::over(&files, b"").expect("the root"));
    note("vanishing names", &format!("{calls} calls"));
    let checked = check(&files);
    assert!(checked.is_clean(), "after the race: {checked}");
}

#[test]
fn the_answers_of_that_race_are_those_of_tmpfs() {
    let _nothing_left = NoResidue::begin();
    let top = ScratchDirectory::on_tmpfs("vanish");
    race(|| KernelVolume::over(top.path(), false).expect("a directory on tmpfs"));
}

fn race<V: Volume>(volume: impl Fn() -> V + Sync) -> u64 {
    let calls = AtomicU64::new(0);
    let seed = seed(900);
    std::thread::scope(|scope| {
        for index in 0..WORKERS {
            let (volume, calls) = (&volume, &calls);
            scope.spawn(move || {
                let (volume, mut random) = (volume(), Random::new(seed + index));
                let end = Instant::now() + duration();
                while Instant::now() < end {
                    (0..100).for_each(|_| one_call(&volume, &mut random));
                    calls.fetch_add(100, Ordering::Relaxed);
                }
            });
        }
    });
    calls.into_inner()
}

fn directory(random: &mut Random) -> Vec<u8> {
    format!("d{}", random.below(DIRECTORIES)).into_bytes()
}

fn name(random: &mut Random) -> Vec<u8> {
    let filler = random.pick(&["", "-with-a-name-that-is-longer-than-a-directory-entry-can-hold"]);
    format!("d{}/n{}{filler}", random.below(DIRECTORIES), random.below(NAMES)).into_bytes()
}

/// The answer is good, or one that such a race allows.
fn allow<T>(what: &str, answer: Answer<T>, errors: &[i32]) -> Option<T> {
    match answer {
        Ok(value) => Some(value),
        Err(error) if errors.contains(&error) => None,
        Err(error) => panic!("{what}: errno {error}, of a race that allows {errors:?}"),
    }
}

fn let_go<T>(_: Option<T>) {}

fn one_call<V: Volume>(volume: &V, random: &mut Random) {
    use libc::{EEXIST, EINVAL, ELOOP, ENODATA, ENOENT, ENOTEMPTY, EOPNOTSUPP, EPERM};
    let (one, other) = (name(random), name(random));
    match random.below(14) {
        0 | 1 => let_go(allow("mkdir", volume.mkdir(None, &directory(random), 0o755), &[EEXIST])),
        2 => let_go(allow("rmdir", volume.rmdir(None, &directory(random)), &[ENOENT, ENOTEMPTY])),
        3 => {
            let (from, to) = (directory(random), directory(random));
            let_go(allow("rename of a directory", volume.rename(None, &from, &to, 0), &[ENOENT, ENOTEMPTY, EEXIST]));
        }
        4 => let_go(allow("symlink", volume.symlink(LONG_TARGET, None, &one), &[ENOENT, EEXIST])),
        5 => {
            let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
            if let Some(file) = allow("create", volume.open(None, &one, flags, 0o644), &[ENOENT, EEXIST]) {
                allow("write", volume.write(file, &[1; 5000], None), &[]);
                allow("close", volume.close(file), &[]);
            }
        }
        6 | 7 => let_go(allow("unlink", volume.unlink(None, &one), &[ENOENT])),
        8 => let_go(allow("rename", volume.rename(None, &one, &other, 0), &[ENOENT])),
        9 => let_go(allow("stat", volume.stat(None, &one, false), &[ENOENT])),
        10 => let_go(allow("readlink", volume.readlink(None, &one), &[ENOENT, EINVAL])),
        11 => {
            let flags = libc::O_RDONLY | libc::O_NOFOLLOW;
            if let Some(file) = allow("open", volume.open(None, &one, flags, 0), &[ENOENT, ELOOP]) {
                allow("close", volume.close(file), &[]);
            }
        }
        12 => {
            let of = lifeboat_testkit::volume::Subject::Path(None, &one, false);
            let errors = [ENOENT, EPERM, ENODATA, EOPNOTSUPP];
            match random.below(2) {
                0 => let_go(allow("setxattr", volume.set_attribute(of, b"user.a", &[7; 100], 0), &errors)),
                _ => let_go(allow("getxattr", volume.get_attribute(of, b"user.a", 200), &errors)),
            }
        }
        _ => {
            let flags = libc::O_RDONLY | libc::O_DIRECTORY;
            if let Some(open) = allow("open directory", volume.open(None, &directory(random), flags, 0), &[ENOENT]) {
                allow("list", volume.list(open), &[]);
                allow("close", volume.close(open), &[]);
            }
        }
    }
}

/// Fills the region but for four directories: the next one lies where the last one did.
fn leave_room_for_four<V: Volume>(volume: &V) {
    let name = |index: u32| format!("filler-{index}").into_bytes();
    let full = (0..).find(|index| volume.mkdir(None, &name(*index), 0o700).is_err()).expect("a full region");
    (full - 4..full).for_each(|index| volume.rmdir(None, &name(index)).expect("rmdir"));
}

/// Directories that everybody may search, without this name, come and go, and so do some that only their owner may search, with
/// it: one that the user was let into never becomes one of the others under its hands.
#[test]
fn the_right_to_search_a_directory_does_not_pass_to_the_next_one_in_its_place() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("rights", 8 << 20);
    let (files, done) = (region.attach(), AtomicBool::new(false));
    let (searched, mut rounds, mut places) = (AtomicU64::new(0), 0, std::collections::BTreeSet::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let user = Caller { uid: 4711, gid: 4711, groups: &[], umask: 0, checked: false };
                while !done.load(Ordering::Relaxed) {
                    let answer = files.resolve(&user, files.root(), b"open/secret", LastLink::Follow);
                    assert_eq!(answer, Err(Errno::NOENT), "a user got into another's directory, or met its rights");
                    searched.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let volume = RegionVolume::over(&files, b"").expect("the root");
        leave_room_for_four(&volume);
        let end = Instant::now() + duration();
        while Instant::now() < end {
            for (name, mode, inside) in [("open", 0o755, "open/harmless"), ("closed", 0o700, "closed/secret")] {
                volume.mkdir(None, name.as_bytes(), mode).expect("mkdir");
                places.insert(volume.stat(None, name.as_bytes(), true).expect("stat").number);
                volume.mkdir(None, inside.as_bytes(), 0o700).expect("mkdir");
                rounds += 1;
                volume.rmdir(None, inside.as_bytes()).expect("rmdir");
                volume.rmdir(None, name.as_bytes()).expect("rmdir");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    note("rights of vanishing directories", &format!("{rounds} directories, {} times searched", searched.into_inner()));
    assert!(places.len() < 10, "the directories of {rounds} rounds lay at {} places: nothing was tried", places.len());
}
