//! Directory streams, and libc's functions that read directories by themselves.

use crate::answer::{fail, give};
use crate::opening::{Wish, open_anywhere, open_at};
use crate::{call, covered, descriptors, directory, state, user};
use core::ffi::{c_char, c_int, c_long, c_void};
use core::ptr::null_mut;
use libc::{DIR, dirent64};
use lifeboat_fs::{Errno, OpenFile, Result};

const READ_DIRECTORY: c_int = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NONBLOCK;

fn open_stream(descriptor: Result<c_int>) -> Result<*mut DIR> {
    let descriptor = descriptor?;
    directory::open(descriptor).inspect_err(|_| {
        let _ = descriptors::close(descriptor);
    })
}

/// Whether a new stream of the kernel's is of the covered directory; closed then.
fn close_if_covered(stream: *mut DIR) -> bool {
    let found = covered::is(libc_function!(c"dirfd", fn(*mut DIR) -> c_int)(stream));
    if found {
        libc_function!(c"closedir", fn(*mut DIR) -> c_int)(stream);
    }
    found
}

/// Puts the root of the mount in place of a descriptor of the covered directory.
#[cold]
#[inline(never)]
fn become_root(descriptor: c_int) -> Result<()> {
    let root = state::file_system()?.root();
    let close_on_exec = rustix::io::fcntl_getfd(descriptors::borrow(descriptor)?)?;
    let flags = if close_on_exec.is_empty() { 0 } else { libc::O_CLOEXEC };
    let opened = open_at(root, b"/", READ_DIRECTORY & !libc::O_CLOEXEC, 0)?;
    let replaced = super::descriptor::dup3(opened, descriptor, flags);
    let _ = descriptors::close(opened);
    if replaced < 0 { Err(Errno::from_raw_os_error(crate::answer::errno())) } else { Ok(()) }
}

/// Fills a buffer with directory records, as the system call does.
fn records(file: OpenFile, buffer: *mut c_char, length: usize) -> Result<usize> {
    let mut used = 0;
    loop {
        let position = call::data(|file_system| file_system.seek(file, 0, libc::SEEK_CUR as u32))?;
        let Some(found) = call::call_once(|file_system, _| file_system.read_dir(file, position))? else {
            return Ok(used);
        };
        let size = directory::record_length(found.name().len());
        if used + size > length {
            return if used > 0 { Ok(used) } else { Err(Errno::INVAL) };
        }
        // SAFETY: a C structure of integers, for which zeros are valid.
        let mut entry: dirent64 = unsafe { core::mem::zeroed() };
        directory::fill(&mut entry, &found);
        // SAFETY: the record is not longer than the structure.
        let bytes = unsafe { core::slice::from_raw_parts((&raw const entry).cast::<u8>(), size) };
        user::put_bytes(buffer.wrapping_add(used), bytes)?;
        used += size;
        call::data(|file_system| file_system.seek(file, found.next as i64, libc::SEEK_SET as u32))?;
    }
}

hooks! {
    fn opendir(name: *const c_char) -> *mut DIR {
        let wish = Wish { directory: libc::AT_FDCWD, name, flags: READ_DIRECTORY, mode: 0 };
        open_anywhere(
            wish,
            |_, name| next(name),
            |&stream| close_if_covered(stream),
            |descriptor| give(open_stream(descriptor)),
        )
    }

    fn fdopendir(descriptor: c_int) -> *mut DIR {
        if descriptors::find(descriptor).is_none() {
            if !covered::is(descriptor) {
                return next(descriptor);
            }
            if let Err(error) = become_root(descriptor) {
                return fail(error);
            }
        }
        give(directory::open(descriptor))
    }

    fn readdir(stream: *mut DIR) -> *mut dirent64, also readdir64 {
        match directory::ours(stream) {
            None => next(stream),
            Some(stream) => give(stream.read()),
        }
    }

    fn readdir_r(stream: *mut DIR, entry: *mut dirent64, result: *mut *mut dirent64) -> c_int, also readdir64_r {
        let Some(stream) = directory::ours(stream) else { return next(stream, entry, result) };
        match stream.read() {
            Err(error) => error.raw_os_error(),
            Ok(found) => {
                let end = found.is_null();
                // SAFETY: `found` points at the stream's entry, which lives as long as the stream.
                let copied = if end { Ok(()) } else { user::put(entry, unsafe { &*found }) };
                let answer = if end { null_mut() } else { entry };
                crate::answer::number(copied.and_then(|()| user::put(result, &answer)))
            }
        }
    }

    fn closedir(stream: *mut DIR) -> c_int {
        match directory::ours(stream) {
            None => next(stream),
            Some(stream) => give(descriptors::close(stream.give_back())),
        }
    }

    fn dirfd(stream: *mut DIR) -> c_int {
        match directory::ours(stream) {
            None => next(stream),
            Some(stream) => stream.descriptor(),
        }
    }

    fn telldir(stream: *mut DIR) -> c_long {
        match directory::ours(stream) {
            None => next(stream),
            Some(stream) => stream.cookie() as c_long,
        }
    }

    fn getdirentries(
        descriptor: c_int,
        buffer: *mut c_char,
        length: usize,
        base: *mut libc::off_t,
    ) -> isize, also getdirentries64 {
        let Some(file) = descriptors::find(descriptor) else { return next(descriptor, buffer, length, base) };
        let before = call::data(|file_system| file_system.seek(file, 0, libc::SEEK_CUR as u32));
        give(before.and_then(|before| user::put(base, &(before as libc::off_t))).and_then(|()| records(file, buffer, length)))
    }

    fn getdents64(descriptor: c_int, buffer: *mut c_void, length: usize) -> isize {
        match descriptors::find(descriptor) {
            None => next(descriptor, buffer, length),
            Some(file) => give(records(file, buffer.cast(), length)),
        }
    }
}

/// `rewinddir`: reading starts again.
#[unsafe(no_mangle)]
extern "C" fn rewinddir(stream: *mut DIR) {
    match directory::ours(stream) {
        Some(stream) => stream.set_cookie(0),
        None => libc_function!(c"rewinddir", fn(*mut DIR) -> ())(stream),
    }
}

/// `seekdir`: reading goes on where `telldir` was asked.
#[unsafe(no_mangle)]
extern "C" fn seekdir(stream: *mut DIR, cookie: c_long) {
    match directory::ours(stream) {
        Some(stream) => stream.set_cookie(cookie as u64),
        None => libc_function!(c"seekdir", fn(*mut DIR, c_long) -> ())(stream, cookie),
    }
}

type Filter = Option<extern "C" fn(*const dirent64) -> c_int>;
type Compare = Option<unsafe extern "C" fn(*const c_void, *const c_void) -> c_int>;

/// Collects a directory's entries in memory from libc's heap, as the caller will free it there.
fn collect(stream: *mut DIR, list: *mut *mut *mut dirent64, filter: Filter, compare: Compare) -> Result<c_int> {
    let mut found: *mut *mut dirent64 = null_mut();
    let (mut count, mut room) = (0usize, 0usize);
    let result = loop {
        let Some(reading) = directory::ours(stream) else { break Err(Errno::BADF) };
        let entry = match reading.read() {
            Ok(entry) if entry.is_null() => break Ok(()),
            Ok(entry) => entry,
            Err(error) => break Err(error),
        };
        if filter.is_some_and(|filter| filter(entry) == 0) {
            continue;
        }
        if count == room {
            room = (room * 2).max(32);
            // SAFETY: `found` is null or came from this allocator.
            let grown = unsafe { libc::realloc(found.cast(), room * size_of::<*mut dirent64>()) };
            if grown.is_null() {
                break Err(Errno::NOMEM);
            }
            found = grown.cast();
        }
        // SAFETY: the entry is the stream's; `d_reclen` bytes of it are valid and at most its size; `count < room`.
        unsafe {
            let size = (*entry).d_reclen as usize;
            let copy = libc::malloc(size);
            if copy.is_null() {
                break Err(Errno::NOMEM);
            }
            core::ptr::copy_nonoverlapping(entry.cast::<u8>(), copy.cast(), size);
            *found.add(count) = copy.cast();
        }
        count += 1;
    };
    // SAFETY: `found` holds `count` pointers from this allocator; the caller's comparison is called with their places.
    unsafe {
        if let Err(error) = result {
            for index in 0..count {
                libc::free((*found.add(index)).cast());
            }
            libc::free(found.cast());
            return Err(error);
        }
        if compare.is_some() && count > 1 {
            libc::qsort(found.cast(), count, size_of::<*mut dirent64>(), compare);
        }
    }
    user::put(list, &found)?;
    c_int::try_from(count).map_err(|_| Errno::NOMEM)
}

fn scan(
    wish: Wish,
    list: *mut *mut *mut dirent64,
    filter: Filter,
    compare: Compare,
    theirs: impl Fn(c_int, *const c_char) -> c_int,
) -> c_int {
    // Reading the covered directory must not succeed before it is known for what it is.
    let theirs = |directory, name| {
        if state::configured() && covered::is_at(directory, name) {
            return fail(Errno::NOENT);
        }
        theirs(directory, name)
    };
    let ours = |descriptor| match open_stream(descriptor) {
        Err(error) => fail(error),
        Ok(stream) => {
            let result = collect(stream, list, filter, compare);
            closedir(stream);
            give(result)
        }
    };
    open_anywhere(wish, theirs, |_| false, ours)
}

hooks! {
    fn scandir(
        name: *const c_char,
        list: *mut *mut *mut dirent64,
        filter: Filter,
        compare: Compare,
    ) -> c_int, also scandir64 {
        let wish = Wish { directory: libc::AT_FDCWD, name, flags: READ_DIRECTORY, mode: 0 };
        scan(wish, list, filter, compare, |_, name| next(name, list, filter, compare))
    }

    fn scandirat(
        directory: c_int,
        name: *const c_char,
        list: *mut *mut *mut dirent64,
        filter: Filter,
        compare: Compare,
    ) -> c_int, also scandirat64 {
        let wish = Wish { directory, name, flags: READ_DIRECTORY, mode: 0 };
        scan(wish, list, filter, compare, |directory, name| next(directory, name, list, filter, compare))
    }
}

/// The part of `glob_t` that says how directories are read.
#[repr(C)]
pub(super) struct GlobResult {
    count: usize,
    paths: *mut *mut c_char,
    reserved: usize,
    flags: c_int,
    close: extern "C" fn(*mut DIR) -> c_int,
    read: extern "C" fn(*mut DIR) -> *mut dirent64,
    open: extern "C" fn(*const c_char) -> *mut DIR,
    lstat: *const c_void,
    stat: *const c_void,
}

const GLOB_ALTDIRFUNC: c_int = 1 << 9;

hooks! {
    fn glob(
        pattern: *const c_char,
        flags: c_int,
        on_error: *const c_void,
        result: *mut GlobResult,
    ) -> c_int, also glob64 {
        // A pattern may lead to the mount by a part that is still to be matched.
        if flags & GLOB_ALTDIRFUNC != 0 || !state::configured() {
            return next(pattern, flags, on_error, result);
        }
        // libc walks with functions that it is given, when it is told to; ours serve both kinds of directory.
        // SAFETY: the program passed a `glob_t` of its own.
        unsafe {
            (*result).close = closedir;
            (*result).read = readdir;
            (*result).open = opendir;
            (*result).lstat = super::stat::lstat as *const c_void;
            (*result).stat = super::stat::stat as *const c_void;
        }
        let answer = next(pattern, flags | GLOB_ALTDIRFUNC, on_error, result);
        // SAFETY: as above.
        unsafe { (*result).flags &= !GLOB_ALTDIRFUNC };
        answer
    }
}
