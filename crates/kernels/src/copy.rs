//! Copies between a region and memory of the program.

use core::sync::atomic::Ordering;

use crate::{Fault, MustFence, crc, machine, tuning};

/// Copies `len` bytes from anywhere into a region.
///
/// From [`tuning::STREAM_FROM`] bytes on, whole 64-byte lines are written past the caches; from
/// [`tuning::INTERLEAVE_FROM`] on, in four interleaved streams. Parts of lines at both ends are stored the ordinary way.
///
/// # Errors
/// [`Fault`] when a byte of either side cannot be touched; an unknown part of the destination is then written, and
/// already fenced.
///
/// # Safety
/// `dst` is memory that this process may change (or that cannot be touched), `src` any address, and the two do not
/// overlap. Memory that cannot be touched ends the process unless a handler calls [`fault::handle`](crate::fault::handle).
#[inline]
pub unsafe fn copy_in(dst: *mut u8, src: *const u8, len: usize) -> Result<MustFence, Fault> {
    if len < tuning::STREAM_FROM.load(Ordering::Relaxed) {
        // SAFETY: the caller's promise, handed on.
        unsafe { machine::copy(dst, src, len) }?;
        return Ok(MustFence::nothing());
    }
    // SAFETY: as above.
    unsafe { machine::copy_streamed(dst, src, len) }
}

/// Copies as [`copy_in`] does and continues the CRC-32C `crc` over the bytes while they are cached.
///
/// The checksum is taken from the source just after each piece was copied: a source that another thread changes
/// meanwhile gives a value that will not match, as it should.
///
/// # Errors
/// As [`copy_in`].
///
/// # Safety
/// As [`copy_in`].
#[inline]
pub unsafe fn copy_in_checksum(dst: *mut u8, src: *const u8, len: usize, crc: u32) -> Result<(MustFence, u32), Fault> {
    if len < tuning::STREAM_FROM.load(Ordering::Relaxed) {
        // SAFETY: the caller's promise, handed on.
        unsafe { machine::copy(dst, src, len) }?;
        // SAFETY: as above.
        return Ok((MustFence::nothing(), unsafe { crc::checksum(crc, src, len) }?));
    }
    // SAFETY: as above.
    let (token, state) = unsafe { machine::copy_streamed_checksum(dst, src, len, !crc) }?;
    Ok((token, !state))
}

/// Copies `len` bytes out of a region with ordinary stores: the program is about to use them.
///
/// # Errors
/// [`Fault`] when a byte of either side cannot be touched; an unknown part of the destination is then written.
///
/// # Safety
/// As [`copy_in`].
pub unsafe fn copy_out(dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    // SAFETY: the caller's promise, handed on.
    unsafe { machine::copy(dst, src, len) }
}

/// As [`copy_out`], past the caches as [`copy_in`] does: for much that is not looked at at once.
///
/// # Errors
/// As [`copy_out`].
///
/// # Safety
/// As [`copy_in`].
pub unsafe fn copy_out_streamed(dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    // SAFETY: the caller's promise, handed on.
    unsafe { copy_in(dst, src, len) }.map(MustFence::fence)
}

/// Copies a string of at most `max` bytes without its NUL, and says how long it is; `None` when it is longer. The NUL
/// is not copied. The part of `dst` after the string, up to `max`, is left with no particular content. Each byte is read
/// once, so that a string which changes meanwhile cannot come out with a NUL inside or longer than `max`.
///
/// # Errors
/// [`Fault`] when a byte up to and with the NUL cannot be read, or `dst` not be written.
///
/// # Safety
/// `dst` is memory of `max` bytes that this process may change, `src` any address, and the two do not overlap. Memory
/// that cannot be touched ends the process unless a handler calls [`fault::handle`](crate::fault::handle).
pub unsafe fn copy_string(dst: *mut u8, src: *const u8, max: usize) -> Result<Option<usize>, Fault> {
    // SAFETY: the caller's promise, handed on.
    unsafe { machine::copy_string(dst, src, max) }
}

/// Bytes behind a page that are fetched with it: processors fetch ahead on their own, but not from one page to the next, and what is copied next mostly
/// lies there.
const BEHIND_PAGE: usize = 512;

/// Tells that up to a page from `src` on is about to be copied: the processor fetches it meanwhile, and of what follows a whole page
/// the beginning. Any address will do. (A function of its own, so that waiting for memory has a name where time is looked at.)
#[inline(never)]
pub fn prefetch(src: *const u8, len: usize) {
    machine::prefetch(src, if len < 4096 { len } else { 4096 + BEHIND_PAGE });
}

/// The first two bytes of a string; the second is 0, and not looked at, behind a NUL.
///
/// # Errors
/// [`Fault`] when one of them cannot be read.
///
/// # Safety
/// `src` is any address. Memory that cannot be touched ends the process unless a handler calls
/// [`fault::handle`](crate::fault::handle).
#[inline]
pub unsafe fn first_two(src: *const u8) -> Result<[u8; 2], Fault> {
    // SAFETY: the caller's promise, handed on.
    unsafe { machine::first_two(src) }
}

/// Fills `len` bytes of a region with zeros, from [`tuning::STREAM_FROM`] bytes on past the caches.
///
/// # Errors
/// [`Fault`] when a byte cannot be written; an unknown part is then zero, and already fenced.
///
/// # Safety
/// `dst` is memory that this process may change (or that cannot be touched). Memory that cannot be touched ends the
/// process unless a handler calls [`fault::handle`](crate::fault::handle).
pub unsafe fn zero(dst: *mut u8, len: usize) -> Result<MustFence, Fault> {
    if len < tuning::STREAM_FROM.load(Ordering::Relaxed) {
        // SAFETY: the caller's promise, handed on.
        unsafe { machine::zero(dst, len) }?;
        return Ok(MustFence::nothing());
    }
    // SAFETY: as above.
    unsafe { machine::zero_streamed(dst, len) }
}
