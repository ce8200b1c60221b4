//! Sockets with names in the mount. The name is a node in the region; the kernel's socket is bound to a file beside the
//! placeholders that is named by the node's inode, and that is where other programs are led.

use crate::answer::fail;
use crate::{path, state, tags, user};
use core::ffi::{c_char, c_int, c_void};
use core::mem::offset_of;
use libc::{sockaddr, sockaddr_un, socklen_t};
use lifeboat_fs::{Caller, Errno, FileSystem, InodeId, KernelNode, LastLink, Result};

const HERE: c_int = libc::AT_FDCWD;
const PATH_AT: usize = offset_of!(sockaddr_un, sun_path);

/// Permission to write.
const MAY_WRITE: u32 = 2;

/// The address of a socket with a name, and its length.
pub(super) struct Address {
    pub(super) address: sockaddr_un,
    pub(super) length: socklen_t,
}

impl Address {
    fn empty() -> Address {
        // SAFETY: a C structure of integers, for which zeros are valid.
        Address { address: unsafe { core::mem::zeroed() }, length: 0 }
    }

    /// Of a path; `None` when that is too long for an address.
    pub(super) fn of(path: &[u8]) -> Option<Address> {
        let mut made = Address::empty();
        made.address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        let place = made.address.sun_path.get_mut(..path.len() + 1)?;
        for (to, &from) in place.iter_mut().zip(path) {
            *to = from as c_char;
        }
        made.length = (PATH_AT + path.len() + 1) as socklen_t;
        Some(made)
    }

    fn pointer(&self) -> *const sockaddr {
        (&raw const self.address).cast()
    }
}

/// The path in an address, with a NUL; `None` when it has none, which is most often the case.
pub(super) fn path_in(address: *const sockaddr, length: socklen_t) -> Option<[c_char; 110]> {
    if !state::configured() || address.is_null() || length as usize <= PATH_AT {
        return None;
    }
    let family = user::get(address.cast::<libc::sa_family_t>()).ok()?;
    if c_int::from(family) != libc::AF_UNIX {
        return None;
    }
    let mut path = [0; 110];
    let room = (length as usize - PATH_AT).min(108);
    for (index, place) in path.iter_mut().take(room).enumerate() {
        *place = user::get(address.cast::<c_char>().wrapping_add(PATH_AT + index)).ok()?;
    }
    // An abstract name begins with a NUL.
    (path[0] != 0).then_some(path)
}

/// The kernel's address of a node.
fn address_of(inode: InodeId) -> Result<Address> {
    let mut folder = [0; 64];
    let length = lifeboat_region::process::decimal(b"/proc/self/fd/", tags::folder_number() as u64, b"/", &mut folder);
    let node = KernelNode::of_socket(inode);
    let mut path = [0; 108];
    let end = length + node.name().len();
    path.get_mut(..length).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(&folder[..length]);
    path.get_mut(length..end).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(node.name());
    Address::of(&path[..end]).ok_or(Errno::NAMETOOLONG)
}

fn bind_node(
    file_system: &FileSystem,
    who: &Caller<'_>,
    start: InodeId,
    name: &[u8],
    address: &[u8],
    bind: impl Fn(&Address) -> c_int,
) -> Result<c_int> {
    file_system.make_socket(who, start, name, 0o777, address).map_err(|error| match error {
        Errno::EXIST => Errno::ADDRINUSE,
        error => error,
    })?;
    let bound = file_system.resolve(who, start, name, LastLink::Keep).and_then(address_of).and_then(|address| {
        // What a node of this number was bound to in an earlier life.
        // SAFETY: an address that `Address::of` made ends with a NUL.
        let file = unsafe { core::ffi::CStr::from_ptr(address.address.sun_path.as_ptr()) };
        let _ = rustix::fs::unlink(file);
        match bind(&address) {
            0 => {
                let _ = rustix::fs::chmod(file, rustix::fs::Mode::from_raw_mode(0o777));
                Ok(0)
            }
            _ => Err(Errno::from_raw_os_error(crate::answer::errno())),
        }
    });
    if bound.is_err() {
        let _ = file_system.unlink(who, start, name);
    }
    bound
}

/// Where a name in the mount leads.
fn find(file_system: &FileSystem, who: &Caller<'_>, inode: InodeId) -> Result<Address> {
    if file_system.stat(inode)?.mode & libc::S_IFMT != libc::S_IFSOCK {
        return Err(Errno::CONNREFUSED);
    }
    file_system.access(who, inode, MAY_WRITE)?;
    address_of(inode)
}

/// The path that a call of the kernel was given last: as it is, or under another name.
fn address_for(path: *const c_char, given: (*const sockaddr, socklen_t), named: *const c_char) -> Option<Address> {
    let mut address = Address::empty();
    if path == named {
        let bytes = (given.1 as usize).min(size_of::<sockaddr_un>());
        // SAFETY: `address` has room; `path_in` has read the source.
        unsafe { core::ptr::copy_nonoverlapping(given.0.cast::<u8>(), (&raw mut address.address).cast(), bytes) };
        address.length = bytes as socklen_t;
        return Some(address);
    }
    let mut room = user::Room::new();
    Address::of(user::path(path, &mut room).ok()?)
}

/// Runs `send` with the address to use in place of one whose path may lie in the mount.
fn towards(given: (*const sockaddr, socklen_t), send: impl Fn(*const sockaddr, socklen_t) -> isize) -> isize {
    let Some(path) = path_in(given.0, given.1) else { return send(given.0, given.1) };
    let named = path.as_ptr();
    let refused = |answer: isize| {
        // The kernel's file is gone, or was never there: nobody listens.
        if answer == -1 && crate::answer::errno() == libc::ENOENT {
            crate::answer::set_errno(libc::ECONNREFUSED);
        }
        answer
    };
    path::on_inode(
        HERE,
        named,
        LastLink::Follow,
        |_, name| match address_for(name, given, named) {
            Some(address) => send(address.pointer(), address.length),
            None => fail(Errno::NAMETOOLONG),
        },
        |file_system, who, inode| {
            let address = find(file_system, who, inode)?;
            Ok(Sent(refused(send(address.pointer(), address.length))))
        },
    )
}

/// What the kernel answered, with its `errno`.
struct Sent(isize);

impl crate::answer::Answer<isize> for Sent {
    fn answer(self) -> isize {
        self.0
    }
}

/// For `sendmsg`: the same with an address in the header of the message.
pub(super) fn send_message(message: *const libc::msghdr, send: impl Fn(*const libc::msghdr) -> isize) -> isize {
    if !state::configured() {
        return send(message);
    }
    match user::get(message) {
        Ok(header) if path_in(header.msg_name.cast(), header.msg_namelen).is_some() => {
            towards((header.msg_name.cast(), header.msg_namelen), |address, length| {
                let mut header = header;
                header.msg_name = address.cast_mut().cast();
                header.msg_namelen = length;
                send(&header)
            })
        }
        _ => send(message),
    }
}

hooks! {
    fn bind(socket: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
        let Some(path) = path_in(address, length) else { return next(socket, address, length) };
        let named = path.as_ptr();
        path::on_name(
            HERE,
            named,
            |_, name| match address_for(name, (address, length), named) {
                Some(address) => next(socket, address.pointer(), address.length),
                None => fail(Errno::NAMETOOLONG),
            },
            |file_system, who, start, name| {
                // SAFETY: `path_in` has two bytes more than an address, so a NUL ends it.
                let shown = unsafe { core::ffi::CStr::from_ptr(named) }.to_bytes();
                bind_node(file_system, who, start, name, shown, |address| {
                    next(socket, address.pointer(), address.length)
                })
            },
        )
    }

    fn connect(socket: c_int, address: *const sockaddr, length: socklen_t) -> c_int, also __connect {
        if path_in(address, length).is_none() {
            return next(socket, address, length);
        }
        towards((address, length), |address, length| next(socket, address, length) as isize) as c_int
    }

    fn sendto(
        socket: c_int,
        buffer: *const c_void,
        count: usize,
        flags: c_int,
        address: *const sockaddr,
        length: socklen_t,
    ) -> isize {
        if address.is_null() || path_in(address, length).is_none() {
            return next(socket, buffer, count, flags, address, length);
        }
        towards((address, length), |address, length| next(socket, buffer, count, flags, address, length))
    }
}
