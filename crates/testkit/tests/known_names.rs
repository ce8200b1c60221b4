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

/// One change: from now on the name is a file's with this stamp.
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

/// A directory with another, which has the file, takes the place of such a one.
fn replace_directory_above(files: &FileSystem, stamp: i64) {
    files.mkdir(&ROOT, files.root(), b"/next", 0o755).expect("a directory");
    files.mkdir(&ROOT, files.root(), b"/next/e", 0o755).expect("a directory in it");
    make(files, "/next/e/f", stamp);
    files.rename(&ROOT, files.root(), b"/next", files.root(), b"/d", EXCHANGE).expect("exchanged");
    files.unlink(&ROOT, files.root(), b"/next/e/f").expect("the old file");
    files.rmdir(&ROOT, files.root(), b"/next/e").expect("the old directory in it");
    files.rmdir(&ROOT, files.root(), b"/next").expect("the old directory");
}

/// The stamp of what this name means now.
fn look(files: &FileSystem, name: &str) -> i64 {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        // What was found may be replaced before it is looked at, and the directory on the way as well.
        match resolve(files, name).and_then(|inode| files.stat(inode)) {
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
fn never_older_than_the_question(label: &str, name: &str, change: Change) {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new(label, 32 << 20);
    let attached = [region.attach(), region.attach()];
    attached[0].mkdir(&ROOT, attached[0].root(), b"/d", 0o755).expect("a directory");
    if name == "/d/e/f" {
        attached[0].mkdir(&ROOT, attached[0].root(), b"/d/e", 0o755).expect("a directory in it");
    }
    make(&attached[0], name, 0);
    let (published, ended, looks) = (AtomicI64::new(0), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for files in attached.iter().chain(&attached) {
            let (published, ended, looks) = (&published, &ended, &looks);
            scope.spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    let before = published.load(Ordering::SeqCst);
                    let found = look(files, name);
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
    never_older_than_the_question("known-file", "/d/f", replace_file);
}

#[test]
fn a_directory_that_was_replaced_is_not_walked_again() {
    never_older_than_the_question("known-directory", "/d/f", replace_directory);
}

#[test]
fn a_directory_further_up_that_was_replaced_is_not_walked_again() {
    never_older_than_the_question("known-above", "/d/e/f", replace_directory_above);
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

/// Who owns the directories of the next test, and may change them.
const OWNER: Caller<'static> = OTHER;

/// What happens to the directory `/a/b`, behind `/a/b/c/f`.
type Step = fn(&FileSystem, &dyn Fn(&str) -> InodeId);

const STEPS: [(&str, Step); 9] = [
    ("renamed", |files, _| rename(files, "/a/b", "/a/elsewhere")),
    ("renamed back", |files, _| rename(files, "/a/elsewhere", "/a/b")),
    ("a link instead", |files, _| {
        rename(files, "/a/b", "/a/elsewhere");
        files.symlink(&OWNER, b"elsewhere", files.root(), b"/a/b").expect("a link");
    }),
    ("a link to nothing", |files, _| rename(files, "/a/elsewhere", "/a/nowhere")),
    ("the directory again", |files, _| {
        files.unlink(&OWNER, files.root(), b"/a/b").expect("unlinked");
        rename(files, "/a/nowhere", "/a/b");
    }),
    ("closed to all", |files, inode| files.chmod(&OWNER, inode("/a/b"), 0).expect("closed")),
    ("open to its group alone", |files, inode| files.chmod(&OWNER, inode("/a/b"), 0o070).expect("closed to its owner")),
    ("open again", |files, inode| files.chmod(&OWNER, inode("/a/b"), 0o700).expect("opened")),
    ("another's", |files, inode| files.chown(&ROOT, inode("/a/b"), Some(7), Some(7)).expect("given away")),
];

fn rename(files: &FileSystem, from: &str, to: &str) {
    files.rename(&OWNER, files.root(), from.as_bytes(), files.root(), to.as_bytes(), 0).expect("renamed");
}

#[test]
fn who_knows_a_walk_answers_after_each_change_on_the_way_as_who_knows_nothing() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("known-walks", 16 << 20);
    let (files, others) = (region.attach(), region.attach());
    for directory in [b"/a".as_slice(), b"/a/b", b"/a/b/c"] {
        files.mkdir(&ROOT, files.root(), directory, 0o755).expect("a directory");
        let inode = files.resolve(&ROOT, files.root(), directory, LastLink::Follow).expect("there");
        files.chown(&ROOT, inode, Some(OWNER.uid), Some(OWNER.gid)).expect("the owner's");
    }
    make(&files, "/a/b/c/f", 0);
    let find = |files: &FileSystem, who: &Caller<'_>, start: InodeId, path: &str| {
        // Often enough to be remembered, and asked for again.
        let found: Vec<_> = (0..5).map(|_| files.resolve(who, start, path.as_bytes(), LastLink::Follow)).collect();
        assert!(found.iter().all(|each| *each == found[0]), "{path}: {found:?}");
        found[0]
    };
    let inode = |path: &str| others.resolve(&ROOT, others.root(), path.as_bytes(), LastLink::Keep).expect("there");
    let starts =
        [(files.root(), "/a/b/c/f"), (files.root(), "a/b/c/f"), (inode("/a"), "b/c/f"), (inode("/a/b/c"), "f")];
    for who in [OWNER, ROOT] {
        assert!(starts.iter().all(|(start, path)| find(&files, &who, *start, path).is_ok()));
    }
    for (what, change) in STEPS {
        change(&others, &inode);
        let fresh = region.attach();
        for who in [OWNER, ROOT, Caller { uid: 7, ..OTHER }] {
            for (start, path) in starts {
                let expected = fresh.resolve(&who, start, path.as_bytes(), LastLink::Follow);
                assert_eq!(find(&files, &who, start, path), expected, "{what}: {path} for {}", who.uid);
            }
        }
    }
}

#[test]
fn a_known_directory_that_is_gone_is_not_started_from() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("known-start", 16 << 20);
    let (files, others) = (region.attach(), region.attach());
    let mut known: Option<InodeId> = None;
    let mut again = 0;
    for round in 0..50_000 {
        others.mkdir(&ROOT, others.root(), b"/d", 0o755).expect("a directory");
        make(&others, "/d/f", round);
        let start = resolve(&others, "/d").expect("there");
        let from = |start| files.resolve(&ROOT, start, b"f", LastLink::Follow);
        if known.is_some_and(|known| known.number() == start.number()) {
            // In the same place, and with as many changes behind it.
            assert_eq!(known.map(from), Some(Err(Errno::NOENT)), "round {round}");
            (known, again) = (None, again + 1);
        }
        let is_new = known.is_none();
        if is_new {
            assert!((0..4).all(|_| from(start).is_ok()));
            known = Some(start);
        }
        others.unlink(&ROOT, others.root(), b"/d/f").expect("unlinked");
        others.rmdir(&ROOT, others.root(), b"/d").expect("removed");
        if is_new {
            assert_eq!(from(start), Err(Errno::NOENT));
            assert_eq!(files.mkdir(&ROOT, start, b"new", 0o755), Err(Errno::NOENT), "round {round}");
        }
        if again == 3 {
            return;
        }
    }
    panic!("no directory took the place of another");
}
