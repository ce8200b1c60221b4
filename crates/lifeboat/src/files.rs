//! Commands on files in a region, without interception.

mod copy;
mod list;
mod protect;
mod read;
mod remove;
mod usage;

use std::ffi::OsStr;

use lifeboat_fs::{Caller, Errno, FileSystem, InodeId, LastLink, OpenFile, Stat};

use crate::arguments::FilesArguments;
use crate::failure::Failure;
use crate::identity::Identity;
use crate::mount::Prefix;
use crate::target;

pub use copy::cp;
pub use list::{ls, stat};
pub use protect::{seal, verify};
pub use read::cat;
pub use remove::rm;
pub use usage::{df, du};

const O_RDONLY: i32 = rustix::fs::OFlags::RDONLY.bits() as i32;
const O_DIRECTORY: i32 = rustix::fs::OFlags::DIRECTORY.bits() as i32;
/// Bytes moved at a time.
const PIECE: usize = 1 << 20;

const TYPE: u32 = 0o170000;
const DIRECTORY: u32 = 0o040000;
const REGULAR: u32 = 0o100000;
const LINK: u32 = 0o120000;

/// The files of one region, as one user sees them.
pub struct Files {
    fs: FileSystem,
    identity: Identity,
    prefix: Prefix,
}

/// A file of the region that is open until dropped.
struct Opened<'a> {
    fs: &'a FileSystem,
    file: OpenFile,
}

/// A name in a directory.
struct Entry {
    name: Vec<u8>,
    inode: InodeId,
    stat: Stat,
}

/// Called with a path and what it names, or why that cannot be read.
type Visitor<'a> = dyn FnMut(&[u8], Result<(InodeId, &Stat), Errno>) -> Result<(), Failure> + 'a;

impl Files {
    /// Attaches the region that the command line means.
    pub fn open(arguments: &FilesArguments) -> Result<Files, Failure> {
        let (fs, prefix) = target::files(arguments)?;
        Ok(Files { fs, identity: Identity::own(), prefix })
    }

    fn who(&self) -> Caller<'_> {
        self.identity.caller()
    }

    /// The path in the region that an argument means.
    fn inner(&self, path: &OsStr) -> Vec<u8> {
        self.prefix.inner(path)
    }

    fn resolve(&self, path: &[u8], last: LastLink) -> Result<InodeId, Errno> {
        self.fs.resolve(&self.who(), self.fs.root(), path, last)
    }

    /// What a path names, with its attributes; `doing` is for the error.
    fn find(&self, path: &[u8], last: LastLink, doing: &str) -> Result<(InodeId, Stat), Failure> {
        let found = self.resolve(path, last).and_then(|inode| Ok((inode, self.fs.stat(inode)?)));
        found.map_err(|errno| Failure::on_path(doing, path, errno))
    }

    fn open_path(&self, path: &[u8], flags: i32, mode: u32) -> Result<Opened<'_>, Errno> {
        let file = self.fs.open(&self.who(), self.fs.root(), path, flags, mode)?;
        Ok(Opened { fs: &self.fs, file })
    }

    fn open_inode(&self, inode: InodeId, flags: i32) -> Result<Opened<'_>, Errno> {
        let file = self.fs.open_inode(&self.who(), inode, flags)?;
        Ok(Opened { fs: &self.fs, file })
    }

    /// The names in a directory, sorted, without `.` and `..`.
    fn entries(&self, directory: InodeId) -> Result<Vec<Entry>, Errno> {
        let opened = self.open_inode(directory, O_RDONLY | O_DIRECTORY)?;
        let mut names = Vec::new();
        let mut cookie = 0;
        while let Some(entry) = self.fs.read_dir(opened.file, cookie)? {
            cookie = entry.next;
            if entry.name() != b"." && entry.name() != b".." {
                names.push(entry.name().to_vec());
            }
        }
        names.sort();
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            match self.fs.resolve(&self.who(), directory, &name, LastLink::Keep) {
                Ok(inode) => match self.fs.stat(inode) {
                    Ok(stat) => entries.push(Entry { name, inode, stat }),
                    Err(Errno::NOENT | Errno::STALE) => {}
                    Err(errno) => return Err(errno),
                },
                // Removed by somebody since the directory was read.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(entries)
    }

    /// Where a symbolic link points to.
    fn link_target(&self, inode: InodeId) -> Result<Vec<u8>, Errno> {
        let mut target = vec![0; 4096];
        let length = self.fs.readlink(inode, &mut target)?;
        target.truncate(length);
        Ok(target)
    }

    /// Calls `each` with path, inode and attributes of `path` and of everything below it, directories after their
    /// contents. What cannot be read is passed to `each` as an error.
    fn walk(&self, path: &[u8], inode: InodeId, stat: Stat, each: &mut Visitor<'_>) -> Result<(), Failure> {
        // Depth is bounded by the longest path; a damaged region may still have cycles.
        const DEEPEST: usize = 4096;
        let mut pending = vec![(path.to_vec(), inode, stat, false, 0usize)];
        while let Some((path, inode, stat, seen, depth)) = pending.pop() {
            if seen || stat.mode & TYPE != DIRECTORY {
                each(&path, Ok((inode, &stat)))?;
                continue;
            }
            if depth > DEEPEST {
                each(&path, Err(Errno::UCLEAN))?;
                continue;
            }
            let entries = self.entries(inode);
            pending.push((path.clone(), inode, stat, true, depth));
            match entries {
                Ok(entries) => {
                    let below = |entry: Entry| (join(&path, &entry.name), entry.inode, entry.stat, false, depth + 1);
                    pending.extend(entries.into_iter().rev().map(below));
                }
                Err(errno) => each(&path, Err(errno))?,
            }
        }
        Ok(())
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        // A file that cannot be closed is one of a damaged region, which was reported when it was used.
        let _ = self.fs.close(self.file);
    }
}

fn is_directory(stat: &Stat) -> bool {
    stat.mode & TYPE == DIRECTORY
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Goes on after failures, says each, and fails at the end if there was one.
#[derive(Default)]
struct Failures {
    any: bool,
    code: u8,
}

impl Failures {
    /// Takes the value of a step, or says its failure. A reader that left ends the command.
    fn check<T>(&mut self, result: Result<T, Failure>) -> Result<Option<T>, Failure> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(failure) if failure.code == crate::failure::BROKEN_PIPE => Err(failure),
            Err(failure) => {
                if !failure.line.is_empty() {
                    crate::output::say(&failure.line);
                }
                self.any = true;
                self.code = self.code.max(failure.code);
                Ok(None)
            }
        }
    }

    fn end(self) -> Result<(), Failure> {
        if self.any { Err(Failure { code: self.code, line: String::new() }) } else { Ok(()) }
    }
}
