//! Mapping files. Address-space calls always go to the next libc symbol and never straight to the kernel: message
//! passing libraries watch them to know when memory that they registered goes away.

use crate::answer::fail;
use crate::descriptors;
use crate::mappings::{self, Wish};
use core::ffi::{c_int, c_void};
use libc::{off_t, size_t};
use lifeboat_fs::Errno;

/// `mmap` answers an address that is all ones on failure.
fn failed(error: Errno) -> *mut c_void {
    crate::answer::set_errno(error.raw_os_error());
    libc::MAP_FAILED
}

/// Maps a file of ours, or lets the kernel map whatever it is, by `theirs`.
pub(super) fn map(wish: Wish, theirs: mappings::Map) -> *mut c_void {
    if wish.descriptor >= 0
        && wish.flags & libc::MAP_ANONYMOUS == 0
        && let Some(file) = descriptors::find(wish.descriptor)
    {
        return mappings::map(file, wish, theirs).unwrap_or_else(failed);
    }
    let mapped = theirs(wish.address, wish.length, wish.protection, wish.flags, wish.descriptor, wish.offset);
    if wish.flags & libc::MAP_FIXED != 0 && mapped != libc::MAP_FAILED {
        mappings::removed(mapped as usize, wish.length);
    }
    mapped
}

/// Unmaps by `theirs`.
pub(super) fn unmap(address: *mut c_void, length: size_t, theirs: impl Fn() -> c_int) -> c_int {
    let answer = theirs();
    if answer == 0 && mappings::any() {
        mappings::removed(address as usize, length);
    }
    answer
}

/// Moves or resizes a mapping by `theirs`.
pub(super) fn remap(
    address: *mut c_void,
    length: size_t,
    new_length: size_t,
    flags: c_int,
    theirs: impl Fn() -> *mut c_void,
) -> *mut c_void {
    if !mappings::overlaps(address as usize, length) {
        let moved = theirs();
        if flags & libc::MREMAP_FIXED != 0 && moved != libc::MAP_FAILED {
            mappings::removed(moved as usize, new_length);
        }
        return moved;
    }
    if new_length > length {
        // What follows in the region belongs to other files.
        return failed(Errno::NOMEM);
    }
    let moved = theirs();
    if moved != libc::MAP_FAILED {
        if new_length < length {
            mappings::removed(address as usize + new_length, length - new_length);
        }
        if moved != address {
            mappings::moved(address as usize, new_length, moved as usize);
        }
    }
    moved
}

hooks! {
    fn mmap(
        address: *mut c_void,
        length: size_t,
        protection: c_int,
        flags: c_int,
        descriptor: c_int,
        offset: off_t,
    ) -> *mut c_void, also mmap64 {
        map(Wish { address, length, protection, flags, descriptor, offset }, next)
    }

    fn munmap(address: *mut c_void, length: size_t) -> c_int {
        unmap(address, length, || next(address, length))
    }

    fn mremap(
        address: *mut c_void,
        length: size_t,
        new_length: size_t,
        flags: c_int,
        new_address: *mut c_void,
    ) -> *mut c_void {
        remap(address, length, new_length, flags, || next(address, length, new_length, flags, new_address))
    }

    fn madvise(address: *mut c_void, length: size_t, advice: c_int) -> c_int {
        // Removing pages would take them from the region, which has promised them to the file.
        if advice == libc::MADV_REMOVE && mappings::overlaps(address as usize, length) {
            return fail(Errno::INVAL);
        }
        next(address, length, advice)
    }
}
