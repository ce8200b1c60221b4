//! What a socket in the mount is called: the kernel knows it by a file beside the placeholders; programs are told the
//! address that it was bound to.

use super::sockets::{Address, path_in};
use crate::{state, user};
use core::ffi::{CStr, c_int, c_void};
use core::mem::{MaybeUninit, size_of};
use libc::{sockaddr, sockaddr_storage, socklen_t};
use lifeboat_fs::{InodeId, KernelNode};

/// The longest path in an address, without a NUL.
const LONGEST: usize = 108;

/// The inode that the kernel's path of a socket belongs to.
fn inode_of(path: &[u8]) -> Option<InodeId> {
    let rest = path.strip_prefix(b"/proc/self/fd/")?;
    let slash = rest.iter().position(|&byte| byte == b'/')?;
    lifeboat_region::process::parse_decimal(&rest[..slash])?;
    KernelNode::socket_named(&rest[slash + 1..])
}

/// The address to show in place of the kernel's; `None` when that is not one of ours, or the name is gone.
fn shown_for(address: *const sockaddr, length: socklen_t) -> Option<Address> {
    let path = path_in(address, length)?;
    // SAFETY: `path_in` has two bytes more than an address, so a NUL ends it.
    let inode = inode_of(unsafe { CStr::from_ptr(path.as_ptr()) }.to_bytes())?;
    let mut name = [0; LONGEST];
    let length = state::file_system().ok()?.socket_address(inode, &mut name).ok()?;
    if length == 0 { None } else { Address::of(&name[..length]) }
}

/// Runs `ask`, which fills an address and its length, and shows the program what it may see.
fn named<T: Copy + PartialOrd + From<i8>>(
    address: *mut sockaddr,
    length: *mut socklen_t,
    ask: impl Fn(*mut sockaddr, *mut socklen_t) -> T,
) -> T {
    let room = match user::get(length) {
        Ok(room) if state::configured() && !address.is_null() && room <= i32::MAX as socklen_t => room as usize,
        _ => return ask(address, length),
    };
    let mut own = MaybeUninit::<sockaddr_storage>::zeroed();
    let own: *mut sockaddr = own.as_mut_ptr().cast();
    let mut found = size_of::<sockaddr_storage>() as socklen_t;
    let answer = ask(own, &mut found);
    if answer < T::from(0) {
        return answer;
    }
    let put = |from: *const sockaddr, count: socklen_t| {
        let bytes = (count as usize).min(room).min(size_of::<sockaddr_storage>());
        // SAFETY: `from` is an address of ours with at least so many bytes.
        let bytes = unsafe { core::slice::from_raw_parts(from.cast::<u8>(), bytes) };
        user::put_bytes(address.cast(), bytes).and_then(|()| user::put(length, &count))
    };
    let _ = match shown_for(own, found) {
        Some(shown) => put((&raw const shown.address).cast(), shown.length),
        None => put(own, found),
    };
    answer
}

/// After the kernel filled a message: the same for the sender's address in it, which had `room`.
pub(super) fn name_sender(message: *mut libc::msghdr, room: socklen_t) {
    let Ok(mut header) = user::get(message) else { return };
    if header.msg_name.is_null() || header.msg_namelen > room {
        return;
    }
    if let Some(shown) = shown_for(header.msg_name.cast(), header.msg_namelen) {
        let bytes = (shown.length.min(room)) as usize;
        // SAFETY: an address of ours, whose length is within it.
        let bytes = unsafe { core::slice::from_raw_parts((&raw const shown.address).cast::<u8>(), bytes) };
        if user::put_bytes(header.msg_name.cast(), bytes).is_ok() {
            header.msg_namelen = shown.length;
            let _ = user::put(message, &header);
        }
    }
}

/// Room for the sender's address in a message that is to be filled.
pub(super) fn room_for_sender(message: *const libc::msghdr) -> socklen_t {
    if !state::configured() {
        return 0;
    }
    user::get(message).map_or(0, |header| if header.msg_name.is_null() { 0 } else { header.msg_namelen })
}

hooks! {
    fn getsockname(socket: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int {
        named(address, length, |address, length| next(socket, address, length))
    }

    fn getpeername(socket: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int {
        named(address, length, |address, length| next(socket, address, length))
    }

    fn accept(socket: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int {
        if address.is_null() {
            return next(socket, address, length);
        }
        named(address, length, |address, length| next(socket, address, length))
    }

    fn accept4(socket: c_int, address: *mut sockaddr, length: *mut socklen_t, flags: c_int) -> c_int {
        if address.is_null() {
            return next(socket, address, length, flags);
        }
        named(address, length, |address, length| next(socket, address, length, flags))
    }

    fn recvfrom(
        socket: c_int,
        buffer: *mut c_void,
        count: usize,
        flags: c_int,
        address: *mut sockaddr,
        length: *mut socklen_t,
    ) -> isize {
        if address.is_null() {
            return next(socket, buffer, count, flags, address, length);
        }
        named(address, length, |address, length| next(socket, buffer, count, flags, address, length))
    }

    fn __recvfrom_chk(
        socket: c_int,
        buffer: *mut c_void,
        count: usize,
        room: usize,
        flags: c_int,
        address: *mut sockaddr,
        length: *mut socklen_t,
    ) -> isize {
        if address.is_null() {
            return next(socket, buffer, count, room, flags, address, length);
        }
        named(address, length, |address, length| next(socket, buffer, count, room, flags, address, length))
    }
}
