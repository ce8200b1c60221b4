//! What can go wrong with the place of a region, in one line each.

use core::fmt;

use rustix::io::Errno;

use super::name::BadName;
use super::text::{PathText, Text};

/// A path as shown in an error: of a long one, the end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ShownPath(Text<84>);

impl ShownPath {
    /// Takes what fits of `path`.
    pub fn of(path: &PathText) -> ShownPath {
        ShownPath::of_bytes(path.as_bytes())
    }

    /// Takes what fits of `path`.
    pub fn of_bytes(path: &[u8]) -> ShownPath {
        let mut shown = Text::new();
        if path.len() > 80 {
            shown.push(b"...");
            shown.push(&path[path.len() - 77..]);
        } else {
            shown.push(path);
        }
        ShownPath(shown)
    }

    /// The last component: of a region directory, the region's name.
    fn last(&self) -> Text<84> {
        let bytes = self.0.as_bytes();
        Text::from_bytes(bytes.rsplit(|&byte| byte == b'/').next().unwrap_or(bytes))
    }
}

impl fmt::Display for ShownPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl fmt::Debug for ShownPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{self}\"")
    }
}

/// Why something found in shared memory is not touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It belongs to the user `found`, not to the caller.
    Owner {
        /// User id of the owner.
        found: u32,
        /// Effective user id of the caller.
        expected: u32,
    },
    /// Others may read or write it: its permission bits.
    Mode(u32),
    /// The caller may not enter it, so it cannot be the caller's.
    Closed,
    /// It is a symbolic link or a file.
    NotADirectory,
    /// It is a symbolic link, a directory or a special file.
    NotAFile,
    /// It has this many names.
    Links(u32),
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Owner { found, expected } => write!(out, "belongs to user {found}, not to user {expected}"),
            Refusal::Mode(mode) => write!(out, "is open to other users (mode {mode:04o})"),
            Refusal::Closed => out.write_str("is closed to this user"),
            Refusal::NotADirectory => out.write_str("is not a directory"),
            Refusal::NotAFile => out.write_str("is not a regular file"),
            Refusal::Links(links) => write!(out, "has {links} names (hard links) instead of one"),
        }
    }
}

/// Something is wrong with a base directory, a region's name or a region's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceError {
    /// Not a region's name.
    BadName {
        /// The beginning of what was given.
        name: Text<72>,
        /// What is wrong with it.
        why: BadName,
    },
    /// The base directory is not a usable absolute path.
    BadBase {
        /// What was given.
        path: ShownPath,
    },
    /// There is no such region (or nobody made the base directory yet).
    Missing {
        /// Where it was looked for.
        path: ShownPath,
    },
    /// The name is taken.
    Exists {
        /// The directory of the region that has it.
        path: ShownPath,
    },
    /// Another process is creating or removing it.
    Busy {
        /// The directory that is held.
        path: ShownPath,
    },
    /// What is there is not trusted, and was left untouched.
    Refused {
        /// What was looked at.
        path: ShownPath,
        /// What is wrong with it.
        why: Refusal,
    },
    /// The list of covered prefixes is not what was written.
    DamagedCovers {
        /// The file.
        path: ShownPath,
    },
    /// A system call failed.
    Failed {
        /// "cannot ... PATH".
        doing: &'static str,
        /// On what.
        path: ShownPath,
        /// The kernel's answer.
        errno: Errno,
    },
}

impl PlaceError {
    /// For a text that is not a name.
    pub fn bad_name(name: &[u8], why: BadName) -> PlaceError {
        PlaceError::BadName { name: Text::from_bytes(name), why }
    }
}

pub(super) fn failed(doing: &'static str, path: &PathText, errno: Errno) -> PlaceError {
    PlaceError::Failed { doing, path: ShownPath::of(path), errno }
}

impl fmt::Display for PlaceError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlaceError::BadName { name, why } => {
                write!(out, "`{name}` is not a region name: {why}; use 1 to 64 of A-Z a-z 0-9 . _ -")
            }
            PlaceError::BadBase { path } => {
                write!(
                    out,
                    "`{path}` cannot hold regions: give an absolute path of at most 320 bytes without a slash at its end"
                )
            }
            PlaceError::Missing { path } => {
                let name = path.last();
                write!(
                    out,
                    "no region `{name}` (looked in {path}): `lifeboat region list` shows what there is, `lifeboat region create` makes one"
                )
            }
            PlaceError::Exists { path } => {
                let name = path.last();
                write!(
                    out,
                    "region `{name}` exists already ({path}): use it, choose another name, or `lifeboat region remove {name}` first"
                )
            }
            PlaceError::Busy { path } => {
                write!(out, "{path} is being created or removed by another process: try again when that one is done")
            }
            PlaceError::Refused { path, why } => {
                write!(out, "{path} {why}: not touched; remove it or have its owner remove it")
            }
            PlaceError::DamagedCovers { path } => {
                write!(out, "{path} is damaged: unmount what `lifeboat exec` covered by hand and delete this file")
            }
            PlaceError::Failed { doing, path, errno } => {
                write!(out, "cannot {doing} {path}: {}", Reason(*errno))
            }
        }
    }
}

impl core::error::Error for PlaceError {}

/// A region could not be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveError {
    /// The place is in the way.
    Place(PlaceError),
    /// A living process uses it.
    InUse {
        /// The region's directory.
        path: ShownPath,
    },
    /// The region was complete once and its memory is not here: somebody may have it in another mount namespace.
    NotVisible {
        /// The region's directory.
        path: ShownPath,
    },
    /// The process that keeps the region's memory does not end.
    KeeperStays {
        /// The region's directory.
        path: ShownPath,
        /// The process.
        pid: u32,
    },
    /// Something below the directory is not Lifeboat's; it was left, with what was not removed yet.
    Foreign {
        /// What was found.
        path: ShownPath,
    },
}

impl From<PlaceError> for RemoveError {
    fn from(error: PlaceError) -> Self {
        RemoveError::Place(error)
    }
}

impl fmt::Display for RemoveError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RemoveError::Place(error) => error.fmt(out),
            RemoveError::InUse { path } => {
                let name = path.last();
                write!(
                    out,
                    "region `{name}` ({path}) is in use by a living process: end it first, or add --force to pull the region away from it"
                )
            }
            RemoveError::NotVisible { path } => {
                write!(
                    out,
                    "the memory of {path} is not visible here: it is mounted in another mount namespace (remove it there) \
                     or was unmounted (add --force)"
                )
            }
            RemoveError::KeeperStays { path, pid } => {
                write!(
                    out,
                    "the keeper of {path}, process {pid}, does not end: kill it, or add --force to leave it behind"
                )
            }
            RemoveError::Foreign { path } => {
                write!(out, "{path} is not part of a region: move it away and remove the region again")
            }
        }
    }
}

impl core::error::Error for RemoveError {}

/// What an errno means in these calls, in words where there are some.
pub(crate) struct Reason(pub(crate) Errno);

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.0 {
            Errno::PERM | Errno::ACCESS => "permission denied",
            Errno::NOENT => "no such file or directory",
            Errno::NOTDIR => "a component of the path is not a directory",
            Errno::LOOP => "it is a symbolic link",
            Errno::NOSPC => "no space left on the file system",
            Errno::DQUOT => "disk quota exceeded",
            Errno::NOMEM => "not enough memory",
            Errno::MFILE => "too many open files in this process (ulimit -n)",
            Errno::NFILE => "too many open files in the system",
            Errno::ROFS => "the file system is read-only",
            Errno::BUSY => "it is in use",
            Errno::EXIST => "it exists already",
            Errno::NOTEMPTY => "it is not empty",
            Errno::NAMETOOLONG => "the path is too long",
            Errno::NODEV => "the kernel does not know this file system",
            Errno::INVAL => "the kernel refuses the arguments",
            Errno::IO => "input/output error",
            _ => return write!(out, "error {}", self.0.raw_os_error()),
        };
        out.write_str(words)
    }
}
