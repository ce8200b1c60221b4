//! Opening streams. Reading, writing and closing them needs no hook: libc does it through [`crate::streams`].

use crate::answer::{fail, give};
use crate::opening::{Wish, open_anywhere, reopen};
use crate::{call, covered, descriptors, path, streams, user};
use core::ffi::{c_char, c_int, c_void};
use core::ptr::null_mut;
use libc::FILE;
use lifeboat_fs::{Errno, Result};

/// Longest mode string that means anything.
const MODE_MAX: usize = 16;

/// A mode of `fopen`, taken apart.
struct Mode {
    /// Flags for opening.
    flags: c_int,
    /// The mode for libc, without what would make it map the file.
    text: [u8; MODE_MAX],
}

fn parse(mode: *const c_char) -> Result<Mode> {
    let mut parsed = Mode { flags: 0, text: [0; MODE_MAX] };
    let mut used = 0;
    for index in 0..user::PATH_MAX {
        let byte = user::peek(mode.wrapping_add(index)).ok_or(Errno::FAULT)?;
        match (index, byte) {
            // What follows a comma names a character set, which streams of ours do not convert.
            (_, 0 | b',') => break,
            (0, b'r') => parsed.flags = libc::O_RDONLY,
            (0, b'w') => parsed.flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC,
            (0, b'a') => parsed.flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND,
            (0, _) => return Err(Errno::INVAL),
            (_, b'+') => parsed.flags = parsed.flags & !libc::O_ACCMODE | libc::O_RDWR,
            (_, b'x') => parsed.flags |= libc::O_EXCL,
            (_, b'e') => parsed.flags |= libc::O_CLOEXEC,
            (_, b'm') => continue,
            _ => {}
        }
        // The last byte stays NUL.
        if used < MODE_MAX - 1 {
            parsed.text[used] = byte;
            used += 1;
        }
    }
    if used == 0 { Err(Errno::INVAL) } else { Ok(parsed) }
}

/// A stream of libc's over a descriptor of ours; the descriptor is closed when there cannot be one.
fn stream_over(descriptor: c_int, mode: &Mode) -> *mut FILE {
    // That of a FIFO is the kernel's, which libc's own streams serve.
    let stream = if streams::usable() || descriptors::find(descriptor).is_none() {
        libc_function!(c"fdopen", fn(c_int, *const c_char) -> *mut FILE)(descriptor, mode.text.as_ptr().cast())
    } else {
        stream_by_functions(descriptor, mode)
    };
    if stream.is_null() {
        let error = crate::answer::errno();
        super::close_any_descriptor(descriptor);
        crate::answer::set_errno(error);
    }
    stream
}

#[inline(never)]
fn open_stream(name: *const c_char, mode: *const c_char, theirs: impl Fn(*const c_char) -> *mut FILE) -> *mut FILE {
    let parsed = match parse(mode) {
        Ok(parsed) => parsed,
        Err(error) => return fail(error),
    };
    let wish = Wish { directory: libc::AT_FDCWD, name, flags: parsed.flags, mode: 0o666 };
    open_anywhere(
        wish,
        |_, name| theirs(name),
        |_| false,
        |opened| match opened {
            Err(error) => fail(error),
            Ok(descriptor) => stream_over(descriptor, &parsed),
        },
    )
}

/// After libc reopened a stream whose descriptor was ours: it closed that one by itself.
fn forget_replaced(before: c_int, was_ours: bool) {
    if was_ours {
        descriptors::vanished(before);
    }
}

/// Opens a file of ours on an existing stream: libc reopens it on an empty place, whose descriptor then becomes ours.
fn reopen_with(
    descriptor: c_int,
    parsed: &Mode,
    stream: *mut FILE,
    theirs: impl Fn(*const c_char, *const c_char) -> *mut FILE,
) -> *mut FILE {
    let before = streams::descriptor_of(stream);
    let was_ours = descriptors::find(before).is_some();
    // The flags that make or empty a file have done their work.
    let mut mode = parsed.text;
    mode.iter_mut().filter(|byte| **byte == b'x').for_each(|byte| *byte = b'b');
    let reopened = theirs(c"/dev/null".as_ptr(), mode.as_ptr().cast());
    forget_replaced(before, was_ours);
    if reopened.is_null() {
        let error = crate::answer::errno();
        super::close_any_descriptor(descriptor);
        crate::answer::set_errno(error);
        return null_mut();
    }
    let number = streams::descriptor_of(reopened);
    let flags = parsed.flags & libc::O_CLOEXEC;
    let duplicate = libc_function!(c"dup3", fn(c_int, c_int, c_int) -> c_int);
    if duplicate(descriptor, number, flags) >= 0 {
        descriptors::duplicated(descriptor, number);
    }
    super::close_any_descriptor(descriptor);
    reopened
}

/// Where streams of ours are made of functions: libc cannot reopen such a one, nor make one of a stream of its own.
fn reopen_without_tables(
    name: *const c_char,
    mode: *const c_char,
    stream: *mut FILE,
    theirs: impl Fn(*const c_char, *const c_char) -> *mut FILE,
) -> *mut FILE {
    let number = libc_function!(c"fileno", fn(*mut FILE) -> c_int)(stream);
    let ours = number < 0 || (!name.is_null() && super::path_is_ours(libc::AT_FDCWD, name));
    if !ours {
        return theirs(name, mode);
    }
    libc_function!(c"fclose", fn(*mut FILE) -> c_int)(stream);
    fail(Errno::OPNOTSUPP)
}

#[inline(never)]
fn reopen_any(
    name: *const c_char,
    mode: *const c_char,
    stream: *mut FILE,
    theirs: impl Fn(*const c_char, *const c_char) -> *mut FILE,
) -> *mut FILE {
    if !streams::usable() {
        return reopen_without_tables(name, mode, stream, theirs);
    }
    let before = streams::descriptor_of(stream);
    let ours_before = descriptors::find(before);
    let parsed = match parse(mode) {
        Ok(parsed) => parsed,
        Err(error) => return fail(error),
    };
    let opened = match (name.is_null(), ours_before) {
        (true, Some(file)) => reopen(file, parsed.flags & !libc::O_EXCL),
        (true, None) => return theirs(name, mode),
        (false, _) => {
            let kernel = libc_function!(c"openat", fn(c_int, *const c_char, c_int, libc::mode_t) -> c_int);
            let wish = Wish { directory: libc::AT_FDCWD, name, flags: parsed.flags, mode: 0o666 };
            let theirs = |directory, name| kernel(directory, name, parsed.flags, 0o666);
            match open_anywhere(wish, theirs, |_| false, give) {
                -1 => Err(Errno::from_raw_os_error(crate::answer::errno())),
                descriptor => Ok(descriptor),
            }
        }
    };
    match opened {
        Ok(descriptor) => reopen_with(descriptor, &parsed, stream, theirs),
        Err(error) => {
            // The stream is closed also when the file cannot be opened.
            libc_function!(c"fclose", fn(*mut FILE) -> c_int)(stream);
            fail(error)
        }
    }
}

hooks! {
    fn fopen(name: *const c_char, mode: *const c_char) -> *mut FILE, also fopen64, also _IO_fopen {
        if path::surely_foreign(libc::AT_FDCWD, name) {
            let stream = next(name, mode);
            if !stream.is_null() || !covered::explains_error() {
                return stream;
            }
        }
        open_stream(name, mode, |name| next(name, mode))
    }

    fn freopen(name: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE, also freopen64 {
        let foreign = !name.is_null() && path::surely_foreign(libc::AT_FDCWD, name);
        if !crate::state::configured() || (foreign && !crate::state::attached()) {
            return next(name, mode, stream);
        }
        reopen_any(name, mode, stream, |name, mode| next(name, mode, stream))
    }

    fn fdopen(descriptor: c_int, mode: *const c_char) -> *mut FILE, also _IO_fdopen {
        let Some(file) = descriptors::find(descriptor) else { return next(descriptor, mode) };
        let parsed = match parse(mode) {
            Ok(parsed) => parsed,
            Err(error) => return fail(error),
        };
        if !streams::usable() {
            return stream_by_functions(descriptor, &parsed);
        }
        let stream = next(descriptor, parsed.text.as_ptr().cast());
        if !stream.is_null() && parsed.flags & libc::O_APPEND != 0 {
            // libc has told the placeholder only.
            let _ =
                call::call(|file_system, _| file_system.set_flags(file, file_system.flags_of(file)? | libc::O_APPEND));
        }
        stream
    }
}

/// `cookie_io_functions_t`.
#[repr(C)]
struct Functions {
    read: extern "C" fn(*mut c_void, *mut c_char, usize) -> isize,
    write: extern "C" fn(*mut c_void, *const c_char, usize) -> isize,
    seek: extern "C" fn(*mut c_void, *mut i64, c_int) -> c_int,
    close: extern "C" fn(*mut c_void) -> c_int,
}

unsafe extern "C" {
    safe fn fopencookie(cookie: *mut c_void, mode: *const c_char, functions: Functions) -> *mut FILE;
}

/// A stream without a descriptor number, for a libc whose streams we do not know.
fn stream_by_functions(descriptor: c_int, mode: &Mode) -> *mut FILE {
    let functions = Functions { read: cookie_read, write: cookie_write, seek: cookie_seek, close: cookie_close };
    fopencookie(descriptor as usize as *mut c_void, mode.text.as_ptr().cast(), functions)
}

extern "C" fn cookie_read(cookie: *mut c_void, buffer: *mut c_char, length: usize) -> isize {
    super::data::read(cookie as usize as c_int, buffer.cast(), length)
}

/// A cookie's writer says 0, not -1, for an error.
extern "C" fn cookie_write(cookie: *mut c_void, buffer: *const c_char, length: usize) -> isize {
    super::data::write(cookie as usize as c_int, buffer.cast(), length).max(0)
}

extern "C" fn cookie_seek(cookie: *mut c_void, offset: *mut i64, whence: c_int) -> c_int {
    // SAFETY: libc passes a place of its own.
    let place = unsafe { &mut *offset };
    match super::data::lseek(cookie as usize as c_int, *place, whence) {
        -1 => -1,
        position => {
            *place = position;
            0
        }
    }
}

extern "C" fn cookie_close(cookie: *mut c_void) -> c_int {
    give(descriptors::close(cookie as usize as c_int))
}
