//! Mounts of a region's own.

use core::ffi::CStr;

use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::device_of;
use super::text::PathText;

/// Mounts a memory file system of the kind `file_system` over `path`, which the caller has checked to be its own.
///
/// No device nodes and no set-uid bits, but execution: files of the region may be mapped executable.
pub(crate) fn mount_tmpfs_like(file_system: &CStr, path: &CStr, options: &CStr, read_only: bool) -> Result<(), Errno> {
    let mut flags = MountFlags::NODEV | MountFlags::NOSUID;
    flags.set(MountFlags::RDONLY, read_only);
    rustix::mount::mount(c"lifeboat", path, file_system, flags, Some(options))
}

/// Undoes the topmost mount over `path`; `lazily` also where it is still in use.
pub(crate) fn unmount(path: &PathText, lazily: bool) -> Result<(), Errno> {
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, lazily);
    rustix::mount::unmount(path.as_c_str(), flags)
}

/// Whether something is mounted over `name` in `directory`.
pub(crate) fn is_mount(directory: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    Ok(device_of(directory, name)? != device_of(directory, c".")?)
}
