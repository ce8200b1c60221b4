//! Reading, writing, seeking.

use crate::answer::{fail, give};
use crate::{call, descriptors, limits, user};
use core::ffi::{c_int, c_void};
use libc::{iovec, off_t, size_t, ssize_t};
use lifeboat_fs::{Errno, OpenFile, Position, Result};
use lifeboat_kernels as kernels;

/// Flags of `preadv2` and `pwritev2` that change nothing in memory: high priority, synchronous, do not wait.
const HARMLESS: c_int = libc::RWF_HIPRI | libc::RWF_DSYNC | libc::RWF_SYNC | libc::RWF_NOWAIT;

/// From so many bytes on the source is fetched while the place for it is looked up.
const FETCHED_AHEAD: size_t = 512;

fn at(offset: off_t) -> Result<Position> {
    u64::try_from(offset).map(Position::At).map_err(|_| Errno::INVAL)
}

/// Reads from one of our files.
pub(super) fn read_one(file: OpenFile, buffer: *mut c_void, length: size_t, position: Position) -> Result<usize> {
    let target = [user::target(buffer, length)];
    call::data(|file_system| file_system.read(file, &target, position))
}

/// Writes to one of our files.
pub(crate) fn write_one(file: OpenFile, buffer: *const c_void, length: size_t, position: Position) -> Result<usize> {
    let piece = iovec { iov_base: buffer.cast_mut(), iov_len: length.min(user::LENGTH_MAX) };
    limits::write(file, core::slice::from_ref(&piece), position)
}

/// As [`write_one`], as C wants it.
#[inline(never)]
fn give_written(file: OpenFile, buffer: *const c_void, length: size_t, position: Position) -> ssize_t {
    if length >= FETCHED_AHEAD {
        kernels::prefetch(buffer.cast(), length);
    }
    limits::give_piece(file, buffer, length.min(user::LENGTH_MAX), position)
}

fn read_pieces(file: OpenFile, vector: *const iovec, count: c_int, position: Position) -> Result<usize> {
    user::pieces(vector, count, |pieces| {
        call::data(|file_system| file_system.read(file, user::as_targets(pieces), position))
    })
}

fn write_pieces(file: OpenFile, vector: *const iovec, count: c_int, position: Position) -> Result<usize> {
    user::pieces(vector, count, |pieces| limits::write(file, pieces, position))
}

/// Where a call of the `v2` family works: -1 means the file's own offset.
fn at_or_current(offset: off_t) -> Result<Position> {
    if offset == -1 { Ok(Position::Current) } else { at(offset) }
}

fn write_pieces_with_flags(
    file: OpenFile,
    vector: *const iovec,
    count: c_int,
    offset: off_t,
    flags: c_int,
) -> Result<usize> {
    if flags & !(HARMLESS | libc::RWF_APPEND) != 0 {
        return Err(Errno::OPNOTSUPP);
    }
    if flags & libc::RWF_APPEND == 0 {
        return write_pieces(file, vector, count, at_or_current(offset)?);
    }
    let before = call::data(|file_system| file_system.flags_of(file))?;
    if before & libc::O_APPEND != 0 {
        return write_pieces(file, vector, count, Position::Current);
    }
    // Appending once to a file that is not opened for appending would need a call of its own in the file system.
    Err(Errno::OPNOTSUPP)
}

/// The check of fortified programs: the buffer is smaller than what is asked for.
fn check_room(length: size_t, room: size_t) {
    if length > room {
        crate::message::say(format_args!(
            "a read is longer than the program's buffer; the program is stopped, as libc does"
        ));
        // SAFETY: does not return; not hooked.
        unsafe { libc::abort() }
    }
}

hooks! {
    fn read(descriptor: c_int, buffer: *mut c_void, length: size_t) -> ssize_t, also __read {
        match descriptors::find(descriptor) {
            None => next(descriptor, buffer, length),
            Some(file) => give(read_one(file, buffer, length, Position::Current)),
        }
    }

    fn __read_chk(descriptor: c_int, buffer: *mut c_void, length: size_t, room: size_t) -> ssize_t {
        match descriptors::find(descriptor) {
            None => next(descriptor, buffer, length, room),
            Some(file) => {
                check_room(length, room);
                give(read_one(file, buffer, length, Position::Current))
            }
        }
    }

    fn write(descriptor: c_int, buffer: *const c_void, length: size_t) -> ssize_t, also __write {
        match descriptors::find(descriptor) {
            None => next(descriptor, buffer, length),
            Some(file) => give_written(file, buffer, length, Position::Current),
        }
    }

    fn pread(
        descriptor: c_int,
        buffer: *mut c_void,
        length: size_t,
        offset: off_t,
    ) -> ssize_t, also pread64, also __pread64, also __libc_pread {
        match descriptors::find(descriptor) {
            None => next(descriptor, buffer, length, offset),
            Some(file) => give(at(offset).and_then(|position| read_one(file, buffer, length, position))),
        }
    }

    fn __pread_chk(
        descriptor: c_int,
        buffer: *mut c_void,
        length: size_t,
        offset: off_t,
        room: size_t,
    ) -> ssize_t, also __pread64_chk {
        match descriptors::find(descriptor) {
            None => next(descriptor, buffer, length, offset, room),
            Some(file) => {
                check_room(length, room);
                give(at(offset).and_then(|position| read_one(file, buffer, length, position)))
            }
        }
    }

    fn pwrite(
        descriptor: c_int,
        buffer: *const c_void,
        length: size_t,
        offset: off_t,
    ) -> ssize_t, also pwrite64, also __pwrite64, also __libc_pwrite {
        match descriptors::find(descriptor) {
            None => next(descriptor, buffer, length, offset),
            Some(file) => match at(offset) {
                Ok(position) => give_written(file, buffer, length, position),
                Err(error) => fail(error),
            },
        }
    }

    fn readv(descriptor: c_int, vector: *const iovec, count: c_int) -> ssize_t {
        match descriptors::find(descriptor) {
            None => next(descriptor, vector, count),
            Some(file) => give(read_pieces(file, vector, count, Position::Current)),
        }
    }

    fn writev(descriptor: c_int, vector: *const iovec, count: c_int) -> ssize_t {
        match descriptors::find(descriptor) {
            None => next(descriptor, vector, count),
            Some(file) => give(write_pieces(file, vector, count, Position::Current)),
        }
    }

    fn preadv(descriptor: c_int, vector: *const iovec, count: c_int, offset: off_t) -> ssize_t, also preadv64 {
        match descriptors::find(descriptor) {
            None => next(descriptor, vector, count, offset),
            Some(file) => give(at(offset).and_then(|position| read_pieces(file, vector, count, position))),
        }
    }

    fn pwritev(descriptor: c_int, vector: *const iovec, count: c_int, offset: off_t) -> ssize_t, also pwritev64 {
        match descriptors::find(descriptor) {
            None => next(descriptor, vector, count, offset),
            Some(file) => give(at(offset).and_then(|position| write_pieces(file, vector, count, position))),
        }
    }

    fn preadv2(
        descriptor: c_int,
        vector: *const iovec,
        count: c_int,
        offset: off_t,
        flags: c_int,
    ) -> ssize_t, also preadv64v2 {
        match descriptors::find(descriptor) {
            None => next(descriptor, vector, count, offset, flags),
            Some(_) if flags & !HARMLESS != 0 => fail(Errno::OPNOTSUPP),
            Some(file) => give(at_or_current(offset).and_then(|position| read_pieces(file, vector, count, position))),
        }
    }

    fn pwritev2(
        descriptor: c_int,
        vector: *const iovec,
        count: c_int,
        offset: off_t,
        flags: c_int,
    ) -> ssize_t, also pwritev64v2 {
        match descriptors::find(descriptor) {
            None => next(descriptor, vector, count, offset, flags),
            Some(file) => give(write_pieces_with_flags(file, vector, count, offset, flags)),
        }
    }

    fn lseek(descriptor: c_int, offset: off_t, whence: c_int) -> off_t, also lseek64, also __lseek, also llseek {
        match descriptors::find(descriptor) {
            None => next(descriptor, offset, whence),
            Some(file) => match u32::try_from(whence) {
                Ok(whence) => give(call::data(|file_system| file_system.seek(file, offset, whence))),
                Err(_) => fail(Errno::INVAL),
            },
        }
    }
}
