//! What `fts_open` and its kin give to programs: their two structures, and lists of entries.

use crate::answer::set_errno;
use core::ffi::{CStr, c_char, c_int, c_long, c_short, c_ushort, c_void};
use core::mem::offset_of;
use core::ptr::null_mut;

pub(super) const FOLLOW_ROOTS: c_int = 0x01;
pub(super) const LOGICAL: c_int = 0x02;
pub(super) const NO_STAT: c_int = 0x08;
pub(super) const PHYSICAL: c_int = 0x10;
pub(super) const SEE_DOT: c_int = 0x20;
pub(super) const ONE_DEVICE: c_int = 0x40;
pub(super) const OPTIONS: c_int = 0xff;
pub(super) const NAMES_ONLY: c_int = 0x100;
pub(super) const STOPPED: c_int = 0x200;
/// In the options of a stream: it is one of ours.
pub(super) const OURS: c_int = 1 << 20;

pub(super) const DIRECTORY: c_ushort = 1;
pub(super) const CYCLE: c_ushort = 2;
pub(super) const OTHER: c_ushort = 3;
pub(super) const UNREADABLE: c_ushort = 4;
pub(super) const DOT: c_ushort = 5;
pub(super) const DIRECTORY_AFTER: c_ushort = 6;
pub(super) const FAILED: c_ushort = 7;
pub(super) const FILE: c_ushort = 8;
pub(super) const BEGINNING: c_ushort = 9;
pub(super) const NO_ATTRIBUTES: c_ushort = 10;
pub(super) const NOT_ASKED: c_ushort = 11;
pub(super) const LINK: c_ushort = 12;
pub(super) const DANGLING: c_ushort = 13;

pub(super) const AGAIN: c_ushort = 1;
pub(super) const FOLLOW: c_ushort = 2;
pub(super) const NOTHING: c_ushort = 3;
pub(super) const SKIP: c_ushort = 4;

pub(super) const ROOT_LEVEL: c_short = 0;

pub(super) type Compare = extern "C" fn(*const *const Entry, *const *const Entry) -> c_int;

pub(super) type CompareAny = extern "C" fn(*const c_void, *const c_void) -> c_int;

/// `FTS`.
#[repr(C)]
pub(in crate::hooks) struct Stream {
    pub(super) current: *mut Entry,
    pub(super) child: *mut Entry,
    pub(super) array: *mut *mut Entry,
    pub(super) device: libc::dev_t,
    pub(super) path: *mut c_char,
    pub(super) descriptor: c_int,
    pub(super) path_length: c_int,
    pub(super) items: c_int,
    pub(super) compare: Option<Compare>,
    pub(super) options: c_int,
}

/// `FTSENT`; the name is longer than its one place, and what the other pointers lead to lies behind it.
#[repr(C)]
pub(in crate::hooks) struct Entry {
    pub(super) cycle: *mut Entry,
    pub(super) parent: *mut Entry,
    pub(super) link: *mut Entry,
    pub(super) number: c_long,
    pub(super) pointer: *mut c_void,
    pub(super) access_path: *mut c_char,
    pub(super) path: *mut c_char,
    pub(super) error: c_int,
    pub(super) link_descriptor: c_int,
    pub(super) path_length: c_ushort,
    pub(super) name_length: c_ushort,
    pub(super) inode: libc::ino_t,
    pub(super) device: libc::dev_t,
    pub(super) links: libc::nlink_t,
    pub(super) level: c_short,
    pub(super) info: c_ushort,
    pub(super) flags: c_ushort,
    pub(super) instruction: c_ushort,
    pub(super) attributes: *mut libc::stat,
    pub(super) name: [c_char; 1],
}

/// An entry of libc's heap with this name and path; null when there is no memory.
pub(super) fn allocate(name: &[u8], beginning: &[u8]) -> *mut Entry {
    let name_at = offset_of!(Entry, name);
    let attributes_at = (name_at + name.len() + 1).next_multiple_of(align_of::<libc::stat>());
    let path_at = attributes_at + size_of::<libc::stat>();
    let path_length = beginning.len() + name.len();
    if path_length > c_ushort::MAX as usize {
        set_errno(libc::ENAMETOOLONG);
        return null_mut();
    }
    // SAFETY: zeros are valid for all fields; every place below lies in the memory asked for.
    unsafe {
        let entry = libc::calloc(1, path_at + path_length + 1).cast::<Entry>();
        if entry.is_null() {
            return entry;
        }
        let base = entry.cast::<u8>();
        core::ptr::copy_nonoverlapping(name.as_ptr(), base.add(name_at), name.len());
        core::ptr::copy_nonoverlapping(beginning.as_ptr(), base.add(path_at), beginning.len());
        core::ptr::copy_nonoverlapping(name.as_ptr(), base.add(path_at + beginning.len()), name.len());
        (*entry).attributes = base.add(attributes_at).cast();
        (*entry).path = base.add(path_at).cast();
        (*entry).access_path = (*entry).path;
        (*entry).name_length = name.len() as c_ushort;
        (*entry).path_length = path_length as c_ushort;
        (*entry).instruction = NOTHING;
        entry
    }
}

pub(super) fn release(entry: *mut Entry) {
    // SAFETY: null, or made by `allocate`.
    unsafe { libc::free(entry.cast()) }
}

/// # Safety
/// `entry` must begin a list of entries made by `allocate`, to which nothing else leads any more.
pub(super) unsafe fn release_list(mut entry: *mut Entry) {
    while !entry.is_null() {
        // SAFETY: by the function's contract.
        let next = unsafe { (*entry).link };
        release(entry);
        entry = next;
    }
}

impl Entry {
    pub(super) fn name(&self) -> &CStr {
        // SAFETY: `allocate` has put a C string there.
        unsafe { CStr::from_ptr((&raw const self.name).cast()) }
    }

    pub(super) fn path(&self) -> &[u8] {
        // SAFETY: as above.
        unsafe { CStr::from_ptr(self.path) }.to_bytes()
    }

    pub(super) fn is_dot(&self) -> bool {
        self.name() == c"." || self.name() == c".."
    }
}

/// A list that grows at its end.
pub(super) struct Found {
    pub(super) first: *mut Entry,
    pub(super) last: *mut Entry,
    pub(super) count: usize,
}

impl Found {
    /// # Safety
    /// `entry` must be new.
    pub(super) unsafe fn append(&mut self, entry: *mut Entry) {
        if self.last.is_null() {
            self.first = entry;
        } else {
            // SAFETY: the last entry of this list.
            unsafe { (*self.last).link = entry };
        }
        self.last = entry;
        self.count += 1;
    }
}
