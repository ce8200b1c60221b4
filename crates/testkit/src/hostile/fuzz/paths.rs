//! Bytes become a path; the file system must find what a plain reading of the rules finds.

use super::Target;
use crate::scratch::{PREFIX, ScratchRegion};
use crate::volume::{RegionVolume, Volume};
use lifeboat_fs::FileSystem;
use std::collections::BTreeMap;

/// Directories (`/` at the end), files, and links with their targets.
const TREE: [(&str, &str); 16] = [
    ("a/", ""),
    ("a/b/", ""),
    ("a/b/c/", ""),
    ("d/", ""),
    ("a/f", ""),
    ("d/f", ""),
    ("a/b/up", "../.."),
    ("a/l", "b/c"),
    ("d/root", "/lifeboat"),
    ("d/in", "/lifeboat/a/b/"),
    ("d/out", "/etc"),
    ("loop", "loop"),
    ("one", "two/x"),
    ("two", "one"),
    ("d/gone", "nothing"),
    ("d/file", "../a/f"),
];
const WORDS: [&str; 16] =
    ["a", "b", "c", "d", "f", "up", "l", "root", "in", "out", "loop", "one", "gone", "file", ".", ".."];

pub struct Paths {
    _region: ScratchRegion,
    files: FileSystem,
    numbers: BTreeMap<String, u64>,
}

/// What a path means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Inode(u64),
    Errno(i32),
}

impl Paths {
    pub fn new() -> Self {
        let region = ScratchRegion::new("fuzz-paths", 16 << 20);
        let files = region.attach();
        let mut numbers = BTreeMap::new();
        {
            let volume = RegionVolume::over(&files, b"").expect("the root");
            for (path, target) in TREE {
                let name = path.trim_end_matches('/');
                if path.ends_with('/') {
                    volume.mkdir(None, name.as_bytes(), 0o755).expect("mkdir");
                } else if target.is_empty() {
                    let file = volume.open(None, name.as_bytes(), libc::O_CREAT | libc::O_RDWR, 0o644).expect("open");
                    volume.close(file).expect("close");
                } else {
                    volume.symlink(target.as_bytes(), None, name.as_bytes()).expect("symlink");
                }
                numbers.insert(name.to_string(), volume.stat(None, name.as_bytes(), false).expect("stat").number);
            }
            numbers.insert(String::new(), volume.stat(None, b".", false).expect("stat").number);
        }
        Self { _region: region, files, numbers }
    }

    /// The rules, read plainly: component by component, links put in front of what is left.
    fn reference(&self, path: &[u8], follow: bool) -> Meaning {
        if path.is_empty() {
            return Meaning::Errno(libc::ENOENT);
        }
        if path.len() > 4095 {
            return Meaning::Errno(libc::ENAMETOOLONG);
        }
        let follow = follow || path.ends_with(b"/");
        let mut left: Vec<Vec<u8>> = split(path);
        let mut slash = path.ends_with(b"/");
        let mut here = String::new();
        let mut followed = 0;
        while !left.is_empty() {
            let component = left.remove(0);
            if !self.is_directory(&here) {
                return Meaning::Errno(libc::ENOTDIR);
            }
            match component.as_slice() {
                b"." => continue,
                b".." if here.is_empty() => return Meaning::Errno(crate::volume::LEAVES_THE_MOUNT),
                b".." => {
                    here = here.rsplit_once('/').map_or(String::new(), |(above, _)| above.to_string());
                    continue;
                }
                name if name.len() > 255 => return Meaning::Errno(libc::ENAMETOOLONG),
                _ => {}
            }
            let name = String::from_utf8_lossy(&component).into_owned();
            let below = if here.is_empty() { name } else { format!("{here}/{name}") };
            let target = TREE.iter().find(|(path, target)| *path == below && !target.is_empty());
            match target {
                Some((_, target)) if !left.is_empty() || follow || slash => {
                    followed += 1;
                    if followed > 40 {
                        return Meaning::Errno(libc::ELOOP);
                    }
                    let inside = target.strip_prefix(PREFIX).filter(|rest| rest.is_empty() || rest.starts_with('/'));
                    if target.starts_with('/') && inside.is_none() {
                        return Meaning::Errno(crate::volume::LEAVES_THE_MOUNT);
                    }
                    if inside.is_some() {
                        here = String::new();
                    }
                    slash |= left.is_empty() && target.ends_with('/');
                    left.splice(0..0, split(inside.unwrap_or(target).as_bytes()));
                }
                _ if self.numbers.contains_key(&below) => here = below,
                _ => return Meaning::Errno(libc::ENOENT),
            }
        }
        if slash && !self.is_directory(&here) {
            return Meaning::Errno(libc::ENOTDIR);
        }
        Meaning::Inode(self.numbers[&here])
    }

    fn is_directory(&self, path: &str) -> bool {
        path.is_empty() || TREE.iter().any(|(name, _)| name.strip_suffix('/') == Some(path))
    }
}

fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
}

/// Bytes below 32 stand for words and slashes, so that most paths lead somewhere.
fn path_of(input: &[u8]) -> Vec<u8> {
    let mut path = Vec::new();
    for byte in input {
        match byte {
            0 => path.push(b'/'),
            1..=16 => {
                path.extend_from_slice(WORDS[usize::from(*byte - 1)].as_bytes());
                path.push(b'/');
            }
            17 => {
                path.pop();
            }
            18 => path.extend_from_slice(&[b'n'; 200]),
            other => path.push(*other),
        }
    }
    path
}

impl Target for Paths {
    fn run(&mut self, input: &[u8]) -> Result<(), String> {
        let Some((flags, rest)) = input.split_first() else { return Ok(()) };
        let path = path_of(rest);
        if path.contains(&0) {
            return Ok(());
        }
        let volume = RegionVolume::over(&self.files, b"").map_err(|error| error.to_string())?;
        let follow = flags & 1 != 0;
        let found = match volume.stat(None, &path, follow) {
            Ok(found) => Meaning::Inode(found.number),
            Err(error) => Meaning::Errno(error),
        };
        let right = self.reference(&path, follow);
        if found == right {
            return Ok(());
        }
        let shown = String::from_utf8_lossy(&path);
        Err(format!("{shown:?} (follow: {follow}) is {found:?}, must be {right:?}"))
    }
}
