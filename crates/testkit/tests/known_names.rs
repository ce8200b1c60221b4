//! The fear: a process that knows what a name meant answers with what it meant, when it means something else by now.

use lifeboat_fs::{Caller, FileSystem, InodeId, LastLink, NewTime};
use lifeboat_region::Errno;
use lifeboat_testkit::report::{note, sized};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchRegion, check};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const ROOT: Caller<'static> = Caller { uid: 0, gid: 0, groups: &[], umask: 0o022, checked: false };
const OTHER: Caller<'static> = Caller { uid: 4711, gid: 4711, ..ROOT };
const CREATE: i32 = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
const EXCHANGE: u32 = libc::RENAME_EXCHANGE;

/// How long names are changed under those who look for them.
fn duration() -> Duration {
    Duration::from_secs(sized(2, 10, 60))
}

fn make(files: &FileSystem, path: &str, stamp: i64) {
    let file = files.open(&ROOT, files.root(), path.as_bytes(), CREATE, 0o644).expect("a new file");
    let inode = files.inode_of(file).expect("its inode");
    files.set_times(&ROOT, inode, NewTime::Keep, NewTime::At(stamp)).expect("its time");
    files.close(file).expect("closed");
}

fn resolve(files: &FileSystem, path: &str) -> Result<InodeId, Errno> {
    files.resolve(&ROOT, files.root(), path.as_bytes(), LastLink::Follow)
}

/// One change: from now on `/d/f` is a file with this stamp.
type Change = fn(&FileSystem, i64);

/// A file takes the place of another.
fn replace_file(files: &FileSystem, stamp: i64) {
    make(files, "/new", stamp);
    files.rename(&ROOT, files.root(), b"/new", files.root(), b"/d/f", 0).expect("renamed");
}

/// A directory with a file takes the place of another.
fn replace_directory(files: &FileSystem, stamp: i64) {
    files.mkdir(&ROOT, files.root(), b"/next", 0o755).expect("a directory");
    make(files, "/next/f", stamp);
    files.rename(&ROOT, files.root(), b"/next", files.root(), b"/d", EXCHANGE).expect("exchanged");
    files.unlink(&ROOT, files.root(), b"/next/f").expect("the old file");
    files.rmdir(&ROOT, files.root(), b"/next").expect("the old directory");
}

/// The stamp of what `/d/f` is now.
fn look(files: &FileSystem) -> i64 {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        // What was found may be replaced before it is looked at, and the directory on the way as well.
        match resolve(files, "/d/f").and_then(|inode| files.stat(inode)) {
            Ok(stat) => return stat.modified,
            Err(Errno::NOENT) => assert!(Instant::now() < end, "a name that is always there is not found"),
            Err(error) => panic!("a name that is always there: {error}"),
        }
    }
}

/// Says that something has ended when it is dropped: also by a change that fails, or else who looks would look for ever.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Threads of two attachments look while one of them changes: what they find was not replaced before they began.
fn never_older_than_the_question(label: &str, change: Change) {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new(label, 32 << 20);
    let attached = [region.attach(), region.attach()];
    attached[0].mkdir(&ROOT, attached[0].root(), b"/d", 0o755).expect("a directory");
    make(&attached[0], "/d/f", 0);
    let (published, ended, looks) = (AtomicI64::new(0), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for files in attached.iter().chain(&attached) {
            let (published, ended, looks) = (&published, &ended, &looks);
            scope.spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    let before = published.load(Ordering::SeqCst);
                    let found = look(files);
                    assert!(found >= before, "the file of change {found} was found after change {before}");
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _ended = Ending(&ended);
        let end = Instant::now() + duration();
        for stamp in 1.. {
            change(&attached[0], stamp);
            published.store(stamp, Ordering::SeqCst);
            if Instant::now() > end {
                break;
            }
        }
    });
    note(label, &format!("{} changes, {} looks", published.into_inner(), looks.into_inner()));
    let checked = check(&attached[0]);
    assert!(checked.is_clean(), "{checked}");
}

#[test]
fn a_file_that_was_replaced_is_not_found_again() {
    never_older_than_the_question("known-file", replace_file);
}

#[test]
fn a_directory_that_was_replaced_is_not_walked_again() {
    never_older_than_the_question("known-directory", replace_directory);
}

#[test]
fn what_is_known_of_a_directory_ends_with_it() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("known-end", 16 << 20);
    let (files, others) = (region.attach(), region.attach());
    for round in 0..200 {
        files.mkdir(&ROOT, files.root(), b"/d", 0o755).expect("a directory");
        assert_eq!(resolve(&files, "/d/f"), Err(Errno::NOENT), "round {round}");
        make(&files, "/d/f", round);
        let inode = resolve(&files, "/d/f").expect("there");
        assert_eq!(resolve(&others, "/d/f"), Ok(inode));
        assert_eq!(resolve(&files, "/d/f"), Ok(inode), "known");
        // By the other, of whom this process hears nothing.
        others.unlink(&ROOT, others.root(), b"/d/f").expect("unlinked");
        assert_eq!(resolve(&files, "/d/f"), Err(Errno::NOENT), "round {round}");
        others.rmdir(&ROOT, others.root(), b"/d").expect("removed");
        assert_eq!(resolve(&files, "/d/f"), Err(Errno::NOENT), "round {round}");
    }
}

#[test]
fn names_that_begin_alike_are_told_apart() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("known-names", 16 << 20);
    let files = region.attach();
    let names: Vec<String> = (0..70).map(|length| format!("/{}", "n".repeat(length + 1))).collect();
    for (stamp, name) in names.iter().enumerate() {
        make(&files, name, stamp as i64);
    }
    for _ in 0..2 {
        for (stamp, name) in names.iter().enumerate() {
            let inode = resolve(&files, name).expect("there");
            assert_eq!(files.stat(inode).expect("its attributes").modified, stamp as i64, "{name}");
        }
    }
    // A name of bytes that a shorter one is filled up with.
    assert_eq!(resolve(&files, "/n\0"), Err(Errno::NOENT));
}

#[test]
fn who_may_not_search_a_directory_any_more_finds_nothing_that_he_knew() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("known-rights", 16 << 20);
    let files = region.attach();
    files.mkdir(&ROOT, files.root(), b"/d", 0o755).expect("a directory");
    make(&files, "/d/f", 0);
    let find = |who: &Caller<'_>| files.resolve(who, files.root(), b"/d/f", LastLink::Follow);
    let inode = find(&OTHER).expect("everybody may");
    assert_eq!(find(&OTHER), Ok(inode));
    let directory = resolve(&files, "/d").expect("there");
    files.chmod(&ROOT, directory, 0o700).expect("closed");
    assert_eq!(find(&OTHER), Err(Errno::ACCESS));
    assert_eq!(find(&ROOT), Ok(inode));
}
