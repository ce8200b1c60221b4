//! `open` and its kin. C declares them variadic; on the machines served here an integer travels in the same register
//! either way, and is looked at only when a flag says that it is there.

use crate::answer::{fail, give};
use crate::opening::{self, Wish};
use crate::{path, user};
use core::ffi::{c_char, c_int};
use lifeboat_fs::Errno;

/// Runs an open, with `theirs` for paths of the kernel.
#[inline(always)]
fn open_anywhere(
    directory: c_int,
    name: *const c_char,
    flags: c_int,
    mode: libc::mode_t,
    theirs: impl Fn(c_int, *const c_char) -> c_int,
) -> c_int {
    let wish = Wish { directory, name, flags, mode };
    opening::open_anywhere(wish, theirs, |&descriptor| opening::is_covered(descriptor, flags), give)
}

/// Whether flags ask for a mode, which the `_2` forms of fortified programs do not pass.
fn needs_mode(flags: c_int) -> bool {
    flags & libc::O_CREAT != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE
}

const CREATE: c_int = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;

hooks! {
    fn open(name: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int, also open64, also __open, also __open64 {
        open_anywhere(libc::AT_FDCWD, name, flags, mode, |_, name| next(name, flags, mode))
    }

    fn openat(directory: c_int, name: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int, also openat64 {
        open_anywhere(directory, name, flags, mode, |directory, name| next(directory, name, flags, mode))
    }

    fn __open_2(name: *const c_char, flags: c_int) -> c_int, also __open64_2 {
        if needs_mode(flags) {
            return next(name, flags);
        }
        open_anywhere(libc::AT_FDCWD, name, flags, 0, |_, name| next(name, flags))
    }

    fn __openat_2(directory: c_int, name: *const c_char, flags: c_int) -> c_int, also __openat64_2 {
        if needs_mode(flags) {
            return next(directory, name, flags);
        }
        open_anywhere(directory, name, flags, 0, |directory, name| next(directory, name, flags))
    }

    fn creat(name: *const c_char, mode: libc::mode_t) -> c_int, also creat64 {
        open_anywhere(libc::AT_FDCWD, name, CREATE, mode, |_, name| next(name, mode))
    }

    fn name_to_handle_at(
        directory: c_int,
        name: *const c_char,
        handle: *mut libc::c_void,
        mount: *mut c_int,
        flags: c_int,
    ) -> c_int {
        if path::surely_foreign(directory, name) {
            return next(directory, name, handle, mount, flags);
        }
        let mut room = user::Room::new();
        match path::locate(directory, name, &mut room) {
            path::Place::Foreign => next(directory, name, handle, mount, flags),
            _ => fail(Errno::OPNOTSUPP),
        }
    }
}
