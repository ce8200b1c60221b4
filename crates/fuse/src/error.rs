//! What can go wrong with mounting and unmounting, in one line each.

use lifeboat_fs::Errno;
use lifeboat_region::place::PlaceError;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// A region cannot be mounted; nothing was changed.
#[derive(Debug)]
pub enum MountError {
    /// The region's own directory is in the way.
    Place(PlaceError),
    /// It is mounted there already.
    Mounted {
        /// Where.
        at: PathBuf,
        /// Directory of the region that is.
        region: PathBuf,
    },
    /// The directory holds files, which would be hidden.
    NotEmpty {
        /// The directory.
        at: PathBuf,
    },
    /// It is no directory.
    NotADirectory {
        /// What is there.
        at: PathBuf,
    },
    /// The program that mounts for ordinary users is missing.
    NoHelper,
    /// That program has refused.
    Helper {
        /// Where it was to mount.
        at: PathBuf,
        /// What it said.
        said: String,
    },
    /// The kernel has no FUSE.
    NoDevice {
        /// Its answer.
        errno: Errno,
    },
    /// A system call failed.
    Failed {
        /// "cannot ... PATH".
        doing: &'static str,
        /// On what.
        at: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The kernel's FUSE driver and this program do not understand each other.
    Protocol {
        /// Where.
        at: PathBuf,
        /// What is wrong.
        error: io::Error,
    },
}

/// A mount cannot be undone.
#[derive(Debug)]
pub enum UnmountError {
    /// The region's own directory is in the way.
    Place(PlaceError),
    /// No region is mounted there.
    NotMounted {
        /// Where it was looked for.
        at: PathBuf,
    },
    /// Somebody has files open there, or a working directory.
    Busy {
        /// Where.
        at: PathBuf,
    },
    /// The program that unmounts for ordinary users is missing.
    NoHelper,
    /// That program has refused.
    Helper {
        /// Where it was to unmount.
        at: PathBuf,
        /// What it said.
        said: String,
    },
    /// Unmounted, but the process that served the mount has not ended.
    StillServed {
        /// Where.
        at: PathBuf,
        /// The process.
        pid: u32,
    },
    /// A system call failed.
    Failed {
        /// Where.
        at: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
}

const NO_HELPER: &str = "ordinary users mount through `fusermount3`, which is not installed: install the package fuse3";

impl From<PlaceError> for MountError {
    fn from(error: PlaceError) -> Self {
        MountError::Place(error)
    }
}

impl From<PlaceError> for UnmountError {
    fn from(error: PlaceError) -> Self {
        UnmountError::Place(error)
    }
}

fn words(errno: Errno) -> String {
    let text = io::Error::from_raw_os_error(errno.raw_os_error()).to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// A path for one line, whatever bytes it has.
struct Shown<'a>(&'a std::path::Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.to_string_lossy().chars() {
            if character.is_control() {
                write!(out, "{}", character.escape_default())
            } else {
                write!(out, "{character}")
            }?;
        }
        Ok(())
    }
}

impl fmt::Display for MountError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MountError::Place(error) => error.fmt(out),
            MountError::Mounted { at, region } => {
                let (at, region) = (Shown(at), Shown(region));
                write!(out, "the region in {region} is mounted at {at} already; `lifeboat unmount {at}` undoes it")
            }
            MountError::NotEmpty { at } => {
                write!(out, "{} holds files that the mount would hide: choose another directory", Shown(at))
            }
            MountError::NotADirectory { at } => write!(out, "{} is not a directory: choose another one", Shown(at)),
            MountError::NoHelper => out.write_str(NO_HELPER),
            MountError::Helper { at, said } => {
                write!(out, "fusermount3 does not mount at {}: {said}", Shown(at))
            }
            MountError::NoDevice { errno } => {
                write!(out, "cannot open /dev/fuse: {}; load the kernel's module `fuse`", words(*errno))
            }
            MountError::Failed { doing, at, errno } => {
                write!(out, "cannot {doing} {}: {}", Shown(at), words(*errno))
            }
            MountError::Protocol { at, error } => {
                write!(out, "the kernel gives up the mount at {}: {error}; look into its log (`dmesg`)", Shown(at))
            }
        }
    }
}

impl fmt::Display for UnmountError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnmountError::Place(error) => error.fmt(out),
            UnmountError::NotMounted { at } => write!(out, "no region is mounted at {}", Shown(at)),
            UnmountError::Busy { at } => write!(
                out,
                "{} is in use (open files, or somebody's working directory): end those, or --lazy detaches it at once",
                Shown(at)
            ),
            UnmountError::NoHelper => out.write_str(NO_HELPER),
            UnmountError::Helper { at, said } => write!(out, "fusermount3 does not unmount {}: {said}", Shown(at)),
            UnmountError::StillServed { at, pid } => write!(
                out,
                "{} is unmounted, but process {pid} still serves files that are open; it ends with the last of them",
                Shown(at)
            ),
            UnmountError::Failed { at, errno } => write!(out, "cannot unmount {}: {}", Shown(at), words(*errno)),
        }
    }
}

impl std::error::Error for MountError {}
impl std::error::Error for UnmountError {}
