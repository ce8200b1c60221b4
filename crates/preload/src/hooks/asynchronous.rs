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
    (copy.error, copy.result) = match run(&copy) {
        Ok(count) => (0, count as isize),
        Err(error) => (error.raw_os_error(), -1),
    };
    if let Err(error) = user::put(request, &copy) {
        return fail(error);
    }
    notify(&copy.notification)
}

/// `struct sigevent` where a thread is asked for: the value, the signal, the kind, the function, its attributes.
#[repr(C)]
#[derive(Clone, Copy)]
struct ThreadWish {
    value: *mut c_void,
    signal: c_int,
    kind: c_int,
    function: *mut c_void,
    attributes: *const libc::pthread_attr_t,
}

/// Tells the program that a request is complete, in the way that it asked for.
fn notify(wish: &libc::sigevent) -> c_int {
    match wish.sigev_notify {
        libc::SIGEV_SIGNAL => {
            // SAFETY: a C structure of integers, for which zeros are valid.
            let mut info: SignalInformation = unsafe { core::mem::zeroed() };
            info.signal = wish.sigev_signo;
            info.code = libc::SI_ASYNCIO;
            info.process = crate::state::own_pid() as c_int;
            // SAFETY: only asks.
            info.user = unsafe { libc::getuid() };
            info.value = wish.sigev_value.sival_ptr;
            let call = libc_function!(c"syscall", fn(libc::c_long, c_int, c_int, *const SignalInformation) -> c_int);
            call(libc::SYS_rt_sigqueueinfo, info.process, info.signal, &info)
        }
        libc::SIGEV_THREAD => {
            // SAFETY: the structure is larger than this beginning of it.
            let wish = unsafe { *(wish as *const libc::sigevent).cast::<ThreadWish>() };
            start_thread(wish)
        }
        _ => 0,
    }
}

/// The beginning of `siginfo_t` for a signal that carries a value.
#[repr(C)]
struct SignalInformation {
    signal: c_int,
    error: c_int,
    code: c_int,
    padding: c_int,
    process: c_int,
    user: libc::uid_t,
    value: *mut c_void,
    rest: [u64; 12],
}

fn start_thread(wish: ThreadWish) -> c_int {
    // SAFETY: a function of the program's, which answers nothing; what it leaves in the register is not looked at.
    let function =
        unsafe { core::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void) -> *mut c_void>(wish.function) };
    let mut thread = core::mem::MaybeUninit::<libc::pthread_t>::uninit();
    // SAFETY: libc's own functions; the thread's number is written before it is used.
    let error = unsafe {
        match libc::pthread_create(thread.as_mut_ptr(), wish.attributes, function, wish.value) {
            0 => {
                libc::pthread_detach(thread.assume_init());
                0
            }
            error => error,
        }
    };
    if error == 0 { 0 } else { fail(Errno::AGAIN) }
}

fn position(request: &Request) -> Result<Position> {
    u64::try_from(request.offset).map(Position::At).map_err(|_| Errno::INVAL)
}

fn write_request(file: OpenFile, request: &Request) -> Result<usize> {
    let appends = call::data(|file_system| file_system.flags_of(file))? & libc::O_APPEND != 0;
    let position = if appends { Position::Current } else { position(request)? };
    write_one(file, request.buffer, request.length, position)
}

/// Runs the requests of a list that are ours, and hands the others to libc in one list.
fn run_list(
    mode: c_int,
    list: *const *mut Request,
    count: c_int,
    wish: *const libc::sigevent,
    theirs: impl Fn(*const *mut Request, c_int, *const libc::sigevent) -> c_int,
) -> c_int {
    const READ: c_int = 0;
    const WRITE: c_int = 1;
    const NOTHING: c_int = 2;
    let entries = usize::try_from(count).unwrap_or(0);
    let entry = |index: usize| user::get(list.wrapping_add(index)).ok().filter(|request| !request.is_null());
    let ours = |request: *mut Request| descriptor_of(request).is_some();
    if !matches!(mode, libc::LIO_WAIT | libc::LIO_NOWAIT) || !(0..entries).filter_map(entry).any(ours) {
        return theirs(list, count, wish);
    }
    // SAFETY: libc's allocator; at least one byte is asked for.
    let rest: *mut *mut Request = unsafe { libc::malloc(entries * size_of::<*mut Request>()) }.cast();
    if rest.is_null() {
        return fail(Errno::AGAIN);
    }
    let (mut others, mut failed) = (0, false);
    for request in (0..entries).filter_map(entry) {
        let Some(file) = descriptor_of(request) else {
            // SAFETY: there is room for all entries.
            unsafe { rest.add(others).write(request) };
            others += 1;
            continue;
        };
        let Ok(copy) = user::get(request) else { continue };
        let answer = match copy.operation {
            READ => complete(request, |request| read_one(file, request.buffer, request.length, position(request)?)),
            WRITE => complete(request, |request| write_request(file, request)),
            NOTHING => 0,
            _ => complete(request, |_| Err(Errno::INVAL)),
        };
        failed |= answer != 0 || user::get(request).is_ok_and(|done| done.error != 0);
    }
    let answer = if others > 0 {
        theirs(rest, others as c_int, wish)
    } else if mode == libc::LIO_NOWAIT {
        user::get(wish).map_or(0, |wish| notify(&wish))
    } else {
        0
    };
    // SAFETY: allocated above.
    unsafe { libc::free(rest.cast()) };
    if answer == 0 && failed { fail(Errno::IO) } else { answer }
}

hooks! {
    fn lio_listio(
        mode: c_int,
        list: *const *mut Request,
        count: c_int,
        wish: *const libc::sigevent,
    ) -> c_int, also lio_listio64 {
        run_list(mode, list, count, wish, |list, count, wish| next(mode, list, count, wish))
    }

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
            Some(file) => complete(request, |request| write_request(file, request)),
        }
    }

    fn aio_fsync(operation: c_int, request: *mut Request) -> c_int, also aio_fsync64 {
        match descriptor_of(request) {
            None => next(operation, request),
            Some(file) => complete(request, |_| call::call(|file_system, _| file_system.sync(file)).map(|()| 0)),
        }
    }
}
