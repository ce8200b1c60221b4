//! The scalar twin in plain Rust, for processors that have no routines of their own yet.
//!
//! It gives the same bytes, but no fault can be repaired: memory that cannot be touched ends the process.

use core::ffi::c_void;

use crate::{Fault, Level, MustFence, crc};

/// What this machine offers.
#[derive(Clone, Copy)]
pub(crate) struct Detected {
    pub(crate) level: Level,
}

pub(crate) fn detected() -> Detected {
    Detected { level: Level::Scalar }
}

pub(crate) fn store_fence() {
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}

pub(crate) fn fixup(_instruction: usize) -> Option<usize> {
    None
}

/// # Safety
/// None: nothing is touched.
pub(crate) unsafe fn handle(_signal: i32, _info: *const c_void, _context: *mut c_void) -> bool {
    false
}

/// # Safety
/// Both sides can be touched for `len` bytes and do not overlap.
pub(crate) unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe { core::ptr::copy_nonoverlapping(src, dst, len) };
    Ok(())
}

/// # Safety
/// As [`copy`].
pub(crate) unsafe fn copy_streamed(dst: *mut u8, src: *const u8, len: usize) -> Result<MustFence, Fault> {
    // SAFETY: the caller's promise.
    unsafe { copy(dst, src, len) }?;
    Ok(MustFence::nothing())
}

/// # Safety
/// As [`copy`].
pub(crate) unsafe fn copy_streamed_checksum(
    dst: *mut u8,
    src: *const u8,
    len: usize,
    state: u32,
) -> Result<(MustFence, u32), Fault> {
    // SAFETY: the caller's promise.
    unsafe { copy(dst, src, len) }?;
    // SAFETY: as above.
    Ok((MustFence::nothing(), unsafe { checksum(state, src, len) }?))
}

/// # Safety
/// `dst` can be written for `len` bytes.
pub(crate) unsafe fn zero(dst: *mut u8, len: usize) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe { core::ptr::write_bytes(dst, 0, len) };
    Ok(())
}

/// # Safety
/// As [`zero`].
pub(crate) unsafe fn zero_streamed(dst: *mut u8, len: usize) -> Result<MustFence, Fault> {
    // SAFETY: the caller's promise.
    unsafe { zero(dst, len) }?;
    Ok(MustFence::nothing())
}

/// # Safety
/// `src` can be read up to its NUL or `max + 1` bytes, `dst` can be written for `max` bytes.
pub(crate) unsafe fn copy_string(dst: *mut u8, src: *const u8, max: usize) -> Result<Option<usize>, Fault> {
    for place in 0..=max {
        // SAFETY: no NUL came before `place`, which is not above `max`.
        let byte = unsafe { src.wrapping_add(place).read_volatile() };
        if byte == 0 {
            return Ok(Some(place));
        }
        if place < max {
            // SAFETY: below `max`.
            unsafe { dst.wrapping_add(place).write(byte) };
        }
    }
    Ok(None)
}

pub(crate) fn prefetch(_src: *const u8, _len: usize) {}

/// # Safety
/// `src` can be read up to its NUL or two bytes.
pub(crate) unsafe fn first_two(src: *const u8) -> Result<[u8; 2], Fault> {
    // SAFETY: the caller's promise.
    match unsafe { src.read_volatile() } {
        0 => Ok([0, 0]),
        // SAFETY: no NUL came before.
        first => Ok([first, unsafe { src.wrapping_add(1).read_volatile() }]),
    }
}

/// # Safety
/// `src` can be read for `len` bytes.
pub(crate) unsafe fn checksum(state: u32, src: *const u8, len: usize) -> Result<u32, Fault> {
    if len == 0 {
        return Ok(state);
    }
    // SAFETY: the caller's promise.
    Ok(crc::update_scalar(state, unsafe { core::slice::from_raw_parts(src, len) }))
}
