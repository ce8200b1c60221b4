//! Files in a region: names, inodes, file maps, open files, seals.
//!
//! Everything here may be called from inside a hook of another program: no allocation, no `std`, no unwinding, raw
//! system calls only. Memory that other processes can write is reached through [`lifeboat_region`], which checks every
//! offset; this crate contains no `unsafe`.
//!
//! Calls answer with the POSIX error ([`Errno`]) that a kernel file system would give, because their callers are
//! programs that know nothing else. `Errno::UCLEAN` means that the region's own bytes are damaged; [`OUTSIDE`] that a
//! path leaves the mount and that the kernel must be asked.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod allocate;
mod append;
mod attribute_block;
mod attributes;
mod beyond_size;
mod check;
mod checksum;
mod claim;
mod data;
mod directory;
mod extended_attributes;
mod file_io;
mod file_lock;
mod file_lock_table;
mod file_map;
mod file_system;
mod guard;
mod in_place;
mod inode;
mod kernel_node;
mod known_directory;
mod links;
mod map_word;
mod mapped;
mod name_cache;
mod namespace;
mod open_count;
mod open_file;
mod opening;
mod paths;
mod pieces;
mod pin;
mod provide;
mod read;
mod read_dir;
mod read_targets;
mod reap;
mod release;
pub mod rename;
mod room;
mod seal;
mod sweep;
mod truncate;
mod types;
mod walk;

pub use attribute_block::NAME_LONGEST as ATTRIBUTE_NAME_LONGEST;
pub use check::{CheckSummary, Fault, Finding, Remedy, check, repair};
pub use claim::{CLAIMS_LONGEST, ClaimTrouble, Claims};
pub use extended_attributes::check_attribute;
pub use file_io::Unwritten;
pub use file_lock::{HeldLock, LOCK_TO_END, LockClass, LockRequest, LockWish};
pub use file_system::{FileSystem, PREFIX_LONGEST};
pub use inode::InodeId;
pub use kernel_node::KernelNode;
pub use lifeboat_region::{Errno, UserSource, UserTarget};
pub use open_file::OpenFile;
pub use opening::Opened;
pub use pin::Pin;
pub use seal::{SealReport, VerifyReport};
pub use types::{Caller, DirEntry, LastLink, NewTime, Piece, Position, Stat, Usage};

/// The answer of every file-system call.
pub type Result<T> = core::result::Result<T, Errno>;

/// "This path leads out of the mount" (an absolute symbolic link elsewhere, `..` above the root). Never shown to a
/// program: the caller asks [`FileSystem::outside_path`] for the path that the kernel must be asked for instead.
pub const OUTSIDE: Errno = Errno::from_raw_os_error(4000);

/// How often a name is looked at again because somebody changed it, before it is called damaged.
pub(crate) const TRIES: u32 = 10_000;

/// Longest name, in bytes.
pub const NAME_LONGEST: usize = 255;
/// Longest path, in bytes, without the final NUL.
pub const PATH_LONGEST: usize = 4095;
