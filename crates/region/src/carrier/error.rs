//! What can go wrong with a carrier, in one line each.

use core::fmt;

use rustix::io::Errno;

use super::keeper::KeeperError;
use crate::budget::{Bytes, Shortage};
use crate::place::{PlaceError, Reason, Refusal, ShownPath};

/// The memory of a region could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateError {
    /// The region's directory is in the way.
    Place(PlaceError),
    /// Not a size that a region can have: nothing, or not a multiple of 2 MiB.
    Size(u64),
    /// Reserving it could get somebody killed for lack of memory.
    Budget(Shortage),
    /// The carrier needs a mount and the caller may not mount here.
    CannotMount {
        /// Name of the carrier.
        carrier: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The caller may not make the user namespace that carrier `keeper` needs.
    NoNamespaces {
        /// The kernel's answer.
        errno: Errno,
    },
    /// The directory for regions is not in memory.
    NotMemory {
        /// The directory.
        path: ShownPath,
    },
    /// Not enough huge pages of 2 MiB.
    HugePages {
        /// How many are free and not promised to others.
        free: u64,
        /// How many the region takes.
        needed: u64,
        /// How many must be set aside altogether for it.
        set_aside: u64,
    },
    /// Huge pages were free and the kernel gave none.
    HugePagesGone {
        /// Bytes that were reserved before.
        done: u64,
        /// Asked for.
        needed: u64,
    },
    /// This process may not make a file of that size.
    FileSizeLimit {
        /// `ulimit -f`, in bytes.
        limit: u64,
        /// Asked for.
        needed: u64,
    },
    /// The file system has no space, although it said that it had.
    NoSpace {
        /// The file.
        path: ShownPath,
        /// Bytes that were reserved before.
        done: u64,
        /// Asked for.
        needed: u64,
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

impl From<PlaceError> for CreateError {
    fn from(error: PlaceError) -> Self {
        CreateError::Place(error)
    }
}

impl From<Shortage> for CreateError {
    fn from(shortage: Shortage) -> Self {
        CreateError::Budget(shortage)
    }
}

impl fmt::Display for CreateError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CreateError::Place(error) => error.fmt(out),
            CreateError::Size(0) => out.write_str("a region of no bytes: give a size such as 1GiB"),
            CreateError::Size(size) => write!(out, "{size} bytes is not a multiple of 2 MiB: round it up"),
            CreateError::Budget(shortage) => shortage.fmt(out),
            CreateError::CannotMount { carrier, errno } => write!(
                out,
                "carrier {carrier} needs a mount of its own and this process may not mount ({}): \
                 run as root, or take --carrier shm",
                Reason(*errno)
            ),
            CreateError::NoNamespaces { errno } => write!(
                out,
                "carrier keeper needs a user namespace and this process may not make one ({}; user.max_user_namespaces and \
                 the distribution's own switches decide): take --carrier shm",
                Reason(*errno)
            ),
            CreateError::NotMemory { path } => {
                write!(out, "{path} is not on a memory file system (tmpfs): mount one there or take another directory")
            }
            CreateError::HugePages { free, needed, set_aside } => write!(
                out,
                "{needed} huge pages of 2 MiB are needed and {free} are free: root can set more aside \
                 (`echo {set_aside} > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages`), or take --carrier auto"
            ),
            CreateError::HugePagesGone { done, needed } => write!(
                out,
                "there were no huge pages any more after {} of {}: others took them meanwhile, or a control group that is not \
                 to be seen here limits them (hugetlb.2MB); try again, ask for less or take --carrier auto",
                Bytes(*done),
                Bytes(*needed)
            ),
            CreateError::FileSizeLimit { limit, needed } => write!(
                out,
                "files of this process may have {} at most and {} are needed: raise `ulimit -f`",
                Bytes(*limit),
                Bytes(*needed)
            ),
            CreateError::NoSpace { path, done, needed } => write!(
                out,
                "{path} ran out of space after {} of {}: others filled the file system meanwhile; ask for less or try again",
                Bytes(*done),
                Bytes(*needed)
            ),
            CreateError::Failed { doing, path, errno } => write!(out, "cannot {doing} {path}: {}", Reason(*errno)),
        }
    }
}

impl core::error::Error for CreateError {}

/// The memory of an existing region could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The region's directory is missing or refused.
    Place(PlaceError),
    /// The directory is there, its memory is not.
    Missing {
        /// The region's directory.
        path: ShownPath,
    },
    /// What is there is not trusted, and was left untouched.
    Refused {
        /// The file.
        path: ShownPath,
        /// What is wrong with it.
        why: Refusal,
    },
    /// Its keeper handed out no descriptor.
    Keeper {
        /// The region's directory.
        path: ShownPath,
        /// Why.
        why: KeeperError,
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

impl From<PlaceError> for OpenError {
    fn from(error: PlaceError) -> Self {
        OpenError::Place(error)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Place(error) => error.fmt(out),
            OpenError::Missing { path } => write!(
                out,
                "{path} holds no memory here: it is mounted in another mount namespace, or its creation or removal was cut short; \
                 `lifeboat region remove` clears it away"
            ),
            OpenError::Refused { path, why } => {
                write!(out, "{path} {why}: not touched; remove it or have its owner remove it")
            }
            OpenError::Keeper { path, why } => write!(out, "region {path}: {why}"),
            OpenError::Failed { doing, path, errno } => write!(out, "cannot {doing} {path}: {}", Reason(*errno)),
        }
    }
}

impl core::error::Error for OpenError {}

/// `memory/` may be there from an attempt with another carrier.
pub(super) fn made_already(error: PlaceError) -> Result<(), PlaceError> {
    match error {
        PlaceError::Failed { errno: Errno::EXIST, .. } => Ok(()),
        error => Err(error),
    }
}
