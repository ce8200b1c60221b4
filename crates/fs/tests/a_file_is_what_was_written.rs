//! First things first: names, bytes and attributes of one process come back as they were given.

use lifeboat_fs::{Caller, Errno, FileSystem, InodeId, LastLink, Position, UserSource, UserTarget};
use lifeboat_testkit::scratch::{ScratchRegion, check};

const ROOT: Caller<'static> = Caller { uid: 0, gid: 0, groups: &[], umask: 0o022, checked: false };
const RDONLY: i32 = 0;
const WRONLY: i32 = 1;
const RDWR: i32 = 2;
const CREATE: i32 = 0o100;
const APPEND: i32 = 0o2000;

fn write(fs: &FileSystem, path: &[u8], bytes: &[u8]) {
    let file = fs.open(&ROOT, fs.root(), path, WRONLY | CREATE, 0o644).unwrap();
    assert_eq!(fs.write(file, &[UserSource::from_slice(bytes)], Position::Current).unwrap(), bytes.len());
    fs.close(file).unwrap();
}

fn read(fs: &FileSystem, path: &[u8]) -> Vec<u8> {
    let file = fs.open(&ROOT, fs.root(), path, RDONLY, 0).unwrap();
    let size = fs.stat(fs.inode_of(file).unwrap()).unwrap().size as usize;
    let mut bytes = vec![0xaa; size + 10];
    let count = fs.read(file, &[UserTarget::from_slice(&mut bytes)], Position::Current).unwrap();
    fs.close(file).unwrap();
    bytes.truncate(count);
    bytes
}

fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect()
}

fn resolve(fs: &FileSystem, path: &[u8]) -> Result<InodeId, Errno> {
    fs.resolve(&ROOT, fs.root(), path, LastLink::Follow)
}

#[test]
fn bytes_of_every_length_come_back() {
    let scratch = ScratchRegion::new("bytes", 64 << 20);
    let fs = scratch.attach();
    for length in [0, 1, 100, 4095, 4096, 4097, 65535, 65536, 65537, 300_000, 1 << 20, (1 << 20) + 1, 9_000_001] {
        let bytes = pattern(length, length as u64);
        write(&fs, b"/file", &bytes);
        assert!(read(&fs, b"/file") == bytes, "length {length}");
        let report = fs.verify(resolve(&fs, b"/file").unwrap()).unwrap();
        assert_eq!((report.bad, report.unknown), (0, 0), "length {length}: {report:?}");
        fs.unlink(&ROOT, fs.root(), b"/file").unwrap();
        assert_eq!(resolve(&fs, b"/file"), Err(Errno::NOENT));
    }
    let checked = check(&fs);
    assert!(checked.is_clean(), "{checked}");
}

#[test]
fn ten_thousand_names_are_listed_once_each() {
    let scratch = ScratchRegion::new("names", 64 << 20);
    let fs = scratch.attach();
    fs.mkdir(&ROOT, fs.root(), b"/d", 0o755).unwrap();
    let name = |number: usize| {
        if number.is_multiple_of(7) { format!("/d/{}-{number}", "long".repeat(30)) } else { format!("/d/name{number}") }
    };
    for number in 0..10_000 {
        write(&fs, name(number).as_bytes(), b"");
    }
    let dir = fs.open(&ROOT, fs.root(), b"/d", RDONLY, 0).unwrap();
    let mut cookie = 0;
    let mut seen = std::collections::BTreeSet::new();
    while let Some(entry) = fs.read_dir(dir, cookie).unwrap() {
        assert!(seen.insert(entry.name().to_vec()));
        assert!(entry.next > cookie);
        cookie = entry.next;
    }
    assert_eq!(seen.len(), 10_002);
    let checked = check(&fs);
    assert!(checked.is_clean(), "{checked}");
    for number in 0..10_000 {
        fs.unlink(&ROOT, fs.root(), name(number).as_bytes()).unwrap();
    }
    fs.close(dir).unwrap();
    fs.rmdir(&ROOT, fs.root(), b"/d").unwrap();
    let checked = check(&fs);
    assert!(checked.is_clean(), "{checked}");
}

#[test]
fn a_file_with_holes_reads_zeros_between() {
    let scratch = ScratchRegion::new("holes", 64 << 20);
    let fs = scratch.attach();
    // Leave dirt in the space that will be used.
    write(&fs, b"/dirt", &pattern(20 << 20, 5));
    fs.unlink(&ROOT, fs.root(), b"/dirt").unwrap();
    let file = fs.open(&ROOT, fs.root(), b"/f", RDWR | CREATE, 0o600).unwrap();
    let mut model = vec![0u8; 8 << 20];
    let mut state = 9u64;
    let mut end = 0;
    for round in 0..400 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let at = (state >> 20) as usize % (7 << 20);
        let length = 1 + (state >> 45) as usize % 200_000;
        if round % 20 == 19 {
            fs.truncate_open(file, at as u64).unwrap();
            model[at..].fill(0);
            end = at;
            continue;
        }
        let bytes = pattern(length, state);
        assert_eq!(fs.write(file, &[UserSource::from_slice(&bytes)], Position::At(at as u64)).unwrap(), length);
        model[at..at + length].copy_from_slice(&bytes);
        end = end.max(at + length);
    }
    assert!(read(&fs, b"/f") == model[..end]);
    fs.close(file).unwrap();
    let report = fs.seal(&ROOT, resolve(&fs, b"/f").unwrap()).unwrap();
    assert!(report.as_of_seal > 0);
    assert_eq!(fs.verify(resolve(&fs, b"/f").unwrap()).unwrap().bad, 0);
    let checked = check(&fs);
    assert!(checked.is_clean(), "{checked}");
}

#[test]
fn appends_follow_each_other() {
    let scratch = ScratchRegion::new("append", 64 << 20);
    let fs = scratch.attach();
    let file = fs.open(&ROOT, fs.root(), b"/log", WRONLY | CREATE | APPEND, 0o600).unwrap();
    let mut model = Vec::new();
    for number in 0..300u64 {
        let bytes = pattern(1 + (number * 997 % 30_000) as usize, number);
        assert_eq!(fs.write(file, &[UserSource::from_slice(&bytes)], Position::Current).unwrap(), bytes.len());
        model.extend_from_slice(&bytes);
    }
    fs.close(file).unwrap();
    assert!(read(&fs, b"/log") == model);
    let report = fs.verify(resolve(&fs, b"/log").unwrap()).unwrap();
    assert_eq!((report.bad, report.unknown), (0, 0));
    let checked = check(&fs);
    assert!(checked.is_clean(), "{checked}");
}

#[test]
fn links_and_renames_mean_what_they_say() {
    let scratch = ScratchRegion::new("links", 64 << 20);
    let fs = scratch.attach();
    let root = fs.root();
    fs.mkdir(&ROOT, root, b"a", 0o755).unwrap();
    fs.mkdir(&ROOT, root, b"a/b", 0o755).unwrap();
    write(&fs, b"a/b/f", b"hello");
    fs.symlink(&ROOT, b"../b/f", root, b"a/b/s").unwrap();
    fs.symlink(&ROOT, b"/lifeboat/a", root, b"abs").unwrap();
    assert_eq!(read(&fs, b"abs/b/s"), b"hello");
    assert_eq!(fs.rename(&ROOT, root, b"a", root, b"a/b/c", 0), Err(Errno::INVAL));
    fs.rename(&ROOT, root, b"a/b", root, b"x", 0).unwrap();
    assert_eq!(read(&fs, b"x/f"), b"hello");
    let mut path = [0; 4096];
    let length = fs.path_of(resolve(&fs, b"x").unwrap(), &mut path).unwrap();
    assert_eq!(&path[..length], b"/x");
    fs.link(&ROOT, resolve(&fs, b"x/f").unwrap(), root, b"g").unwrap();
    write(&fs, b"victim", b"old");
    fs.rename(&ROOT, root, b"g", root, b"victim", 0).unwrap();
    assert_eq!(read(&fs, b"victim"), b"hello");
    assert_eq!(fs.stat(resolve(&fs, b"victim").unwrap()).unwrap().links, 2);
    let checked = check(&fs);
    assert!(checked.is_clean(), "{checked}");
}

#[test]
fn a_file_that_was_large_and_begins_again_small_has_no_checksum_of_its_earlier_bytes() {
    let scratch = ScratchRegion::new("again", 64 << 20);
    let fs = scratch.attach();
    for sealed in [false, true] {
        // The only extent gets a checksum, then moves into a node as the file grows.
        write(&fs, b"/file", &pattern(47_042, 3));
        let inode = resolve(&fs, b"/file").unwrap();
        if sealed {
            fs.seal(&ROOT, inode).unwrap();
        }
        let file = fs.open(&ROOT, fs.root(), b"/file", RDWR, 0).unwrap();
        fs.write(file, &[UserSource::from_slice(&pattern(9000, 4))], Position::At(70_000)).unwrap();
        fs.truncate(&ROOT, inode, 0).unwrap();
        // Places without a write: zeros that no checksum speaks of.
        fs.allocate(file, 1, 20_000, 5000).unwrap();
        fs.truncate(&ROOT, inode, 87_642).unwrap();
        assert_eq!(fs.verify(inode).unwrap().bad, 0, "sealed {sealed}");
        // A write where the earlier bytes ended goes on with nothing of theirs.
        fs.write(file, &[UserSource::from_slice(&pattern(3000, 5))], Position::At(47_042)).unwrap();
        assert_eq!(fs.verify(inode).unwrap().bad, 0, "sealed {sealed}, written again");
        // And what begins at the start again is protected end to end.
        fs.truncate(&ROOT, inode, 0).unwrap();
        fs.write(file, &[UserSource::from_slice(&pattern(50_000, 6))], Position::At(0)).unwrap();
        let report = fs.verify(inode).unwrap();
        assert_eq!((report.bad, report.unknown, report.end_to_end), (0, 0, 1), "sealed {sealed}: {report:?}");
        fs.close(file).unwrap();
        fs.unlink(&ROOT, fs.root(), b"/file").unwrap();
    }
    let checked = check(&fs);
    assert!(checked.is_clean(), "{checked}");
}

#[test]
fn checksums_that_are_made_at_seal_are_of_the_bytes_and_of_nothing_before() {
    let scratch = ScratchRegion::new("at-seal", 64 << 20);
    let (fs, summing) = (scratch.attach().with_sums_at_seal(), scratch.attach());
    let mut model = pattern(500_000, 8);
    // Whole extents and a part, over what has checksums, and small pieces, inside and at the end.
    write(&fs, b"/file", &model);
    write(&summing, b"/over", &pattern(450_000, 9));
    write(&fs, b"/over", &model);
    let log = fs.open(&ROOT, fs.root(), b"/file", WRONLY | APPEND, 0).unwrap();
    let over = fs.open(&ROOT, fs.root(), b"/over", WRONLY, 0).unwrap();
    for (number, length) in [(1, 100), (2, 60_000), (3, 5000)] {
        let bytes = pattern(length, number);
        let (end, inside) = (model.len() as u64, number * 70_000);
        assert_eq!(fs.write(log, &[UserSource::from_slice(&bytes)], Position::Current), Ok(length));
        assert_eq!(fs.write(over, &[UserSource::from_slice(&bytes)], Position::At(end)), Ok(length));
        model.extend_from_slice(&bytes);
        for file in [log, over] {
            // An appending descriptor writes at the end wherever it is asked to.
            let other = fs.open_inode(&ROOT, fs.inode_of(file).unwrap(), RDWR).unwrap();
            assert_eq!(fs.write(other, &[UserSource::from_slice(&bytes)], Position::At(inside)), Ok(length));
            fs.close(other).unwrap();
        }
        model[inside as usize..inside as usize + length].copy_from_slice(&bytes);
    }
    fs.close(log).unwrap();
    fs.close(over).unwrap();
    for path in [&b"/file"[..], b"/over"] {
        assert!(read(&fs, path) == model);
        let inode = resolve(&fs, path).unwrap();
        let before = fs.verify(inode).unwrap();
        assert_eq!((before.bad, before.end_to_end, before.as_of_seal), (0, 0, 0), "{before:?}");
        fs.seal(&ROOT, inode).unwrap();
        let after = summing.verify(inode).unwrap();
        assert_eq!((after.bad, after.end_to_end, after.unknown), (0, 0, 0), "{after:?}");
        assert_eq!(after.as_of_seal, model.len().div_ceil(65536) as u64);
    }
    // What begins anew with checksums has them.
    write(&summing, b"/over", &model);
    assert!(summing.verify(resolve(&fs, b"/over").unwrap()).unwrap().end_to_end > 0);
    let checked = check(&fs);
    assert!(checked.is_clean(), "{checked}");
}
