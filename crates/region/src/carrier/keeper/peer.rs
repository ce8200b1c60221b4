//! Who is at the other end of a socket.

use crate::system_call::{GETSOCKOPT, call};
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::io::Errno;

/// `struct ucred`. The pid is 0 for a process of another pid namespace, which the type of rustix cannot hold.
#[repr(C)]
#[derive(Clone, Copy)]
struct Credentials {
    pid: i32,
    uid: u32,
    gid: u32,
}

/// User id of the process that made the connection, as this process's user namespace numbers it.
pub(super) fn uid_of_peer(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut found = Credentials { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<Credentials>() as u32;
    let (found_at, length_at) = ((&raw mut found) as usize, (&raw mut length) as usize);
    // SAFETY: both pointers are to variables of this function, and `length` is the size of the first.
    unsafe { call(GETSOCKOPT, [socket.as_raw_fd() as usize, SOL_SOCKET, SO_PEERCRED, found_at, length_at]) }?;
    if length as usize == size_of::<Credentials>() { Ok(found.uid) } else { Err(Errno::INVAL) }
}

const SOL_SOCKET: usize = 1;
const SO_PEERCRED: usize = 17;
