//! The fear: who asks whether an open file is still held is taken for somebody who holds it, so that a seal is refused for a
//! writer that is long dead; or a file that is held is closed because nobody saw that it was; or one is sealed while somebody opens
//! it to write.

use lifeboat_fs::{Caller, FileSystem, OpenFile};
use lifeboat_region::fd::BorrowedFd;
use lifeboat_region::{Errno, tags};
use lifeboat_testkit::report::note;
use lifeboat_testkit::scratch::{ScratchRegion, this_user};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

const ROUNDS: usize = 3000;

fn caller() -> Caller<'static> {
    Caller { uid: this_user().uid, gid: this_user().gid, groups: &[], umask: 0, checked: true }
}

/// The placeholder of an open file, opened as programs do.
fn tag(region: &ScratchRegion, file: OpenFile) -> File {
    let path: PathBuf = region.path().join("tags").join(file.0.to_string());
    File::options().read(true).write(true).create(true).truncate(false).open(path).expect("a placeholder")
}

fn hold(tag: &File, generation: u16, writable: bool) -> Result<(), Errno> {
    // SAFETY: the file is open over the call.
    tags::hold(unsafe { BorrowedFd::borrow_raw(tag.as_raw_fd()) }, generation, writable)
}

fn open(files: &FileSystem, name: &[u8]) -> OpenFile {
    files.open(&caller(), files.root(), name, libc::O_RDWR | libc::O_CREAT, 0o600).expect("open")
}

#[test]
fn who_asks_for_a_dead_writer_keeps_nobody_from_sealing() {
    let region = ScratchRegion::new("asked", 32 << 20);
    let (files, other) = (region.attach(), region.attach());
    let (number, done) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for generation in 0..4 {
                    let _ = other.region().is_tag_held(number.load(Ordering::Relaxed), generation);
                }
            }
        });
        let mut refused = 0;
        for round in 0..ROUNDS {
            let name = format!("file{}", round % 100);
            let file = open(&files, name.as_bytes());
            let inode = files.inode_of(file).expect("an inode");
            // As a killed program leaves it: marked, and no descriptor of the placeholder anywhere.
            drop(tag(&region, file));
            files.mark_tagged(file).expect("mark");
            number.store(file.0, Ordering::Relaxed);
            refused += files.seal(&caller(), inode).is_err() as usize;
            files.close(file).expect("close");
            files.unlink(&caller(), files.root(), name.as_bytes()).expect("unlink");
        }
        done.store(true, Ordering::Relaxed);
        assert_eq!(refused, 0, "of {ROUNDS} seals");
    });
}

#[test]
fn an_open_file_is_held_by_whoever_has_its_description_and_by_nobody_else() {
    let region = ScratchRegion::new("held", 32 << 20);
    let files = region.attach();
    let file = open(&files, b"file");
    let generation = files.generation_of(file).expect("a generation");
    let held = |which| files.region().is_tag_held(file.0, which).expect("an answer");
    assert_eq!(held(generation), None, "nobody made the placeholder");
    let mine = tag(&region, file);
    assert_eq!(held(generation), Some(false));
    hold(&mine, generation, false).expect("hold");
    files.mark_tagged(file).expect("mark");
    let same = mine.try_clone().expect("another descriptor");
    drop(tag(&region, file));
    drop(mine);
    assert_eq!(held(generation), Some(true), "its other descriptor is open");
    assert_eq!(held(generation.wrapping_add(1)), Some(false), "taken for the number's next open file");
    let mut child = Command::new("sleep").arg("60").stdin(Stdio::from(same)).spawn().expect("a child");
    assert_eq!(held(generation), Some(true), "a child has it");
    files.close_if_unheld(file, generation, || panic!("it is held")).expect("left alone");
    assert_eq!(files.reap(None), 0);
    child.kill().expect("end the child");
    child.wait().expect("its end");
    assert_eq!(held(generation), Some(false), "a dead child's");
    files.close_if_unheld(file, generation.wrapping_add(1), || panic!("it is another's")).expect("left alone");
    assert!(files.inode_of(file).is_ok());
    let mut told = false;
    files.close_if_unheld(file, generation, || told = true).expect("closed");
    assert!(told && files.inode_of(file).is_err());
}

#[test]
fn a_placeholder_opened_for_writing_only_is_held_too() {
    let region = ScratchRegion::new("held", 32 << 20);
    let files = region.attach();
    let file = open(&files, b"file");
    let generation = files.generation_of(file).expect("a generation");
    let _readable = tag(&region, file);
    let path = region.path().join("tags").join(file.0.to_string());
    let only = File::options().write(true).open(path).expect("the placeholder");
    hold(&only, generation, true).expect("hold");
    assert_eq!(files.region().is_tag_held(file.0, generation), Ok(Some(true)));
    drop(only);
    assert_eq!(files.region().is_tag_held(file.0, generation), Ok(Some(false)));
}

#[test]
fn a_file_that_is_open_for_writing_has_no_seal() {
    let region = ScratchRegion::new("sealed", 32 << 20);
    let (files, other) = (region.attach(), region.attach());
    let first = open(&files, b"file");
    let inode = files.inode_of(first).expect("an inode");
    files.close(first).expect("close");
    let done = AtomicBool::new(false);
    let (seals, refused) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let count = if other.seal(&caller(), inode).is_ok() { &seals } else { &refused };
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let end = Instant::now() + Duration::from_secs(2);
        let mut found = 0;
        while Instant::now() < end {
            let file = open(&files, b"file");
            found += files.stat(inode).expect("attributes").sealed as u32;
            files.close(file).expect("close");
        }
        done.store(true, Ordering::Relaxed);
        let (seals, refused) = (seals.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
        note("seals", &format!("{seals} beside a writer, {refused} refused"));
        assert_eq!(found, 0, "sealed while it was open for writing");
        assert!(seals > 0 && refused > 0);
    });
}
