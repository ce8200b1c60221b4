//! The fear: what the library keeps of a file that was closed, so that the next one is opened sooner, holds that file or its space, is
//! taken for what the program put in its place, or shows through.

use lifeboat_fs::{Caller, Errno, FileSystem, LOCK_TO_END, LockClass, LockRequest, OpenFile};
use lifeboat_region::lane::Lane;
use lifeboat_testkit::command::{Mounted, limited};
use lifeboat_testkit::programs::compile;
use lifeboat_testkit::report::note;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, ScratchRegion, attach, check};

#[test]
fn what_is_kept_of_closed_files_is_in_nobodys_way() {
    let _nothing_left = NoResidue::begin();
    let folder = ScratchDirectory::new("/tmp", "kept");
    let Some(program) = compile("gcc", "kept_placeholders.c", &["-O1", "-Wall", "-pthread"], folder.path()) else {
        return;
    };
    let mounted = Mounted::new("kept", "256MiB");
    let output = limited(mounted.exec().arg(&program).arg(mounted.prefix()), 120).output().expect("start the program");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    let checks: Vec<u64> = said.lines().filter_map(|line| line.strip_suffix(" checks")?.parse().ok()).collect();
    assert!(checks.len() == 8 && said.lines().count() == 8, "{said}{}", String::from_utf8_lossy(&output.stderr));
    note("kept placeholders", &format!("{} checks", checks.iter().sum::<u64>()));
    let files = attach(&mounted.directory()).expect("attach");
    files.reap(None);
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
}

const WHO: Caller<'static> = Caller { uid: 0, gid: 0, groups: &[], umask: 0, checked: true };

fn open_with(files: &FileSystem, name: &str, flags: i32, kept: Option<OpenFile>) -> Result<OpenFile, Errno> {
    files.open_with(&WHO, files.root(), name.as_bytes(), flags, 0o600, kept)?.file()
}

fn open(files: &FileSystem, name: &str, kept: Option<OpenFile>) -> OpenFile {
    open_with(files, name, libc::O_RDWR | libc::O_CREAT, kept).expect("open")
}

#[test]
fn a_number_that_is_kept_names_no_file_and_is_nobody_elses() {
    let region = ScratchRegion::new("kept", 32 << 20);
    let (files, other) = (region.attach(), region.attach());
    let kept = open(&files, "file", None);
    let (inode, generation) = (files.inode_of(kept).expect("an inode"), files.generation_of(kept));
    assert_eq!(files.close_and_keep(kept), Ok(true));
    assert_eq!(files.inode_of(kept), Err(Errno::BADF));
    assert_eq!(files.close(kept), Err(Errno::BADF));
    files.unlink(&WHO, files.root(), b"file").expect("unlink");
    assert_eq!(files.stat(inode).map(|_| ()), Err(Errno::NOENT), "what is kept holds the file");

    let others: Vec<_> = (0..600).map(|index| open(&other, &format!("other{index}"), Some(kept))).collect();
    assert!(!others.contains(&kept), "another process has the number");
    assert_eq!(files.reap(None) + other.reap(None), 0);
    assert_eq!(open_with(&files, "missing", libc::O_RDWR, Some(kept)), Err(Errno::NOENT));
    assert_eq!(open_with(&files, "other1/below", libc::O_RDWR, Some(kept)), Err(Errno::NOTDIR));
    assert_eq!(open(&files, "other7", Some(kept)), kept);
    assert_eq!((files.generation_of(kept), files.inode_of(kept)), (generation, other.inode_of(others[7])));
    assert_ne!(open(&files, "other8", Some(kept)), kept, "two open files with one number");

    assert_eq!(files.close_and_keep(kept), Ok(true));
    files.free_kept(kept).expect("free");
    files.free_kept(kept).expect("once more");
    assert_ne!(open(&files, "other8", Some(kept)), kept, "what is not kept any more is used");
    assert!((0..1024).map(|_| open(&other, "other9", None)).any(|file| file == kept), "the number does not come back");
    assert_ne!(other.generation_of(kept), generation);
}

#[test]
fn a_close_that_fails_keeps_no_number() {
    let region = ScratchRegion::new("kept", 32 << 20);
    let (files, other) = (region.attach(), region.attach());
    let all_lanes = || std::iter::from_fn(|| Lane::claim(other.region()).ok()).collect::<Vec<_>>();
    // Before anything is announced without a lane of its own: it stays open.
    let first = open(&files, "file", None);
    let lanes = all_lanes();
    assert_eq!(files.close_and_keep(first), Err(Errno::NOLCK));
    assert!(files.inode_of(first).is_ok());
    drop(lanes);
    // And when it is closed before it is known that its lock needs a lane.
    let kept = open(&files, "file", None);
    let lock = LockRequest { class: LockClass::Whole, exclusive: true, start: 0, end: LOCK_TO_END };
    files.lock_file(kept, &lock, false).expect("a lock");
    let lanes = all_lanes();
    assert_eq!(files.close_and_keep(kept), Err(Errno::NOLCK));
    drop(lanes);
    assert!((0..1024).any(|_| open(&other, "other", None) == kept), "the number does not come back");
}

#[test]
fn a_number_that_the_dead_kept_comes_back() {
    let region = ScratchRegion::new("kept", 32 << 20);
    let (files, other) = (region.attach(), region.attach());
    let kept = open(&files, "file", None);
    assert_eq!(files.close_and_keep(kept), Ok(true));
    drop(files);
    assert_eq!(other.reap(None), 1);
    assert_eq!(open(&other, "file", Some(kept)), kept);
    let checked = check(&other);
    assert!(checked.is_clean(), "{checked}");
}

#[test]
fn a_file_without_a_name_is_gone_when_it_is_closed_and_half_of_all_numbers_are_never_kept() {
    let region = ScratchRegion::new("kept", 32 << 20);
    let files = region.attach();
    let file = open(&files, "file", None);
    let inode = files.inode_of(file).expect("an inode");
    files.unlink(&WHO, files.root(), b"file").expect("unlink");
    files.close_and_keep(file).expect("close");
    assert_eq!(files.stat(inode).map(|_| ()), Err(Errno::NOENT), "nobody took it apart");
    let slots = files.region().geometry().open_files;
    let opened: Vec<_> = (0..slots - 1).map(|_| open(&files, "other", None)).collect();
    for file in opened {
        assert_eq!(files.close_and_keep(file), Ok((file.0 as u64) < slots / 2), "{file:?} of {slots}");
    }
}
