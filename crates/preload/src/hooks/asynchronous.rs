//! Asynchronous input and output, answered at once: in memory there is nothing to wait for.
//!
//! libc keeps a request's state in two fields of the control block and looks only at those when it is asked, so a
//! request that is complete before `aio_read` returns needs no further hook.

use super::data::{read_one, write_one};
use crate::answer::fail;
use crate::{call, descriptors, user};
use core::ffi::{c_int, c_void};
use lifeboat_fs::{Errno, OpenFile, Position, Result};

/// The kernel's and libc's fields of `struct aiocb`, as glibc has them.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Request {
    descriptor: c_int,
    operation: c_int,
    priority: c_int,
    buffer: *mut c_void,
    length: usize,
    notification: libc::sigevent,
    next: *mut c_void,
    absolute_priority: c_int,
    policy: c_int,
    error: c_int,
    result: isize,
    offset: i64,
    reserved: [u8; 32],
}

fn descriptor_of(request: *mut Request) -> Option<OpenFile> {
    descriptors::find(user::get(request.cast::<c_int>()).ok()?)
}

/// Runs the request and stores what came of it where libc looks.
fn complete(request: *mut Request, run: impl Fn(&Request) -> Result<usize>) -> c_int {
    let Ok(mut copy) = user::get(request) else { return fail(Errno::FAULT) };
    match copy.notification.sigev_notify {
        libc::SIGEV_NONE => {}
        // A signal or a thread at completion would have to come from us.
        _ => return fail(Errno::AGAIN),
    }
    (copy.error, copy.result) = match run(&copy) {
        Ok(count) => (0, count as isize),
        Err(error) => (error.raw_os_error(), -1),
    };
    crate::answer::give(user::put(request, &copy))
}

fn position(request: &Request) -> Result<Position> {
    u64::try_from(request.offset).map(Position::At).map_err(|_| Errno::INVAL)
}

hooks! {
    fn aio_read(request: *mut Request) -> c_int, also aio_read64 {
        match descriptor_of(request) {
            None => next(request),
            Some(file) => {
                complete(request, |request| read_one(file, request.buffer, request.length, position(request)?))
            }
        }
    }

    fn aio_write(request: *mut Request) -> c_int, also aio_write64 {
        match descriptor_of(request) {
            None => next(request),
            Some(file) => complete(request, |request| {
                let appends = call::data(|file_system| file_system.flags_of(file))? & libc::O_APPEND != 0;
                let position = if appends { Position::Current } else { position(request)? };
                write_one(file, request.buffer, request.length, position)
            }),
        }
    }

    fn aio_fsync(operation: c_int, request: *mut Request) -> c_int, also aio_fsync64 {
        match descriptor_of(request) {
            None => next(operation, request),
            Some(file) => complete(request, |_| call::call(|file_system, _| file_system.sync(file)).map(|()| 0)),
        }
    }
}
