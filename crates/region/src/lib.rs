//! The region: one pre-allocated block of memory that many processes share and that outlives them.
//!
//! What every byte means is drawn in ARCHITECTURE.md; the modules follow it from the bottom up:
//! [`layout`] (sizes and offsets), [`superblock`], [`mapping`] (checked access), [`commit`] (the one way to publish),
//! [`image`] (who is attached, and proof of death), [`lane`] (redo records), [`lock`], [`space`], [`recovery`].
//!
//! Every structure is addressed by byte offset from the start of the region, every offset is checked at every use, and
//! memory that others may write is only reached through atomics or copy routines.
#![cfg_attr(not(test), no_std)]

pub mod announcements;
pub mod budget;
pub mod carrier;
pub mod commit;
mod guard;
pub mod high_water;
pub mod image;
pub mod kept_lane;
pub mod lane;
pub mod layout;
pub mod lock;
pub mod mapping;
pub mod owner;
pub mod place;
pub mod place_cache;
pub mod private_cache;
pub mod process;
mod proof;
pub mod recovery;
mod region;
pub mod search;
pub mod sleep;
pub mod space;
pub mod superblock;
mod system_call;
pub mod tags;
mod thread_hint;
pub mod user;
mod version;
pub mod walk_cache;
pub mod witness;
mod words;

pub use lifeboat_kernels::{MustFence, checksum_slice, checksum_zeros, tuning};
pub use region::{AttachError, DESCRIPTORS_ASIDE, FormatError, FormatOptions, Region, format, out_of_the_way};
pub use rustix::fd;
pub use rustix::io::Errno;
pub use user::{UserSource, UserTarget};

/// The answer of calls whose callers are programs: a POSIX error number.
pub type Result<T> = core::result::Result<T, Errno>;

/// The region's own bytes are damaged. Never a fault, a loop, or a read outside: this answer, and `lifeboat region
/// check` says where.
pub const DAMAGED: Errno = Errno::UCLEAN;
