//! Directed sequences: one text of what happened per volume, to be compared.

use crate::volume::{Answer, Attributes, Time, Volume};
use std::fmt::{Debug, Write};
use std::time::Duration;

/// What a scenario saw, line by line.
#[derive(Debug, Default)]
pub struct Transcript(pub Vec<String>);

impl Transcript {
    /// Notes one answer.
    pub fn say(&mut self, what: impl AsRef<str>, answer: impl Debug) {
        let mut line = String::new();
        let _ = write!(line, "{}: {answer:?}", what.as_ref());
        self.0.push(line);
    }

    /// The first lines in which two transcripts differ.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let lines = self.0.len().max(other.0.len());
        let differing: Vec<String> = (0..lines)
            .filter(|line| self.0.get(*line) != other.0.get(*line))
            .take(MOST_DIFFERENCES)
            .map(|line| format!("region: {:?}\n kernel: {:?}", self.0.get(line), other.0.get(line)))
            .collect();
        (!differing.is_empty()).then(|| differing.join("\n "))
    }
}

/// Lines that are shown of two transcripts that differ.
const MOST_DIFFERENCES: usize = 12;

/// What of an answer can be equal on two file systems.
pub fn shown(found: Answer<Attributes>) -> Answer<(u32, u64, u32, u32, u64)> {
    let size = |found: &Attributes| if found.kind() == libc::S_IFDIR { 0 } else { found.size };
    found.map(|found| (found.mode, found.links, found.uid, found.gid, size(&found)))
}

fn open<V: Volume>(volume: &V, path: &str, flags: i32) -> V::File {
    volume.open(None, path.as_bytes(), flags, 0o644).unwrap_or_else(|error| panic!("open {path}: errno {error}"))
}

fn set_back<V: Volume>(volume: &V, path: &str) {
    let old = Time::At(1_000_000_000);
    let _ = volume.set_times(None, path.as_bytes(), old, old, false);
}

/// Which times each call moves: the file's, and those of the directories it is named in.
pub fn times<V: Volume>(volume: &V, said: &mut Transcript) {
    type Step<V> = (&'static str, fn(&V, <V as Volume>::File) -> Answer<()>);
    let steps: [Step<V>; 19] = [
        ("write", |v, f| v.write(f, b"12345", Some(0)).map(drop)),
        ("write of nothing", |v, f| v.write(f, b"", Some(0)).map(drop)),
        ("read", |v, f| v.read(f, 3, Some(0)).map(drop)),
        ("truncate down", |v, f| v.truncate_open(f, 2)),
        ("truncate up", |v, f| v.truncate_open(f, 9000)),
        ("truncate to the same", |v, f| v.truncate_open(f, 9000)),
        ("truncate by path to the same", |v, _| v.truncate(None, b"d/f", 9000)),
        ("allocate", |v, f| v.allocate(f, 0, 0, 20_000)),
        ("chmod", |v, _| v.chmod(None, b"d/f", 0o600)),
        ("chown to nobody else", |v, _| v.chown(None, b"d/f", None, None, true)),
        ("link", |v, _| v.link(None, b"d/f", b"d/g", false)),
        ("rename", |v, _| v.rename(None, b"d/g", b"d/h", 0)),
        ("rename into another directory", |v, _| v.rename(None, b"d/h", b"e/h", 0)),
        ("rename over another", |v, _| v.rename(None, b"e/h", b"e/i", 0)),
        ("unlink", |v, _| v.unlink(None, b"e/i")),
        ("mkdir", |v, _| v.mkdir(None, b"d/k", 0o755)),
        ("rmdir", |v, _| v.rmdir(None, b"d/k")),
        ("open for truncation", |v, _| {
            v.open(None, b"d/f", libc::O_WRONLY | libc::O_TRUNC, 0).and_then(|file| v.close(file))
        }),
        ("sync", |v, f| v.sync(f)),
    ];
    let places = ["d", "e", "d/f"];
    for directory in ["d", "e"] {
        let _ = volume.mkdir(None, directory.as_bytes(), 0o755);
    }
    let file = open(volume, "d/f", libc::O_RDWR | libc::O_CREAT);
    let other = open(volume, "e/i", libc::O_RDWR | libc::O_CREAT);
    for (name, step) in steps {
        places.iter().for_each(|place| set_back(volume, place));
        // Longer than a tick of the kernel's coarse clock.
        std::thread::sleep(Duration::from_millis(15));
        let before = places.map(|place| volume.stat(None, place.as_bytes(), false));
        std::thread::sleep(Duration::from_millis(15));
        let done = step(volume, file);
        let after = places.map(|place| volume.stat(None, place.as_bytes(), false));
        for (place, (before, after)) in places.iter().zip(before.iter().zip(&after)) {
            let (Ok(before), Ok(after)) = (before, after) else { continue };
            let (content, inode) = (after.modified > before.modified, after.changed > before.changed);
            said.say(format!("{name} {done:?}: {place}"), (("content changed", content), ("inode changed", inode)));
        }
    }
    let _ = (volume.close(file), volume.close(other));
}

/// Names of 255 and 256 bytes, paths of 4095 and 4096, targets likewise, and every kind of odd ending.
pub fn limits<V: Volume>(volume: &V, said: &mut Transcript) {
    for length in [1, 24, 25, 48, 49, 100, 254, 255, 256, 300] {
        let name = vec![b'x'; length];
        said.say(format!("mkdir name of {length}"), volume.mkdir(None, &name, 0o700));
        said.say("stat", shown(volume.stat(None, &name, true)));
        said.say("rename", volume.rename(None, &name, b"short", 0));
        said.say("back", volume.rename(None, b"short", &name, 0));
        said.say("rmdir", volume.rmdir(None, &name));
    }
    for length in [4094, 4095, 4096, 5000] {
        let mut path = b"./".repeat(length / 2);
        path.truncate(length - 1);
        path[length - 2] = b'/';
        path.push(b'p');
        said.say(format!("path of {length}"), volume.mkdir(None, &path, 0o700));
        said.say("rmdir", volume.rmdir(None, &path));
        let target = vec![b't'; length];
        said.say("target", volume.symlink(&target, None, b"l"));
        said.say("readlink", volume.readlink(None, b"l").map(|target| target.len()));
        said.say("through it", volume.stat(None, b"l", true).map(drop));
        said.say("unlink", volume.unlink(None, b"l"));
    }
    let file = open(volume, "file", libc::O_RDWR | libc::O_CREAT);
    let _ = (volume.close(file), volume.mkdir(None, b"dir", 0o755));
    let _ = (volume.symlink(b"dir", None, b"to-dir"), volume.symlink(b"file", None, b"to-file"));
    let _ = (volume.symlink(b"nowhere", None, b"dangling"), volume.symlink(b"loop", None, b"loop"));
    let names = ["file", "dir", "to-dir", "to-file", "dangling", "loop", "new", "dir/new", "file/new", "new/new"];
    for name in names {
        for ending in ["", "/", "/.", "/..", "//", "/./"] {
            ending_of(volume, said, format!("{name}{ending}").as_bytes());
        }
    }
    for odd in ["", ".", "..", "dir/..", "dir/../dir", "to-dir/../file"] {
        said.say(format!("rmdir {odd:?}"), volume.rmdir(None, odd.as_bytes()));
        said.say(format!("unlink {odd:?}"), volume.unlink(None, odd.as_bytes()));
        said.say(format!("rename {odd:?}"), volume.rename(None, odd.as_bytes(), b"moved", 0));
        said.say(format!("rename onto {odd:?}"), volume.rename(None, b"dir", odd.as_bytes(), 0));
        said.say(format!("mkdir {odd:?}"), volume.mkdir(None, odd.as_bytes(), 0o700));
    }
}

fn ending_of<V: Volume>(volume: &V, said: &mut Transcript, path: &[u8]) {
    let text = String::from_utf8_lossy(path).into_owned();
    said.say(format!("stat {text}"), shown(volume.stat(None, path, true)));
    said.say(format!("lstat {text}"), shown(volume.stat(None, path, false)));
    for (how, flags) in [
        ("read", libc::O_RDONLY),
        ("write", libc::O_WRONLY),
        ("no link", libc::O_RDONLY | libc::O_NOFOLLOW),
        ("directory", libc::O_RDONLY | libc::O_DIRECTORY),
        ("path", libc::O_PATH | libc::O_NOFOLLOW),
        ("path and directory", libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW),
        ("exclusive", libc::O_RDWR | libc::O_CREAT | libc::O_EXCL),
    ] {
        let opened = volume.open(None, path, flags, 0o644);
        said.say(format!("open {text} for {how}"), opened.map(|file| volume.close(file)));
        if flags & libc::O_EXCL != 0 && opened.is_ok() {
            said.say("and unlink", volume.unlink(None, path));
        }
    }
    said.say(format!("link to {text}"), volume.link(None, b"file", path, false));
    said.say(format!("link from {text}"), volume.link(None, path, b"made", false));
    let _ = volume.unlink(None, b"made");
    said.say(format!("symlink at {text}"), volume.symlink(b"file", None, path));
    said.say(format!("mkdir {text}"), volume.mkdir(None, path, 0o755));
    said.say(format!("rmdir {text}"), volume.rmdir(None, b"no-such"));
    said.say(format!("rename dir to {text}"), volume.rename(None, b"dir", path, libc::RENAME_NOREPLACE));
    said.say(format!("rename file to {text}"), volume.rename(None, b"file", path, libc::RENAME_NOREPLACE));
    for (name, from) in [("dir", path), ("file", path)] {
        // Whatever was moved is moved back.
        if volume.stat(None, name.as_bytes(), false).is_err() {
            said.say("back", volume.rename(None, from, name.as_bytes(), 0));
        }
    }
    if path.starts_with(b"new") || path.ends_with(b"new") {
        let trimmed = text.trim_end_matches(['/', '.']);
        let _ = (volume.unlink(None, trimmed.as_bytes()), volume.rmdir(None, trimmed.as_bytes()));
    }
}

/// At the far end of what an offset can say. File systems have different largest sizes: a place behind it is `EINVAL`
/// for `lseek` and `EFBIG` for a write, never anything else and never a success that is none.
pub fn far_places<V: Volume>(volume: &V) {
    let file = open(volume, "far", libc::O_RDWR | libc::O_CREAT);
    let far = i64::MAX as u64;
    let sought = volume.seek(file, i64::MAX, libc::SEEK_SET);
    assert!(sought == Ok(far) || sought == Err(libc::EINVAL), "seek to the far end: {sought:?}");
    if sought.is_ok() {
        let beyond = volume.seek(file, 1, libc::SEEK_CUR);
        assert!(matches!(beyond, Err(libc::EOVERFLOW | libc::EINVAL)), "seek beyond the far end: {beyond:?}");
    }
    // An end that no offset can say is `EINVAL` before any file system is asked.
    for at in [sought.map_or(Some(far), |_| None), Some(far)] {
        let written = volume.write(file, b"x", at);
        assert!(matches!(written, Err(libc::EFBIG | libc::EINVAL)), "write at the far end, {at:?}: {written:?}");
        let read = volume.read(file, 5, at);
        assert!(matches!(read, Err(libc::EINVAL)) || read == Ok(Vec::new()), "read at the far end, {at:?}: {read:?}");
    }
    for length in [1 << 62, far] {
        let cut = volume.truncate_open(file, length);
        assert!(cut == Ok(()) || cut == Err(libc::EFBIG), "truncate to {length}: {cut:?}");
        let size = volume.stat_open(file).expect("stat").size;
        assert_eq!(size, if cut.is_ok() { length } else { 0 }, "size after truncate to {length}");
        volume.truncate_open(file, 0).expect("truncate to nothing");
    }
    let reserved = volume.allocate(file, 0, far - 4096, 4096);
    assert!(matches!(reserved, Ok(()) | Err(libc::EFBIG | libc::ENOSPC)), "allocate at the far end: {reserved:?}");
    volume.truncate_open(file, 0).expect("truncate to nothing");
    volume.close(file).expect("close");
}

/// Large and negative places, sparse files, files that are gone but open.
pub fn places<V: Volume>(volume: &V, said: &mut Transcript) {
    let file = open(volume, "f", libc::O_RDWR | libc::O_CREAT);
    said.say("seek below zero", volume.seek(file, -1, libc::SEEK_SET));
    said.say("seek below zero from the end", volume.seek(file, -10, libc::SEEK_END));
    said.say("seek with a bad whence", volume.seek(file, 0, 77));
    said.say("sparse write", volume.write(file, b"end", Some(5_000_000)));
    said.say("stat", shown(volume.stat_open(file)));
    said.say("zeros before", volume.read(file, 9, Some(4_999_995)));
    said.say("zeros inside", volume.read(file, 70_000, Some(1_000_000)).map(|all| all.iter().all(|b| *b == 0)));
    said.say("short at the end", volume.read(file, 100, Some(4_999_999)));
    said.say("truncate", volume.truncate_open(file, 3_000_000));
    said.say("truncate up", volume.truncate_open(file, 6_000_000));
    said.say("what was cut is zero", volume.read(file, 3, Some(5_000_000)));
    said.say("allocate nothing", volume.allocate(file, 0, 0, 0));
    said.say("allocate an odd mode", volume.allocate(file, 1 << 20, 0, 4096));
    said.say("punch without keeping the size", volume.allocate(file, libc::FALLOC_FL_PUNCH_HOLE, 0, 4096));
    said.say("unlink while open", volume.unlink(None, b"f"));
    said.say("stat of the unlinked", shown(volume.stat_open(file)));
    said.say("write to the unlinked", volume.write(file, b"still here", Some(0)));
    said.say("read of the unlinked", volume.read(file, 10, Some(0)));
    said.say("link of the unlinked", volume.link_open(file, None, b"again"));
    said.say("the name again", volume.open(None, b"f", libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, 0o600).map(drop));
    said.say("close", volume.close(file));

    let directory = open_directory_that_goes(volume, said);
    said.say("list of the removed directory", volume.list(directory));
    said.say("create in it", volume.open(Some(directory), b"x", libc::O_CREAT | libc::O_WRONLY, 0o600).map(drop));
    said.say("mkdir in it", volume.mkdir(Some(directory), b"x", 0o700));
    said.say("its parent", volume.stat(Some(directory), b"..", true).map(drop));
    said.say("itself", shown(volume.stat_open(directory)));
    said.say("read of a directory", volume.read(directory, 10, Some(0)));
    said.say("write to a directory", volume.write(directory, b"x", Some(0)));
    said.say("truncate of a directory", volume.truncate_open(directory, 0));
    said.say("allocate in a directory", volume.allocate(directory, 0, 0, 4096));
    said.say("sync of a directory", volume.sync(directory));
    said.say("close", volume.close(directory));
}

fn open_directory_that_goes<V: Volume>(volume: &V, said: &mut Transcript) -> V::File {
    said.say("mkdir", volume.mkdir(None, b"gone", 0o755));
    let directory = open(volume, "gone", libc::O_RDONLY | libc::O_DIRECTORY);
    said.say("rmdir while open", volume.rmdir(None, b"gone"));
    directory
}

/// Files that are opened without a name and get one later, or never.
pub fn nameless<V: Volume>(volume: &V, said: &mut Transcript) {
    for extra in [0, libc::O_EXCL] {
        let file = volume.open(None, b".", libc::O_TMPFILE | libc::O_RDWR | extra, 0o640);
        said.say("open without a name", file.map(drop));
        let Ok(file) = file else { continue };
        said.say("stat", shown(volume.stat_open(file)));
        said.say("write", volume.write(file, b"content", None));
        said.say("give it a name", volume.link_open(file, None, b"named"));
        said.say("stat", shown(volume.stat_open(file)));
        said.say("close", volume.close(file));
        said.say("stat by name", shown(volume.stat(None, b"named", false)));
        said.say("unlink", volume.unlink(None, b"named"));
    }
    said.say("read-only", volume.open(None, b".", libc::O_TMPFILE | libc::O_RDONLY, 0o640).map(drop));
    said.say("in nothing", volume.open(None, b"no", libc::O_TMPFILE | libc::O_RDWR, 0o640).map(drop));
}
