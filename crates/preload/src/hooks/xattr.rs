//! Extended attributes: there are none. Lists are empty, and the rest is not supported, which is what programs know
//! from file systems without them.

use crate::answer::{fail, give};
use crate::{descriptors, path};
use core::ffi::{c_char, c_int, c_void};
use lifeboat_fs::{Errno, LastLink};

const HERE: c_int = libc::AT_FDCWD;

hooks! {
    fn getxattr(name: *const c_char, key: *const c_char, value: *mut c_void, size: usize) -> isize {
        path::on_inode(
            HERE,
            name,
            LastLink::Follow,
            |_, name| next(name, key, value, size),
            |_, _, _| Err::<usize, _>(Errno::OPNOTSUPP),
        )
    }

    fn lgetxattr(name: *const c_char, key: *const c_char, value: *mut c_void, size: usize) -> isize {
        path::on_inode(
            HERE,
            name,
            LastLink::Keep,
            |_, name| next(name, key, value, size),
            |_, _, _| Err::<usize, _>(Errno::OPNOTSUPP),
        )
    }

    fn fgetxattr(descriptor: c_int, key: *const c_char, value: *mut c_void, size: usize) -> isize {
        match descriptors::find(descriptor) {
            None => next(descriptor, key, value, size),
            Some(_) => fail(Errno::OPNOTSUPP),
        }
    }

    fn setxattr(name: *const c_char, key: *const c_char, value: *const c_void, size: usize, flags: c_int) -> c_int {
        path::on_inode(
            HERE,
            name,
            LastLink::Follow,
            |_, name| next(name, key, value, size, flags),
            |_, _, _| Err::<(), _>(Errno::OPNOTSUPP),
        )
    }

    fn lsetxattr(name: *const c_char, key: *const c_char, value: *const c_void, size: usize, flags: c_int) -> c_int {
        path::on_inode(
            HERE,
            name,
            LastLink::Keep,
            |_, name| next(name, key, value, size, flags),
            |_, _, _| Err::<(), _>(Errno::OPNOTSUPP),
        )
    }

    fn fsetxattr(descriptor: c_int, key: *const c_char, value: *const c_void, size: usize, flags: c_int) -> c_int {
        match descriptors::find(descriptor) {
            None => next(descriptor, key, value, size, flags),
            Some(_) => fail(Errno::OPNOTSUPP),
        }
    }

    fn listxattr(name: *const c_char, list: *mut c_char, size: usize) -> isize {
        path::on_inode(HERE, name, LastLink::Follow, |_, name| next(name, list, size), |_, _, _| Ok(0usize))
    }

    fn llistxattr(name: *const c_char, list: *mut c_char, size: usize) -> isize {
        path::on_inode(HERE, name, LastLink::Keep, |_, name| next(name, list, size), |_, _, _| Ok(0usize))
    }

    fn flistxattr(descriptor: c_int, list: *mut c_char, size: usize) -> isize {
        match descriptors::find(descriptor) {
            None => next(descriptor, list, size),
            Some(_) => give(Ok(0usize)),
        }
    }

    fn removexattr(name: *const c_char, key: *const c_char) -> c_int {
        path::on_inode(
            HERE,
            name,
            LastLink::Follow,
            |_, name| next(name, key),
            |_, _, _| Err::<(), _>(Errno::OPNOTSUPP),
        )
    }

    fn lremovexattr(name: *const c_char, key: *const c_char) -> c_int {
        path::on_inode(HERE, name, LastLink::Keep, |_, name| next(name, key), |_, _, _| Err::<(), _>(Errno::OPNOTSUPP))
    }

    fn fremovexattr(descriptor: c_int, key: *const c_char) -> c_int {
        match descriptors::find(descriptor) {
            None => next(descriptor, key),
            Some(_) => fail(Errno::OPNOTSUPP),
        }
    }
}
