//! Extended attributes.

use crate::answer::{Answer, Failure, give};
use crate::{call, descriptors, path, user};
use core::ffi::{c_char, c_int, c_void};
use lifeboat_fs::{
    ATTRIBUTE_NAME_LONGEST, Caller, Errno, FileSystem, InodeId, LastLink, OpenFile, Result, check_attribute,
};

const HERE: c_int = libc::AT_FDCWD;

/// The name of an attribute, copied from the program.
struct Key {
    text: [u8; ATTRIBUTE_NAME_LONGEST],
    length: usize,
}

impl Key {
    fn read(pointer: *const c_char) -> Result<Key> {
        let mut key = Key { text: [0; ATTRIBUTE_NAME_LONGEST], length: 0 };
        loop {
            match user::peek(pointer.wrapping_add(key.length)).ok_or(Errno::FAULT)? {
                0 => return Ok(key),
                // Too long for any name.
                byte => *key.text.get_mut(key.length).ok_or(Errno::RANGE)? = byte,
            }
            key.length += 1;
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

/// What of the arguments is wrong whatever the file is, which the kernel says before it looks for the file.
fn check(key: *const c_char, size: usize, flags: c_int) -> Result<()> {
    check_attribute(b"x", 0, flags)?;
    check_attribute(Key::read(key)?.bytes(), size, flags)
}

/// Runs `ours` on an open file of ours, not one opened as a mere path.
fn on_open<T: Answer<C>, C: Failure>(
    file: OpenFile,
    check: impl Fn() -> Result<()>,
    ours: impl Fn(&FileSystem, &Caller<'_>, InodeId) -> Result<T>,
) -> C {
    give(check().and_then(|()| {
        call::call(|file_system, who| {
            if file_system.flags_of(file)? & libc::O_PATH != 0 {
                return Err(Errno::BADF);
            }
            ours(file_system, who, file_system.inode_of(file)?)
        })
    }))
}

fn get(
    file_system: &FileSystem,
    who: &Caller<'_>,
    inode: InodeId,
    key: *const c_char,
    (value, size): (*mut c_void, usize),
) -> Result<usize> {
    file_system.get_attribute(who, inode, Key::read(key)?.bytes(), &user::target(value, size))
}

fn set(
    file_system: &FileSystem,
    who: &Caller<'_>,
    inode: InodeId,
    key: *const c_char,
    (value, size, flags): (*const c_void, usize, c_int),
) -> Result<()> {
    file_system.set_attribute(who, inode, Key::read(key)?.bytes(), &user::source(value, size), flags)
}

fn list(
    file_system: &FileSystem,
    who: &Caller<'_>,
    inode: InodeId,
    (names, size): (*mut c_char, usize),
) -> Result<usize> {
    file_system.list_attributes(who, inode, &user::target(names.cast(), size))
}

fn remove(file_system: &FileSystem, who: &Caller<'_>, inode: InodeId, key: *const c_char) -> Result<()> {
    file_system.remove_attribute(who, inode, Key::read(key)?.bytes())
}

hooks! {
    fn getxattr(name: *const c_char, key: *const c_char, value: *mut c_void, size: usize) -> isize {
        path::on_inode_after(
            || check(key, 0, 0),
            (HERE, name, LastLink::Follow),
            |_, name| next(name, key, value, size),
            |file_system, who, inode| get(file_system, who, inode, key, (value, size)),
        )
    }

    fn lgetxattr(name: *const c_char, key: *const c_char, value: *mut c_void, size: usize) -> isize {
        path::on_inode_after(
            || check(key, 0, 0),
            (HERE, name, LastLink::Keep),
            |_, name| next(name, key, value, size),
            |file_system, who, inode| get(file_system, who, inode, key, (value, size)),
        )
    }

    fn fgetxattr(descriptor: c_int, key: *const c_char, value: *mut c_void, size: usize) -> isize {
        match descriptors::find(descriptor) {
            None => next(descriptor, key, value, size),
            Some(file) => on_open(
                file,
                || check(key, 0, 0),
                |file_system, who, inode| get(file_system, who, inode, key, (value, size)),
            ),
        }
    }

    fn setxattr(name: *const c_char, key: *const c_char, value: *const c_void, size: usize, flags: c_int) -> c_int {
        path::on_inode_after(
            || check(key, size, flags),
            (HERE, name, LastLink::Follow),
            |_, name| next(name, key, value, size, flags),
            |file_system, who, inode| set(file_system, who, inode, key, (value, size, flags)),
        )
    }

    fn lsetxattr(name: *const c_char, key: *const c_char, value: *const c_void, size: usize, flags: c_int) -> c_int {
        path::on_inode_after(
            || check(key, size, flags),
            (HERE, name, LastLink::Keep),
            |_, name| next(name, key, value, size, flags),
            |file_system, who, inode| set(file_system, who, inode, key, (value, size, flags)),
        )
    }

    fn fsetxattr(descriptor: c_int, key: *const c_char, value: *const c_void, size: usize, flags: c_int) -> c_int {
        match descriptors::find(descriptor) {
            None => next(descriptor, key, value, size, flags),
            Some(file) => on_open(
                file,
                || check(key, size, flags),
                |file_system, who, inode| set(file_system, who, inode, key, (value, size, flags)),
            ),
        }
    }

    fn listxattr(name: *const c_char, names: *mut c_char, size: usize) -> isize {
        path::on_inode(
            HERE,
            name,
            LastLink::Follow,
            |_, name| next(name, names, size),
            |file_system, who, inode| list(file_system, who, inode, (names, size)),
        )
    }

    fn llistxattr(name: *const c_char, names: *mut c_char, size: usize) -> isize {
        path::on_inode(
            HERE,
            name,
            LastLink::Keep,
            |_, name| next(name, names, size),
            |file_system, who, inode| list(file_system, who, inode, (names, size)),
        )
    }

    fn flistxattr(descriptor: c_int, names: *mut c_char, size: usize) -> isize {
        match descriptors::find(descriptor) {
            None => next(descriptor, names, size),
            Some(file) => on_open(
                file,
                || Ok(()),
                |file_system, who, inode| list(file_system, who, inode, (names, size)),
            ),
        }
    }

    fn removexattr(name: *const c_char, key: *const c_char) -> c_int {
        path::on_inode_after(
            || check(key, 0, 0),
            (HERE, name, LastLink::Follow),
            |_, name| next(name, key),
            |file_system, who, inode| remove(file_system, who, inode, key),
        )
    }

    fn lremovexattr(name: *const c_char, key: *const c_char) -> c_int {
        path::on_inode_after(
            || check(key, 0, 0),
            (HERE, name, LastLink::Keep),
            |_, name| next(name, key),
            |file_system, who, inode| remove(file_system, who, inode, key),
        )
    }

    fn fremovexattr(descriptor: c_int, key: *const c_char) -> c_int {
        match descriptors::find(descriptor) {
            None => next(descriptor, key),
            Some(file) => on_open(
                file,
                || check(key, 0, 0),
                |file_system, who, inode| remove(file_system, who, inode, key),
            ),
        }
    }
}
