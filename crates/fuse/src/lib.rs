//! A region mounted for the kernel through FUSE: for static binaries, Go programs, `exec` and `dlopen` from the mount, and
//! whatever else no library can be loaded into.
//!
//! [`serve`] mounts and answers until somebody unmounts; [`unmount`] unmounts and waits for the server's end. Both go
//! through the same file system as intercepted programs, so a region is the same seen from either side.
#![deny(unsafe_op_in_unsafe_fn)]

mod attributes;
mod callers;
mod change;
mod deadlock;
mod device;
mod error;
mod extended;
mod locks;
mod names;
mod nodes;
mod open_files;
mod serve;
mod service;
mod signals;
mod table;
mod unmount;

pub use error::{MountError, UnmountError};
pub use serve::serve;
pub use table::{MountedRegion, mounted_at};
pub use unmount::{UnmountMode, unmount};
