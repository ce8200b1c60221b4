//! Who is at the other end of a socket.

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
    // SAFETY: both pointers are to variables of this function, and `length` is the size of the first.
    let answer = unsafe { get_socket_option(socket.as_raw_fd(), &raw mut found, &raw mut length) };
    match answer {
        0 if length as usize == size_of::<Credentials>() => Ok(found.uid),
        0 => Err(Errno::INVAL),
        error => Err(Errno::from_raw_os_error(-error as i32)),
    }
}

const SOL_SOCKET: usize = 1;
const SO_PEERCRED: usize = 17;

/// `getsockopt(socket, SOL_SOCKET, SO_PEERCRED, found, length)`.
///
/// # Safety
/// `found` must be writable for `*length` bytes.
#[cfg(target_arch = "x86_64")]
unsafe fn get_socket_option(socket: i32, found: *mut Credentials, length: *mut u32) -> isize {
    let answer: isize;
    // SAFETY: getsockopt (55) writes to `found` and `length` alone; the kernel clobbers rcx and r11.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") 55isize => answer,
            in("rdi") socket as isize,
            in("rsi") SOL_SOCKET,
            in("rdx") SO_PEERCRED,
            in("r10") found,
            in("r8") length,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    answer
}

/// `getsockopt(socket, SOL_SOCKET, SO_PEERCRED, found, length)`.
///
/// # Safety
/// `found` must be writable for `*length` bytes.
#[cfg(target_arch = "aarch64")]
unsafe fn get_socket_option(socket: i32, found: *mut Credentials, length: *mut u32) -> isize {
    let answer: isize;
    // SAFETY: getsockopt (209) writes to `found` and `length` alone.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") 209usize,
            inlateout("x0") socket as isize => answer,
            in("x1") SOL_SOCKET,
            in("x2") SO_PEERCRED,
            in("x3") found,
            in("x4") length,
            options(nostack)
        );
    }
    answer
}
