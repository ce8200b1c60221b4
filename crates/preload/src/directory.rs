//! Directory streams of ours: objects that only this library looks into, told from libc's by their address.

use crate::{call, descriptors};
use core::cell::UnsafeCell;
use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use lifeboat_fs::{DirEntry, Errno, Result};

/// Most streams that a process has open at a time.
const STREAMS_MAX: usize = 1024;

/// One stream.
pub struct Stream {
    taken: AtomicBool,
    descriptor: UnsafeCell<c_int>,
    /// Where reading goes on. Atomic only because a program may ask from several threads.
    cookie: AtomicU64,
    /// What `readdir` pointed its caller at last.
    entry: UnsafeCell<libc::dirent64>,
}

// SAFETY: `descriptor` is written before the stream is handed out; `entry` belongs to the thread that reads the stream,
// as POSIX leaves it to the program not to read one stream from two threads at once.
unsafe impl Sync for Stream {}

/// An entry of zeros.
const fn empty_entry() -> libc::dirent64 {
    // SAFETY: a C structure of integers, for which zeros are valid.
    unsafe { core::mem::zeroed() }
}

static STREAMS: [Stream; STREAMS_MAX] = [const {
    Stream {
        taken: AtomicBool::new(false),
        descriptor: UnsafeCell::new(-1),
        cookie: AtomicU64::new(0),
        entry: UnsafeCell::new(empty_entry()),
    }
}; STREAMS_MAX];

/// The stream behind a `DIR *`, if it is ours.
#[inline(always)]
pub fn ours(pointer: *const libc::DIR) -> Option<&'static Stream> {
    let distance = (pointer as usize).wrapping_sub(STREAMS.as_ptr() as usize);
    if distance >= size_of_val(&STREAMS) || !distance.is_multiple_of(size_of::<Stream>()) {
        return None;
    }
    STREAMS.get(distance / size_of::<Stream>())
}

/// A stream that reads `descriptor`, which must be a directory of ours and belongs to the stream from now on.
///
/// # Errors
/// ENOTDIR, EBADF, or EMFILE when too many streams are open.
pub fn open(descriptor: c_int) -> Result<*mut libc::DIR> {
    let file = descriptors::find(descriptor).ok_or(Errno::BADF)?;
    call::call(|file_system, _| {
        if file_system.flags_of(file)? & libc::O_PATH != 0 {
            let mode = file_system.stat(file_system.inode_of(file)?)?.mode;
            return Err(if mode & libc::S_IFMT == libc::S_IFDIR { Errno::BADF } else { Errno::NOTDIR });
        }
        let mode = file_system.stat(file_system.inode_of(file)?)?.mode;
        if mode & libc::S_IFMT == libc::S_IFDIR { Ok(()) } else { Err(Errno::NOTDIR) }
    })?;
    for stream in &STREAMS {
        if stream.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            // SAFETY: nobody else has the stream yet.
            unsafe { *stream.descriptor.get() = descriptor };
            stream.cookie.store(0, Ordering::Relaxed);
            return Ok((stream as *const Stream).cast_mut().cast());
        }
    }
    Err(Errno::MFILE)
}

impl Stream {
    /// The descriptor that is read.
    pub fn descriptor(&self) -> c_int {
        // SAFETY: written before the stream was handed out.
        unsafe { *self.descriptor.get() }
    }

    /// Where reading goes on.
    pub fn cookie(&self) -> u64 {
        self.cookie.load(Ordering::Relaxed)
    }

    /// Sets where reading goes on: 0, or what `cookie` said.
    pub fn set_cookie(&self, cookie: u64) {
        self.cookie.store(cookie, Ordering::Relaxed);
    }

    /// The next entry, valid until the next call; null at the end.
    pub fn read(&self) -> Result<*mut libc::dirent64> {
        let Some(found) = self.step()? else { return Ok(core::ptr::null_mut()) };
        // SAFETY: see the type.
        let entry = unsafe { &mut *self.entry.get() };
        fill(entry, &found);
        Ok(entry)
    }

    fn step(&self) -> Result<Option<DirEntry>> {
        let file = descriptors::find(self.descriptor()).ok_or(Errno::BADF)?;
        let found = call::call_once(|file_system, _| file_system.read_dir(file, self.cookie()))?;
        if let Some(found) = &found {
            self.set_cookie(found.next);
        }
        Ok(found)
    }

    /// Gives the stream back; the descriptor is the caller's to close.
    pub fn give_back(&self) -> c_int {
        let descriptor = self.descriptor();
        self.taken.store(false, Ordering::Release);
        descriptor
    }
}

/// Writes an entry in the form of the C structure.
pub fn fill(entry: &mut libc::dirent64, found: &DirEntry) {
    let name = found.name();
    entry.d_ino = found.inode;
    entry.d_off = found.next as i64;
    entry.d_type = found.kind;
    entry.d_reclen = record_length(name.len()) as u16;
    for (to, &from) in entry.d_name.iter_mut().zip(name) {
        *to = from as libc::c_char;
    }
    if let Some(end) = entry.d_name.get_mut(name.len()) {
        *end = 0;
    }
}

/// Bytes of a directory record for a name of this length.
pub fn record_length(name: usize) -> usize {
    (core::mem::offset_of!(libc::dirent64, d_name) + name + 1).next_multiple_of(8)
}
