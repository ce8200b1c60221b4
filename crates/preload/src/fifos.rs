//! FIFOs in the mount. What a program opens is a FIFO of the kernel beside the placeholders, named by the inode, so that
//! waiting, `poll`, `splice` and the rest are the kernel's own. Its descriptors are not in the table of ours: only the
//! calls about attributes look here.

use crate::{descriptors, signals, state, tags};
use core::ffi::{c_char, c_int};
use lifeboat_fs::{Errno, InodeId, KernelNode, Result};

/// Flags that the region has acted on, or that are about the path.
const DONE: c_int = libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | libc::O_NOATIME;

/// How often a FIFO is made again because it vanished before it was opened.
const TRIES: u32 = 100;

/// Opens the FIFO behind an inode. Permission has been checked. Waits for the other side as the flags say; signals come
/// through meanwhile, and a thread can be cancelled.
pub fn open(inode: InodeId, flags: c_int) -> Result<c_int> {
    let open = libc_function!(c"openat", fn(c_int, *const c_char, c_int) -> c_int);
    let mut name = [0; 65];
    let node = KernelNode::of_fifo(inode);
    name.get_mut(..node.name().len()).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(node.name());
    for _ in 0..TRIES {
        let opened = match open(tags::folder_number(), name.as_ptr().cast(), flags & !DONE | libc::O_NOFOLLOW) {
            -1 => Err(Errno::from_raw_os_error(crate::answer::errno())),
            descriptor => Ok(descriptor),
        };
        match opened {
            Err(Errno::NOENT | Errno::BADF) => make(inode)?,
            opened => {
                // A name that went away meanwhile has taken no notice of a FIFO made after it.
                state::file_system()?.drop_fifo_if_removed(inode);
                return opened;
            }
        }
    }
    Err(Errno::NXIO)
}

fn make(inode: InodeId) -> Result<()> {
    let _held = signals::hold();
    let file_system = state::file_system()?;
    match file_system.make_fifo(inode) {
        Err(Errno::BADF) if descriptors::restore(&file_system) => file_system.make_fifo(inode),
        // Those who open a FIFO know a full system by this.
        Err(Errno::NOSPC) => Err(Errno::NFILE),
        made => made,
    }
}

/// The inode of the region that a descriptor of the kernel's belongs to, if it is of a FIFO in the mount.
#[inline]
pub fn behind(descriptor: c_int) -> Option<InodeId> {
    if !state::configured() {
        return None;
    }
    let found = rustix::fs::fstat(descriptors::borrow(descriptor).ok()?).ok()?;
    if found.st_mode & libc::S_IFMT == libc::S_IFIFO { named(descriptor) } else { None }
}

/// As [`behind`], for a descriptor that is known to be of a FIFO.
#[cold]
#[inline(never)]
pub fn named(descriptor: c_int) -> Option<InodeId> {
    let mut shown = [0; crate::user::PATH_MAX];
    let length = tags::name_behind(descriptor, &mut shown)?;
    let shown = shown.get(..length)?;
    // The kernel says so of one whose last name is gone.
    let shown = shown.strip_suffix(b" (deleted)").unwrap_or(shown);
    KernelNode::fifo_named(tags::name_in_folder(shown)?)
}
