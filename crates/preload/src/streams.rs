//! libc's own `FILE` over our descriptors: the read, write, seek, close and stat slots of its jump tables are replaced
//! by functions that look whether the stream's descriptor is ours.
//!
//! libc calls these slots inside itself, where no symbol can be interposed. Before anything is changed, the tables and
//! the layout of `FILE` are compared with what this library knows of them; where they differ, streams are made with
//! `fopencookie` instead ([`usable`]).

use crate::answer::{fail, give};
use crate::{call, descriptors, real, user};
use core::ffi::{CStr, c_int, c_void};
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use lifeboat_fs::{Errno, Position};

/// Places of the slots in a table of pointers.
const READ: usize = 14;
const WRITE: usize = 15;
const SEEK: usize = 16;
const CLOSE: usize = 17;
const STAT: usize = 18;

/// Places of fields in `FILE`.
const DESCRIPTOR_AT: usize = 112;
const OFFSET_AT: usize = 144;
const TABLE_AT: usize = 216;

const UNTRIED: u8 = 0;
const USABLE: u8 = 1;
const UNKNOWN_LIBC: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNTRIED);

type Slot = (usize, &'static CStr, usize);

/// What was in the slots before: the next to call for a stream that is not ours.
static BEFORE: [AtomicUsize; 5] = [const { AtomicUsize::new(0) }; 5];

fn slots() -> [Slot; 5] {
    [
        (READ, c"_IO_file_read", read_slot as *const () as usize),
        (WRITE, c"_IO_file_write", write_slot as *const () as usize),
        (SEEK, c"_IO_file_seek", seek_slot as *const () as usize),
        (CLOSE, c"_IO_file_close", close_slot as *const () as usize),
        (STAT, c"_IO_file_stat", stat_slot as *const () as usize),
    ]
}

/// Whether libc's streams work on our descriptors.
pub fn usable() -> bool {
    prepare();
    STATE.load(Ordering::Acquire) == USABLE
}

/// Replaces the slots, once. Called while the region is attached, so before any stream can hold a descriptor of ours.
pub fn prepare() {
    if STATE.load(Ordering::Acquire) != UNTRIED {
        return;
    }
    if functions_wanted() {
        return STATE.store(UNKNOWN_LIBC, Ordering::Release);
    }
    let tables = [real::look_up(c"_IO_file_jumps"), real::look_up(c"_IO_wfile_jumps")];
    let known = known_layout(tables[0]) && tables.iter().all(|&table| known_table(table));
    let replaced = known && tables.iter().all(|&table| replace(table));
    STATE.store(if replaced { USABLE } else { UNKNOWN_LIBC }, Ordering::Release);
}

/// Whether the environment asks for streams without changed tables, as on a libc whose tables are not known:
/// `LIFEBOAT_STDIO=functions`.
fn functions_wanted() -> bool {
    // SAFETY: libc's own list; what is found is a C string.
    let wish = unsafe { libc::getenv(c"LIFEBOAT_STDIO".as_ptr()) };
    // SAFETY: as above.
    !wish.is_null() && unsafe { CStr::from_ptr(wish) } == c"functions"
}

/// Whether each slot holds the function of that name.
fn known_table(table: usize) -> bool {
    table != 0
        && slots().iter().enumerate().all(|(index, (place, name, _))| {
            // SAFETY: libc's table is longer than the highest slot; it is only read.
            let found = unsafe { *(table as *const usize).add(*place) };
            BEFORE[index].store(found, Ordering::Release);
            found != 0 && found == real::look_up(name)
        })
}

/// Whether the three standard streams show the fields where they are expected.
fn known_layout(table: usize) -> bool {
    let standard = [(c"_IO_2_1_stdin_", 0), (c"_IO_2_1_stdout_", 1), (c"_IO_2_1_stderr_", 2)];
    table != 0
        && standard.iter().all(|(name, number)| {
            let stream = real::look_up(name);
            if stream == 0 {
                return false;
            }
            // SAFETY: these are objects of libc, longer than the fields; nobody changes them before `main`, and a
            // program that already closed one shows another number, which makes this false.
            unsafe {
                let descriptor = *((stream + DESCRIPTOR_AT) as *const c_int);
                let offset = *((stream + OFFSET_AT) as *const i64);
                let jumps = *((stream + TABLE_AT) as *const usize);
                (descriptor == *number || descriptor == -1) && offset >= -1 && jumps.abs_diff(table) < 65536
            }
        })
}

/// Writes the slots of a table, which lies in memory that the linker made read-only.
fn replace(table: usize) -> bool {
    use rustix::mm::{MprotectFlags, mprotect};
    const PAGE: usize = 4096;
    let from = table & !(PAGE - 1);
    let to = (table + (STAT + 1) * size_of::<usize>()).next_multiple_of(PAGE);
    // SAFETY: the pages hold libc's relocated constants; making them writable changes nothing by itself.
    if unsafe { mprotect(from as *mut c_void, to - from, MprotectFlags::READ | MprotectFlags::WRITE) }.is_err() {
        return false;
    }
    for (place, _, function) in slots() {
        // SAFETY: writable now; `known_table` has seen this slot. Other threads may read it, so the store is atomic.
        unsafe { AtomicUsize::from_ptr((table as *mut usize).add(place)) }.store(function, Ordering::Release);
    }
    // SAFETY: as above.
    let _ = unsafe { mprotect(from as *mut c_void, to - from, MprotectFlags::READ) };
    true
}

/// Descriptor of a stream.
pub fn descriptor_of(stream: *mut libc::FILE) -> c_int {
    // SAFETY: a stream of libc, whose layout was compared before the slots were replaced.
    unsafe { *stream.cast::<u8>().add(DESCRIPTOR_AT).cast::<c_int>() }
}

macro_rules! before {
    ($index:literal, fn($($kind:ty),*) -> $answer:ty) => {
        {
            let address = BEFORE[$index].load(Ordering::Relaxed);
            // SAFETY: the function that was in this slot has this signature, by its name.
            unsafe { core::mem::transmute::<usize, extern "C" fn($($kind),*) -> $answer>(address) }
        }
    };
}

extern "C" fn read_slot(stream: *mut libc::FILE, buffer: *mut c_void, length: isize) -> isize {
    match descriptors::find(descriptor_of(stream)) {
        None => before!(0, fn(*mut libc::FILE, *mut c_void, isize) -> isize)(stream, buffer, length),
        Some(file) => {
            let target = [user::target(buffer, length.max(0) as usize)];
            give(call::data(|file_system| file_system.read(file, &target, Position::Current)))
        }
    }
}

/// libc's own function writes everything or says why not, counts what came before the error, and moves the offset that
/// the stream remembers.
extern "C" fn write_slot(stream: *mut libc::FILE, buffer: *const c_void, length: isize) -> isize {
    let Some(file) = descriptors::find(descriptor_of(stream)) else {
        return before!(1, fn(*mut libc::FILE, *const c_void, isize) -> isize)(stream, buffer, length);
    };
    let length = length.max(0) as usize;
    let mut done = 0;
    while done < length {
        match crate::hooks::write_one(file, buffer.wrapping_byte_add(done), length - done, Position::Current) {
            Ok(count) => done += count,
            Err(error) => {
                mark_failed(stream);
                let _: isize = fail(error);
                break;
            }
        }
    }
    // SAFETY: as in `descriptor_of`; libc holds the stream's lock while it calls a slot.
    unsafe {
        let offset = stream.cast::<u8>().add(OFFSET_AT).cast::<i64>();
        if *offset >= 0 {
            *offset += done as i64;
        }
    }
    done as isize
}

/// Sets the stream's error flag.
fn mark_failed(stream: *mut libc::FILE) {
    const ERROR_SEEN: c_int = 0x20;
    // SAFETY: the flags are the first field of a stream; see `write_slot`.
    unsafe { *stream.cast::<c_int>() |= ERROR_SEEN }
}

extern "C" fn seek_slot(stream: *mut libc::FILE, offset: i64, whence: c_int) -> i64 {
    match descriptors::find(descriptor_of(stream)) {
        None => before!(2, fn(*mut libc::FILE, i64, c_int) -> i64)(stream, offset, whence),
        Some(file) => match u32::try_from(whence) {
            Ok(whence) => give(call::data(|file_system| file_system.seek(file, offset, whence))),
            Err(_) => fail(Errno::INVAL),
        },
    }
}

extern "C" fn close_slot(stream: *mut libc::FILE) -> c_int {
    let descriptor = descriptor_of(stream);
    match descriptors::find(descriptor) {
        None => before!(3, fn(*mut libc::FILE) -> c_int)(stream),
        Some(_) => give(descriptors::close(descriptor)),
    }
}

extern "C" fn stat_slot(stream: *mut libc::FILE, into: *mut c_void) -> c_int {
    match descriptors::find(descriptor_of(stream)) {
        None => before!(4, fn(*mut libc::FILE, *mut c_void) -> c_int)(stream, into),
        Some(file) => crate::hooks::stat_open(file, into.cast()),
    }
}
