//! The working directory, and canonical paths.

use crate::answer::{fail, give};
use crate::spawning::check_directory;
use crate::{call, descriptors, path, user, working_directory};
use core::ffi::{c_char, c_int};
use core::ptr::null_mut;
use lifeboat_fs::{Errno, InodeId, LastLink, Result};

/// Notes that the kernel's working directory is the process's again.
fn left(answer: c_int) -> c_int {
    if answer == 0 {
        working_directory::leave();
    }
    answer
}

/// Puts a path and its NUL where the program wants it, or into memory from libc's heap.
fn put_path(path: &[u8], buffer: *mut c_char, size: usize) -> Result<*mut c_char> {
    let needed = path.len() + 1;
    let room = if buffer.is_null() && size == 0 { needed } else { size };
    if needed > room {
        return Err(Errno::RANGE);
    }
    let place = if buffer.is_null() {
        // SAFETY: libc's allocator; `room` is at least 1.
        let place = unsafe { libc::malloc(room) };
        if place.is_null() {
            return Err(Errno::NOMEM);
        }
        place.cast()
    } else {
        buffer
    };
    user::put_bytes(place, path)?;
    user::put_bytes(place.wrapping_add(path.len()), b"\0")?;
    Ok(place)
}

fn own_directory(buffer: *mut c_char, size: usize) -> Option<Result<*mut c_char>> {
    let mut path = [0; user::PATH_MAX];
    let length = working_directory::path(&mut path)?;
    Some(length.and_then(|length| put_path(path.get(..length).unwrap_or_default(), buffer, size)))
}

fn canonical(start: InodeId, rest: &[u8], into: *mut c_char) -> Result<*mut c_char> {
    let mut below = [0; user::PATH_MAX];
    let length = call::call_once(|file_system, who| file_system.canonical_path(who, start, rest, &mut below))?;
    let mut path = [0; user::PATH_MAX];
    let length = working_directory::join_mount(below.get(..length).unwrap_or_default(), &mut path)?;
    let size = if into.is_null() { 0 } else { user::PATH_MAX };
    put_path(path.get(..length).unwrap_or_default(), into, size)
}

fn canonical_any(name: *const c_char, into: *mut c_char, theirs: impl Fn(*const c_char) -> *mut c_char) -> *mut c_char {
    if name.is_null() {
        return theirs(name);
    }
    path::on_path(
        libc::AT_FDCWD,
        name,
        LastLink::Follow,
        |_, name| theirs(name),
        |_, _, start, rest| canonical(start, rest, into),
    )
}

hooks! {
    fn chdir(name: *const c_char) -> c_int {
        path::on_inode(
            libc::AT_FDCWD,
            name,
            LastLink::Follow,
            |_, name| left(next(name)),
            |file_system, who, inode| {
                check_directory(file_system, who, inode)?;
                working_directory::enter(inode);
                Ok(())
            },
        )
    }

    fn fchdir(descriptor: c_int) -> c_int {
        match descriptors::find(descriptor) {
            None => left(next(descriptor)),
            Some(file) => give(call::call(|file_system, who| {
                let inode = file_system.inode_of(file)?;
                check_directory(file_system, who, inode)?;
                working_directory::enter(inode);
                Ok(())
            })),
        }
    }

    fn getcwd(buffer: *mut c_char, size: usize) -> *mut c_char {
        if working_directory::current().is_none() {
            return next(buffer, size);
        }
        if size == 0 && !buffer.is_null() {
            return fail(Errno::INVAL);
        }
        own_directory(buffer, size).map_or(null_mut(), give)
    }

    fn __getcwd_chk(buffer: *mut c_char, size: usize, room: usize) -> *mut c_char {
        if working_directory::current().is_none() || size > room {
            return next(buffer, size, room);
        }
        own_directory(buffer, size).map_or(null_mut(), give)
    }

    fn getwd(buffer: *mut c_char) -> *mut c_char {
        if working_directory::current().is_none() {
            return next(buffer);
        }
        own_directory(buffer, user::PATH_MAX).map_or(null_mut(), give)
    }

    fn __getwd_chk(buffer: *mut c_char, room: usize) -> *mut c_char {
        if working_directory::current().is_none() {
            return next(buffer, room);
        }
        own_directory(buffer, room.min(user::PATH_MAX)).map_or(null_mut(), give)
    }

    fn get_current_dir_name() -> *mut c_char {
        if working_directory::current().is_none() {
            return next();
        }
        own_directory(null_mut(), 0).map_or(null_mut(), give)
    }

    fn realpath(name: *const c_char, into: *mut c_char) -> *mut c_char {
        canonical_any(name, into, |name| next(name, into))
    }

    fn __realpath_chk(name: *const c_char, into: *mut c_char, room: usize) -> *mut c_char {
        if room < user::PATH_MAX {
            return next(name, into, room);
        }
        canonical_any(name, into, |name| next(name, into, room))
    }

    fn canonicalize_file_name(name: *const c_char) -> *mut c_char {
        canonical_any(name, null_mut(), next)
    }
}
