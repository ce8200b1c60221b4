//! Copying, zeroing and checksums for memory that may not be there.
//!
//! Floor 0 of the project. Every routine here touches the memory it is given from code whose instruction addresses are
//! known, so that a page fault which the kernel cannot repair (a bad pointer of the program, a truncated carrier)
//! becomes an ordinary [`Fault`] instead of a dead process. That needs one thing of the process: a handler of `SIGSEGV`
//! and `SIGBUS` that asks [`fault::handle`] first. Without it the routines work just as well on good memory.
//!
//! Data goes into a region with non-temporal stores where that pays. Such stores are *not* ordered by a later release
//! store, so the copy routines answer with a [`MustFence`], which has to be turned into a fence before the word that
//! publishes the data is stored.
//!
//! Each operation has three forms that give the same bytes: AVX-512, AVX2 and scalar ([`Level`]), chosen at run time.
//! Nothing here allocates, panics, calls libc or keeps state per thread; all of it may run inside a signal handler.
#![cfg_attr(not(test), no_std)]

mod copy;
mod crc;
pub mod fault;
mod fence;
mod level;
pub mod tuning;

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
use x86_64 as machine;

#[cfg(not(target_arch = "x86_64"))]
mod portable;
#[cfg(not(target_arch = "x86_64"))]
use portable as machine;

pub use copy::{copy_in, copy_in_checksum, copy_out, copy_out_streamed, copy_string, first_two, prefetch, zero};
pub use crc::{checksum, checksum_combine, checksum_slice, checksum_zeros};
pub use fault::Fault;
pub use fence::MustFence;
pub use level::{Level, level};
