//! Making the real directory under a mount prefix unwritable, so that a call that bypasses the interception library
//! fails instead of leaving a file where nobody looks for it.

use core::fmt;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::covers::{Cover, CoverKind};
use super::directory::RegionDirectory;
use super::error::{PlaceError, Reason, Refusal, ShownPath};
use super::make::{behind, make_directory_at};
use super::mount::mount_tmpfs_like;
use super::remove::is_own_cover;
use super::text::PathText;
use super::{Place, for_each_entry};

/// How a prefix is unwritable now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covered {
    /// What was done, now or by an earlier call.
    pub kind: CoverKind,
    /// Why there is no read-only mount although root asked for it: root can still write there.
    pub cannot_mount: Option<Errno>,
}

/// A prefix cannot be covered; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoverError {
    /// The region's own directory is in the way.
    Place(PlaceError),
    /// Not an absolute path of plain components below `/`.
    BadPrefix {
        /// What was given.
        prefix: ShownPath,
    },
    /// Its parent directory does not exist.
    NoParent {
        /// The prefix.
        prefix: ShownPath,
    },
    /// The directory holds files, which would be hidden.
    NotEmpty {
        /// The prefix.
        prefix: ShownPath,
    },
    /// What is there is not a directory of the caller's.
    Refused {
        /// The prefix.
        prefix: ShownPath,
        /// What is wrong with it.
        why: Refusal,
    },
    /// Another region, or something of another kind, is mounted there.
    Occupied {
        /// The prefix.
        prefix: ShownPath,
    },
    /// The process that served a mount there has died.
    MountDied {
        /// The prefix.
        prefix: ShownPath,
    },
    /// A system call failed.
    Failed {
        /// "cannot ... PREFIX".
        doing: &'static str,
        /// The prefix.
        prefix: ShownPath,
        /// The kernel's answer.
        errno: Errno,
    },
}

impl From<PlaceError> for CoverError {
    fn from(error: PlaceError) -> Self {
        CoverError::Place(error)
    }
}

/// What is at a prefix before anything is done.
enum Found {
    Nothing,
    /// An empty directory of the caller's with these permission bits.
    EmptyDirectory(OwnedFd, u32),
    /// A read-only mount as this module makes them.
    Cover,
    /// The region itself, mounted for the kernel.
    Mount,
}

impl Place {
    /// Covers `prefix` for `region` and remembers it there, so that removing the region undoes it.
    ///
    /// As root by an empty read-only mount over the directory, which is made if missing; otherwise, or where mounting
    /// is not permitted, by an empty directory without write permission.
    pub fn cover(&self, region: &RegionDirectory, prefix: &[u8]) -> Result<Covered, CoverError> {
        let path = checked(prefix)?;
        let _short = self.lock()?;
        let earlier = self.cover_of(prefix)?;
        let found = examine(region, &path)?;
        if matches!(found, Found::Mount) {
            // Who goes round the library meets the region's files all the same.
            return Ok(Covered { kind: earlier.unwrap_or(CoverKind::Mounted), cannot_mount: None });
        }
        if rustix::process::geteuid().is_root() {
            let made = matches!(found, Found::Nothing) || earlier.is_some_and(CoverKind::is_made);
            let kind = if made { CoverKind::MadeAndMounted } else { CoverKind::Mounted };
            remember(region, kind, prefix)?;
            match cover_by_mount(&path, &found) {
                Ok(()) => return Ok(Covered { kind, cannot_mount: None }),
                Err(CoverError::Failed {
                    doing: "mount over", errno: errno @ (Errno::PERM | Errno::ACCESS), ..
                }) => {
                    let found = examine(region, &path)?;
                    let kind = self.cover_by_mode(region, prefix, &path, &found, made)?;
                    return Ok(Covered { kind, cannot_mount: Some(errno) });
                }
                Err(error) => return Err(error),
            }
        }
        let made = matches!(found, Found::Nothing) || earlier == Some(CoverKind::Made);
        let kind = self.cover_by_mode(region, prefix, &path, &found, made)?;
        Ok(Covered { kind, cannot_mount: None })
    }

    fn cover_by_mode(
        &self,
        region: &RegionDirectory,
        prefix: &[u8],
        path: &PathText,
        found: &Found,
        made: bool,
    ) -> Result<CoverKind, CoverError> {
        let kind = if made { CoverKind::Made } else { CoverKind::Closed };
        match found {
            Found::Nothing => {
                remember(region, kind, prefix)?;
                make_own_directory(path, Mode::RUSR | Mode::XUSR)?;
            }
            Found::EmptyDirectory(directory, mode) => {
                remember(region, kind, prefix)?;
                if mode & 0o222 != 0 {
                    rustix::fs::fchmod(directory, Mode::from_raw_mode(mode & 0o555))
                        .map_err(|errno| failed("close", path, errno))?;
                }
            }
            Found::Cover | Found::Mount => {}
        }
        Ok(kind)
    }
}

fn failed(doing: &'static str, path: &PathText, errno: Errno) -> CoverError {
    CoverError::Failed { doing, prefix: ShownPath::of(path), errno }
}

/// Only a path that means the same to everybody: absolute, no empty, `.` or `..` component, not the root.
fn checked(prefix: &[u8]) -> Result<PathText, CoverError> {
    let path = PathText::from_bytes(prefix);
    let plain = |component: &[u8]| !component.is_empty() && component != b"." && component != b"..";
    let usable = prefix.len() > 1
        && prefix[0] == b'/'
        && prefix[1..].split(|&byte| byte == b'/').all(plain)
        && !prefix.iter().any(|&byte| byte == b'\n' || byte == 0)
        && !path.is_cut();
    if usable { Ok(path) } else { Err(CoverError::BadPrefix { prefix: ShownPath::of_bytes(prefix) }) }
}

fn examine(region: &RegionDirectory, path: &PathText) -> Result<Found, CoverError> {
    let prefix = ShownPath::of(path);
    if is_fuse(path).map_err(|_| CoverError::MountDied { prefix })? {
        let mut own = false;
        region.for_each_mount(&mut |note| {
            own = note.prefix == path.as_bytes();
            !own
        })?;
        return if own { Ok(Found::Mount) } else { Err(CoverError::Occupied { prefix }) };
    }
    let stat = match rustix::fs::statat(CWD, path.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) if has_parent(path) => return Ok(Found::Nothing),
        Err(Errno::NOENT) => return Err(CoverError::NoParent { prefix }),
        Err(errno) => return Err(failed("examine", path, errno)),
    };
    refuse_unless_own(&stat, path)?;
    let directory = open_directory(path).map_err(|errno| failed("open", path, errno))?;
    // What was opened counts: somebody else may have exchanged it meanwhile.
    let stat = rustix::fs::fstat(&directory).map_err(|errno| failed("examine", path, errno))?;
    refuse_unless_own(&stat, path)?;
    let mut empty = true;
    for_each_entry(&directory, path, &mut |_, _| {
        empty = false;
        Ok(false)
    })?;
    if !empty {
        return Err(CoverError::NotEmpty { prefix });
    }
    Ok(if is_own_cover(path) { Found::Cover } else { Found::EmptyDirectory(directory, stat.st_mode & 0o7777) })
}

fn open_directory(path: &PathText) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path.as_c_str(), flags, Mode::empty())
}

fn refuse_unless_own(stat: &Stat, path: &PathText) -> Result<(), CoverError> {
    let prefix = ShownPath::of(path);
    let expected = rustix::process::geteuid().as_raw();
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(CoverError::Refused { prefix, why: Refusal::NotADirectory });
    }
    if stat.st_uid != expected {
        return Err(CoverError::Refused { prefix, why: Refusal::Owner { found: stat.st_uid, expected } });
    }
    Ok(())
}

/// Whether some FUSE file system is mounted at `path`; `NOTCONN` when its daemon has died.
fn is_fuse(path: &PathText) -> Result<bool, Errno> {
    const FUSE_MAGIC: u32 = 0x6573_5546;
    match rustix::fs::statfs(path.as_c_str()) {
        Ok(found) => Ok(found.f_type as u32 == FUSE_MAGIC && is_mount_point(path)),
        Err(errno @ Errno::NOTCONN) => Err(errno),
        // What else is wrong is found by whoever looks closer.
        Err(_) => Ok(false),
    }
}

fn is_mount_point(path: &PathText) -> bool {
    let bytes = path.as_bytes();
    let slash = bytes.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    let parent = PathText::from_bytes(&bytes[..slash.max(1)]);
    let device = |path: &PathText| rustix::fs::stat(path.as_c_str()).map(|stat| stat.st_dev);
    device(path) != device(&parent)
}

fn has_parent(path: &PathText) -> bool {
    let bytes = path.as_bytes();
    let slash = bytes.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    let parent = PathText::from_bytes(&bytes[..slash.max(1)]);
    rustix::fs::stat(parent.as_c_str()).is_ok()
}

/// Writes the deed down before it is done, once.
fn remember(region: &RegionDirectory, kind: CoverKind, prefix: &[u8]) -> Result<(), CoverError> {
    let mut known = false;
    region.for_each_cover(&mut |cover| {
        known = cover == Cover { kind, prefix };
        !known
    })?;
    if !known {
        region.add_cover(Cover { kind, prefix })?;
    }
    Ok(())
}

fn make_own_directory(path: &PathText, mode: Mode) -> Result<(), CoverError> {
    match make_directory_at(path.as_c_str(), mode) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(failed("make the directory", path, errno)),
    }
}

/// Mounts over the very directory that was found to be the caller's, or that is made now.
fn cover_by_mount(path: &PathText, found: &Found) -> Result<(), CoverError> {
    let opened;
    let directory = match found {
        Found::Cover | Found::Mount => return Ok(()),
        Found::EmptyDirectory(directory, _) => directory,
        Found::Nothing => {
            make_own_directory(path, Mode::RWXU | Mode::RGRP | Mode::XGRP)?;
            opened = open_directory(path).map_err(|errno| failed("open", path, errno))?;
            let stat = rustix::fs::fstat(&opened).map_err(|errno| failed("examine", path, errno))?;
            refuse_unless_own(&stat, path)?;
            &opened
        }
    };
    // One page and its root inode: nothing fits, even if somebody mounts it writable again.
    let options = c"size=1,nr_inodes=1,mode=0555";
    mount_tmpfs_like(c"tmpfs", behind(directory).as_c_str(), options, true)
        .map_err(|errno| failed("mount over", path, errno))
}

impl fmt::Display for CoverError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CoverError::Place(error) => error.fmt(out),
            CoverError::BadPrefix { prefix } => write!(
                out,
                "`{prefix}` cannot be a mount prefix: give an absolute path below / without . or .. such as /lifeboat"
            ),
            CoverError::NoParent { prefix } => {
                write!(
                    out,
                    "{prefix} cannot be made: its parent directory does not exist; make it or choose another --mount"
                )
            }
            CoverError::NotEmpty { prefix } => {
                write!(out, "{prefix} holds files that the mount would hide: choose another --mount or move them away")
            }
            CoverError::Refused { prefix, why } => write!(out, "{prefix} {why}: choose another --mount"),
            CoverError::Occupied { prefix } => {
                write!(out, "something else is mounted at {prefix}: choose another --mount")
            }
            CoverError::MountDied { prefix } => write!(
                out,
                "the process that served the mount at {prefix} has died: `lifeboat mount {prefix}` brings it back, \
                 `lifeboat unmount {prefix}` clears it away"
            ),
            CoverError::Failed { doing, prefix, errno } => {
                write!(out, "cannot {doing} {prefix}: {}; choose another --mount", Reason(*errno))
            }
        }
    }
}

impl core::error::Error for CoverError {}
