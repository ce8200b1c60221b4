//! The fear: a file is removed or cut while a process has it mapped, its space is given to another file, and the process
//! reads or writes what is not its own.

use lifeboat_fs::{Caller, Errno, FileSystem, LastLink, Piece, Pin};
use lifeboat_testkit::child::{self, Role, report, setting};
use lifeboat_testkit::random::bytes;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchRegion, attach, check, this_user};
use lifeboat_testkit::volume::{RegionVolume, Volume};
use std::path::Path;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const LENGTH: usize = 3_000_000;
const TAG: u64 = 77;
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn entry_of_child_processes() {
    child::enter(&[("mapper", mapper), ("mapper that forks", mapper_that_forks)]);
}

fn volume(files: &FileSystem) -> RegionVolume<'_> {
    RegionVolume::over(files, b"").expect("the root")
}

fn make_file(files: &FileSystem) {
    let volume = volume(files);
    let file = volume.open(None, b"mapped", libc::O_CREAT | libc::O_WRONLY, 0o644).expect("create");
    assert_eq!(volume.write(file, &bytes(TAG, LENGTH), None), Ok(LENGTH));
    volume.close(file).expect("close");
}

/// Maps the whole file and closes it, as programs do.
fn map(files: &FileSystem) -> (Pin, Vec<Piece>) {
    let volume = volume(files);
    let file = volume.open(None, b"mapped", libc::O_RDWR, 0).expect("open");
    let mut pieces = Vec::new();
    let pin = files.map(file, 0, LENGTH as u64, true, &mut |piece| pieces.push(piece)).expect("map");
    volume.close(file).expect("close");
    (pin, pieces)
}

/// What the mapping shows: the pieces' bytes in the region, in order and without gaps.
fn shown(files: &FileSystem, pieces: &[Piece]) -> Vec<u8> {
    let mut all = Vec::new();
    for piece in pieces {
        assert_eq!(piece.file_offset, all.len() as u64, "a gap between pieces");
        assert!(piece.region_offset.is_multiple_of(4096) && piece.file_offset.is_multiple_of(4096), "{piece:?}");
        let mut bytes = vec![0; piece.length as usize];
        files.region().read_bytes(piece.region_offset, &mut bytes).expect("a piece inside the region");
        all.extend_from_slice(&bytes);
    }
    assert!(all.len() >= LENGTH, "the pieces end at {}", all.len());
    assert!(all[LENGTH..].iter().all(|byte| *byte == 0), "bytes behind the end of the file are not zero");
    all.truncate(LENGTH);
    all
}

/// Takes all space there is, so that whatever is free is reused; gives its size.
fn fill(files: &FileSystem, name: &str) -> u64 {
    let volume = volume(files);
    let file = volume.open(None, name.as_bytes(), libc::O_CREAT | libc::O_WRONLY, 0o644).expect("create");
    let data = vec![0xee; MIB as usize];
    let mut size = 0;
    loop {
        match volume.write(file, &data, None) {
            Ok(count) => size += count as u64,
            Err(error) => {
                assert_eq!(error, libc::ENOSPC, "the end of the room");
                volume.close(file).expect("close");
                return size;
            }
        }
    }
}

#[test]
fn a_mapping_shows_what_calls_write_and_calls_read_what_is_stored_through_it() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("mapped", 32 * MIB);
    let files = region.attach();
    make_file(&files);
    let (pin, pieces) = map(&files);
    assert!(shown(&files, &pieces) == bytes(TAG, LENGTH), "the mapping shows other bytes");
    let volume = volume(&files);
    let file = volume.open(None, b"mapped", libc::O_RDWR, 0).expect("open");
    let at = 1_234_567_usize;
    assert_eq!(volume.write(file, b"written", Some(at as u64)), Ok(7));
    assert_eq!(&shown(&files, &pieces)[at..at + 7], b"written", "the mapping does not show a write");
    let piece = pieces.iter().find(|piece| piece.file_offset + piece.length > 2_000_000).expect("a piece");
    let place = piece.region_offset + (2_000_000 - piece.file_offset);
    let stored = files.region().write_bytes(place, b"stored").expect("store through the mapping");
    // A store by this thread: it needs no fence before this thread reads it.
    let _ = stored;
    assert_eq!(volume.read(file, 6, Some(2_000_000)), Ok(b"stored".to_vec()), "a store is not read");
    files.unmap(pin).expect("unmap");
    volume.close(file).expect("close");
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
}

#[test]
fn space_that_is_mapped_is_not_given_away_before_the_mapping_is_gone() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("mapped", 32 * MIB);
    let files = region.attach();
    let volume = volume(&files);
    make_file(&files);
    let (pin, pieces) = map(&files);
    volume.unlink(None, b"mapped").expect("unlink while mapped");
    let while_mapped = fill(&files, "others");
    assert!(shown(&files, &pieces) == bytes(TAG, LENGTH), "mapped space was given to another file");
    volume.unlink(None, b"others").expect("unlink");
    files.unmap(pin).expect("unmap");
    let afterwards = fill(&files, "others");
    assert!(
        afterwards >= while_mapped + 2 * MIB,
        "the room of the mapping did not come back: {while_mapped}, then {afterwards}"
    );
    volume.unlink(None, b"others").expect("unlink");
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
}

#[test]
fn space_that_is_cut_off_under_a_mapping_is_not_given_away() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("mapped", 32 * MIB);
    let files = region.attach();
    let volume = volume(&files);
    make_file(&files);
    let (pin, pieces) = map(&files);
    volume.truncate(None, b"mapped", 5000).expect("truncate while mapped");
    fill(&files, "others");
    let seen = shown(&files, &pieces);
    assert!(seen[..5000] == bytes(TAG, LENGTH)[..5000], "the rest of the file changed");
    assert!(
        seen.iter().skip(8192).all(|byte| *byte != 0xee),
        "space that was cut off is another file's under a mapping"
    );
    files.unmap(pin).expect("unmap");
    volume.unlink(None, b"others").expect("unlink");
    volume.unlink(None, b"mapped").expect("unlink");
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
}

#[test]
fn room_of_a_mapping_comes_back_when_its_process_was_killed() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("mapped", 32 * MIB);
    let files = region.attach();
    let whole = fill(&files, "others");
    let volume = volume(&files);
    volume.unlink(None, b"others").expect("unlink");
    make_file(&files);
    let mut mapper = Role::new("mapper").with("REGION", region.path().display()).spawn();
    assert_eq!(mapper.next_report(LIMIT), "mapped");
    volume.unlink(None, b"mapped").expect("unlink while another has it mapped");
    let meanwhile = fill(&files, "others");
    assert!(meanwhile + 2 * MIB <= whole, "the room of a living mapping was given away");
    volume.unlink(None, b"others").expect("unlink");
    mapper.kill();
    assert!(files.sweep().expect("sweep") > 0, "nothing came back");
    assert_eq!(files.sweep(), Ok(0), "the first sweep left something");
    let afterwards = fill(&files, "others");
    assert!(afterwards + MIB >= whole, "{afterwards} of {whole} bytes came back");
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
}

#[test]
fn a_forked_child_keeps_the_mapped_space_when_its_parent_ends_at_once() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("mapped", 32 * MIB);
    let files = region.attach();
    let whole = fill(&files, "others");
    let volume = volume(&files);
    volume.unlink(None, b"others").expect("unlink");
    make_file(&files);
    let mut parent = Role::new("mapper that forks").with("REGION", region.path().display()).spawn();
    let child = Ended(parent.next_report(LIMIT).parse().expect("a process id"));
    parent.kill();
    volume.unlink(None, b"mapped").expect("unlink while the child has it mapped");
    let meanwhile = fill(&files, "others");
    assert!(meanwhile + 2 * MIB <= whole, "the room of the child's mapping was given away");
    volume.unlink(None, b"others").expect("unlink");
    drop(child);
    let afterwards = fill(&files, "others");
    assert!(afterwards + MIB >= whole, "{afterwards} of {whole} bytes came back");
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
}

#[test]
fn a_file_that_an_ended_program_left_mapped_gives_its_room_back_at_once() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("mapped", 32 * MIB);
    let files = region.attach();
    // Once without a mapping: chunks that were opened for names and blocks stay so.
    make_file(&files);
    volume(&files).unlink(None, b"mapped").expect("unlink");
    let before = files.usage();
    make_file(&files);
    let mut mapper = Role::new("mapper").with("REGION", region.path().display()).spawn();
    assert_eq!(mapper.next_report(LIMIT), "mapped");
    mapper.kill();
    let who = Caller { uid: this_user().uid, gid: this_user().gid, groups: &[], umask: 0, checked: true };
    let inode = files.resolve(&who, files.root(), b"mapped", LastLink::Follow).expect("the file");
    files.seal(&who, inode).expect("nobody can write to it any more");
    volume(&files).unlink(None, b"mapped").expect("unlink");
    let after = files.usage();
    assert_eq!((after.bytes_free, after.inodes_used), (before.bytes_free, before.inodes_used));
    let checked = lifeboat_fs::check(&files, &mut |finding| panic!("{finding}")).expect("a check");
    assert_eq!(checked.reclaimed, 0, "units stayed in limbo");
}

/// A process that is not our child, killed with the value.
struct Ended(i32);

impl Drop for Ended {
    fn drop(&mut self) {
        // SAFETY: plain numbers; the process waits to be killed, so its number is still its own.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            while libc::kill(self.0, 0) == 0 && !is_defunct(self.0) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Whether a killed process only waits for its new parent to notice.
fn is_defunct(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|text| text.contains(") Z "))
}

fn mapper_that_forks() {
    let files = attach(Path::new(&setting("REGION"))).expect("attach");
    let (pin, _) = map(&files);
    let for_child = files.copy_pin(pin).expect("a second hold");
    // SAFETY: the child only uses the region, writes one line and waits to be killed.
    let child = unsafe { libc::fork() };
    if child == 0 {
        files.after_fork().expect("an image of its own");
        let own = files.adopt_pin(for_child).expect("the parent's hold");
        assert_ne!(own, for_child);
        assert_eq!(files.adopt_pin(for_child), Err(Errno::NOENT), "adopted twice");
        // SAFETY: as above.
        report(&unsafe { libc::getpid() }.to_string());
        // Whoever started the parent waits for the end of what it prints.
        // SAFETY: nobody prints here any more.
        unsafe { libc::close_range(0, 2, 0) };
    }
    std::thread::sleep(LIMIT);
}

fn mapper() {
    let files = attach(Path::new(&setting("REGION"))).expect("attach");
    let (_pin, _) = map(&files);
    report("mapped");
    std::thread::sleep(LIMIT);
}

#[test]
fn what_is_mapped_of_a_file_that_grew_is_held_when_the_file_is_removed() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("grown", 32 * MIB);
    let files = region.attach();
    let volume = volume(&files);
    let file = volume.open(None, b"grown", libc::O_CREAT | libc::O_RDWR, 0o644).expect("create");
    let whole = 8 * MIB;
    let mut pieces = Vec::new();
    let pin = files.map(file, 0, whole, false, &mut |piece| pieces.push(piece)).expect("map");
    assert_eq!(pieces, [], "an empty file has pages");
    assert_eq!(volume.write(file, &bytes(TAG, LENGTH), None), Ok(LENGTH));
    let mut further = |offset, length| files.map_further(pin, offset, length, &mut |piece| pieces.push(piece));
    assert!(further(0, 4 * MIB).expect("more of it") > 0);
    assert_eq!(further(4 * MIB, 4 * MIB), Ok(0), "pages behind the end");
    assert_eq!(further(4 * MIB, 8 * MIB), Err(Errno::INVAL), "pages that are not pinned");
    volume.close(file).expect("close");
    volume.unlink(None, b"grown").expect("unlink");
    fill(&files, "filler");
    assert_eq!(shown(&files, &pieces), bytes(TAG, LENGTH));
    files.unmap(pin).expect("unmap");
    let mut nothing = |_| {};
    assert_eq!(files.map_further(pin, 0, MIB, &mut nothing), Err(Errno::NOENT), "a pin that is gone maps");
    assert!(check(&files).is_clean());
}
