//! The fear: a full region loses what it held, or stays full after files are removed.

use lifeboat_fs::FileSystem;
use lifeboat_region::lane::Lane;
use lifeboat_testkit::child::{self, Role, report, setting};
use lifeboat_testkit::command::Mounted;
use lifeboat_testkit::random::bytes;
use lifeboat_testkit::report::note;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchRegion, attach, check};
use lifeboat_testkit::volume::{Answer, RegionVolume, Volume};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn entry_of_child_processes() {
    child::enter(&[("holder", holder), ("keeps open in the mount", keeps_open_in_the_mount)]);
}

fn volume(files: &FileSystem) -> RegionVolume<'_> {
    RegionVolume::over(files, b"").expect("the root")
}

/// Writes the bytes of `tag` to a new file until there is no room; gives the bytes that fitted.
fn fill<V: Volume>(volume: &V, name: &str, tag: u64, piece: usize) -> u64 {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
    let file = volume.open(None, name.as_bytes(), flags, 0o644).expect("create");
    let mut size = 0_u64;
    let end = loop {
        match volume.write(file, &bytes(tag + size, piece), None) {
            Ok(0) => panic!("a write of nothing without an error"),
            Ok(count) => {
                size += count as u64;
                if count < piece {
                    // Short: the next must say why.
                    break volume.write(file, &[0; 4096], None).map(drop);
                }
            }
            Err(error) => break Err(error),
        }
    };
    assert_eq!(end, Err(libc::ENOSPC), "the end of the room in {name}");
    assert_eq!(volume.stat_open(file).expect("stat").size, size, "size counts what was not written");
    volume.close(file).expect("close");
    size
}

fn assert_holds<V: Volume>(volume: &V, name: &str, tag: u64, piece: usize, size: u64) {
    let file = volume.open(None, name.as_bytes(), libc::O_RDONLY, 0).expect("open");
    let mut at = 0;
    while at < size {
        let length = piece.min((size - at) as usize);
        let found = volume.read(file, length, Some(at)).expect("read");
        assert!(found == bytes(tag + at, piece)[..length], "{name} has other content at {at}");
        at += length as u64;
    }
    assert_eq!(volume.read(file, 1, Some(size)), Ok(Vec::new()), "{name} goes on behind its end");
    volume.close(file).expect("close");
}

fn assert_clean(files: &FileSystem) {
    let checked = check(files);
    assert!(checked.is_clean(), "{checked}");
}

/// Two operations on an inode that come and go, and are never both away.
fn come_and_go(files: &FileSystem, inode: u64, own: usize, turn: &AtomicUsize, end: &AtomicBool) {
    let lane = Lane::claim(files.region()).expect("a lane");
    let announce = || lane.announce(inode, 0, u64::MAX).expect("announce");
    announce();
    turn.fetch_add(1, Ordering::SeqCst);
    // Two arrivals, then by turns.
    while !end.load(Ordering::Relaxed) {
        let now = turn.load(Ordering::SeqCst);
        if now < 2 || now % 2 != own {
            std::thread::yield_now();
            continue;
        }
        lane.withdraw().expect("withdraw");
        std::thread::sleep(Duration::from_micros(20));
        announce();
        turn.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn room_of_a_removed_file_is_had_beside_readers_of_it_who_are_never_all_away() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("readers", 32 * MIB);
    let files = region.attach();
    let volume = volume(&files);
    let size = fill(&volume, "large", 1, MIB as usize);
    let open = volume.open(None, b"large", libc::O_RDONLY, 0).expect("open");
    let inode = files.inode_of(open).expect("its inode").to_word();
    volume.close(open).expect("close");
    let (turn, end) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for own in 0..2 {
            let (files, turn, end) = (&files, &turn, &end);
            scope.spawn(move || come_and_go(files, inode, own, turn, end));
        }
        while turn.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        volume.unlink(None, b"large").expect("unlink");
        let other = volume.open(None, b"other", libc::O_CREAT | libc::O_WRONLY, 0o644).expect("create");
        let written = volume.write(other, &bytes(2, 4 * MIB as usize), None);
        end.store(true, Ordering::Relaxed);
        assert_eq!(written, Ok(4 * MIB as usize), "of {size} bytes that were let go");
        volume.close(other).expect("close");
    });
    assert_holds(&volume, "other", 2, 4 * MIB as usize, 4 * MIB);
    assert_clean(&files);
}

#[test]
fn a_full_region_writes_short_then_says_so_and_keeps_what_it_had() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("full", 48 * MIB);
    let files = region.attach();
    let volume = volume(&files);
    let early = volume.open(None, b"early", libc::O_CREAT | libc::O_RDWR, 0o644).expect("create");
    volume.write(early, &bytes(9, 300_000), None).expect("write");
    let odd = MIB as usize + 4096 + 17;
    let size = fill(&volume, "big", 1000, odd);
    assert!(size > 32 * MIB, "only {size} bytes of 48 MiB were usable");
    assert_holds(&volume, "big", 1000, odd, size);
    assert!(volume.read(early, 300_000, Some(0)) == Ok(bytes(9, 300_000)), "earlier data changed");
    // Overwriting and cutting need no new room.
    assert_eq!(volume.write(early, &bytes(10, 4096), Some(4096)), Ok(4096), "overwrite in a full region");
    volume.rename(None, b"early", b"earlier", 0).expect("rename in a full region");
    assert_clean(&files);
    volume.unlink(None, b"big").expect("unlink in a full region");
    let again = fill(&volume, "again", 5000, odd);
    assert!(again + MIB >= size, "unlink made {again} bytes of room of {size}");
    assert_holds(&volume, "again", 5000, odd, again);
    volume.truncate(None, b"again", 10).expect("truncate in a full region");
    let third = fill(&volume, "third", 6000, odd);
    assert!(third + 2 * MIB >= size, "truncate made {third} bytes of room of {size}");
    volume.close(early).expect("close");
    assert_clean(&files);
}

#[test]
fn room_of_a_file_that_a_killed_process_had_open_comes_back() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("held", 48 * MIB);
    let files = region.attach();
    let volume = volume(&files);
    let size = fill(&volume, "big", 1, MIB as usize);
    let mut holder = Role::new("holder").with("REGION", region.path().display()).spawn();
    assert_eq!(holder.next_report(LIMIT), "open");
    volume.unlink(None, b"big").expect("unlink while another has it open");
    let meanwhile = volume.open(None, b"meanwhile", libc::O_CREAT | libc::O_WRONLY, 0o644).expect("create");
    let refused = volume.write(meanwhile, &vec![1; 8 * MIB as usize], None);
    assert!(refused != Ok(8 * MIB as usize), "the room of an open file was given away");
    volume.close(meanwhile).expect("close");
    volume.unlink(None, b"meanwhile").expect("unlink");
    holder.kill();
    let again = fill(&volume, "again", 2, MIB as usize);
    assert!(again + MIB >= size, "{again} bytes of room of {size} came back");
    assert_clean(&files);
}

fn holder() {
    let files = attach(Path::new(&setting("REGION"))).expect("attach");
    volume(&files).open(None, b"big", libc::O_RDONLY, 0).expect("open");
    report("open");
    std::thread::sleep(LIMIT);
}

#[test]
fn room_comes_back_at_once_when_a_killed_program_had_the_removed_file_open() {
    let _nothing_left = NoResidue::begin();
    let mounted = Mounted::new("full-mount", "48MiB");
    let mount = mounted.prefix().display().to_string();
    let fill = format!("dd if=/dev/zero of={mount}/big bs=1M count=100 2>&1; stat -c %s {mount}/big");
    let filled = mounted.shell(&fill);
    let text = String::from_utf8_lossy(&filled.stdout).into_owned();
    assert!(text.contains("No space left on device"), "dd into a full region said: {text}");
    let size: u64 = text.lines().last().and_then(|line| line.trim().parse().ok()).expect("a size");
    assert!(size > 32 * MIB, "only {size} bytes of 48 MiB were usable");
    let mut keeper =
        Role::below(mounted.exec(), "keeps open in the mount").with("FILE", format!("{mount}/big")).spawn();
    assert_eq!(keeper.next_report(LIMIT), "open");
    let removed = mounted.shell(&format!("rm {mount}/big && ls {mount} | wc -l"));
    assert_eq!(String::from_utf8_lossy(&removed.stdout).trim(), "0", "{removed:?}");
    keeper.kill();
    let again = format!("head -c {} /dev/zero > {mount}/again && stat -c %s {mount}/again", size - MIB);
    let written = mounted.shell(&again);
    assert!(written.status.success(), "no room after the holder's death: {written:?}");
}

fn keeps_open_in_the_mount() {
    let _held = std::fs::File::open(setting("FILE")).expect("open in the mount");
    report("open");
    std::thread::sleep(LIMIT);
}

/// Creates with `make` until there is no room; gives the count.
fn until_full(what: &str, most: u64, make: impl Fn(u64) -> Answer<()>) -> u64 {
    for count in 0..most {
        match make(count) {
            Ok(()) => {}
            Err(libc::ENOSPC) => return count,
            Err(other) => panic!("{what} {count}: errno {other}"),
        }
    }
    panic!("{most} {what} in a small region")
}

#[test]
fn small_files_until_the_region_is_full_are_all_there() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("small", 16 * MIB);
    let files = region.attach();
    let volume = volume(&files);
    volume.mkdir(None, b"many", 0o755).expect("mkdir");
    let create = |index: u64| {
        let path = format!("many/small-{index}");
        let file = volume.open(None, path.as_bytes(), libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY, 0o644)?;
        let data = bytes(index, 100);
        let written = volume.write(file, &data, None);
        volume.close(file).expect("close");
        match written {
            Ok(100) => Ok(()),
            other => {
                // A file without room for its content: its name goes again.
                volume.unlink(None, path.as_bytes()).expect("unlink in a full region");
                other.and(Err(libc::ENOSPC))
            }
        }
    };
    let count = until_full("small files", 200_000, create);
    assert!(count > 1000, "only {count} small files in 16 MiB");
    for index in 0..count {
        let path = format!("many/small-{index}");
        let file = volume.open(None, path.as_bytes(), libc::O_RDONLY, 0).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(volume.read(file, 200, None) == Ok(bytes(index, 100)), "{path} has other content");
        volume.close(file).expect("close");
    }
    assert_clean(&files);
    for index in 0..count {
        volume.unlink(None, format!("many/small-{index}").as_bytes()).expect("unlink");
    }
    let again = until_full("small files", 200_000, create);
    assert!(again * 100 >= count * 98, "{count} small files fitted, after their removal {again}");
    note("small files", &format!("{count} of 100 bytes in 16 MiB"));
}

#[test]
fn directory_entries_until_the_region_is_full_are_all_there() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("entries", 16 * MIB);
    let files = region.attach();
    let volume = volume(&files);
    let file = volume.open(None, b"file", libc::O_CREAT | libc::O_RDWR, 0o644).expect("create");
    volume.write(file, b"content", None).expect("write");
    let name = |index: u64| {
        let filler =
            if index.is_multiple_of(2) { "" } else { "-a-long-name-that-takes-a-cell-of-its-own-in-the-region" };
        format!("link-{index}{filler}")
    };
    let count = until_full("names", 400_000, |index| {
        volume.link(None, b"file", name(index).as_bytes(), false).map_err(|error| {
            // A file has only so many names; that is an end too, and said as such.
            if error == libc::EMLINK { libc::ENOSPC } else { error }
        })
    });
    assert!(count > 1000, "only {count} names in 16 MiB");
    assert_eq!(volume.stat_open(file).expect("stat").links, count + 1, "links");
    let directory = volume.open(None, b".", libc::O_RDONLY | libc::O_DIRECTORY, 0).expect("open directory");
    assert_eq!(volume.list(directory).expect("list").len() as u64, count + 1, "names in the list");
    volume.close(directory).expect("close");
    assert_clean(&files);
    for index in 0..count {
        volume.unlink(None, name(index).as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", name(index)));
    }
    assert_eq!(volume.read(file, 10, Some(0)), Ok(b"content".to_vec()));
    volume.close(file).expect("close");
    assert_clean(&files);
}
