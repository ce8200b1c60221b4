//! Models of the lock-free cores: the product's own source over loom's atomics, in a region in miniature.
//!
//! `build.rs` copies the modules of the region into [`real`], and into one tree for each planted bug. What stands in
//! for the kernel (sleeping, proof of death) and for the sizes is in `stand_in`; what drives the code is in `scenarios`.
//! A process that dies is one whose accesses to the region all fail from some step on: nothing of it is seen any more.

pub mod atomics;
pub mod harness;
pub mod memory;

pub use lifeboat_kernels::MustFence;
pub use rustix::io::Errno;

/// As the product's.
pub type Result<T> = core::result::Result<T, Errno>;

/// As the product's.
pub const DAMAGED: Errno = Errno::UCLEAN;

/// As the product's.
pub const OUTSIDE: Errno = Errno::from_raw_os_error(4000);
/// As the product's.
pub const TRIES: u32 = 10_000;
/// As the product's.
pub const NAME_LONGEST: usize = 255;
/// As the product's.
pub const PATH_LONGEST: usize = 4095;

include!(concat!(env!("OUT_DIR"), "/trees.rs"));
