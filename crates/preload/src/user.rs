//! Memory of the program: paths, buffers and structures behind pointers that a C caller passed.
//!
//! C promises that they are valid; a program that lies gets `EFAULT`, as it would from the kernel, because every access
//! is made by a copy routine whose faults are repaired ([`crate::faults`]).

use core::mem::MaybeUninit;
use lifeboat_fs::{Errno, Result};
use lifeboat_kernels as kernels;
use lifeboat_region::{UserSource, UserTarget};

/// Longest path with its NUL, as the kernel has it.
pub const PATH_MAX: usize = 4096;

/// Most pieces of a vectored read or write.
pub const PIECES_MAX: usize = 1024;

/// Most bytes that one call moves, as in the kernel.
pub const LENGTH_MAX: usize = 0x7fff_f000;

/// Room for a path. Not cleared, which would cost more than most calls that have a path.
pub struct Room(MaybeUninit<[u8; PATH_MAX]>);

impl Room {
    /// Room for one path.
    #[inline(always)]
    pub const fn new() -> Room {
        Room(MaybeUninit::uninit())
    }
}

/// Copies a C string into `into`; ENAMETOOLONG when it and its NUL need more room.
pub fn path(pointer: *const libc::c_char, into: &mut Room) -> Result<&[u8]> {
    let start = into.0.as_mut_ptr().cast::<u8>();
    // SAFETY: `into` has PATH_MAX bytes of ours; the source may be anything.
    let copied = unsafe { kernels::copy_string(start, pointer.cast(), PATH_MAX - 1) };
    match copied {
        // SAFETY: so many bytes, fewer than PATH_MAX, were just written there, and `into` stays borrowed.
        Ok(Some(length)) if length < PATH_MAX => Ok(unsafe { core::slice::from_raw_parts(start, length) }),
        Ok(_) => Err(Errno::NAMETOOLONG),
        Err(_) => Err(Errno::FAULT),
    }
}

/// The byte at `pointer`, if there is one.
pub fn peek(pointer: *const libc::c_char) -> Option<u8> {
    let mut byte = 0u8;
    // SAFETY: `byte` is ours; the source may be anything.
    unsafe { kernels::copy_out(&mut byte, pointer.cast(), 1) }.ok()?;
    Some(byte)
}

/// The first two bytes of a string, the second 0 behind a NUL; none if they cannot be read.
#[inline(always)]
pub fn first_two(pointer: *const libc::c_char) -> Option<[u8; 2]> {
    // SAFETY: the source may be anything.
    unsafe { kernels::first_two(pointer.cast()) }.ok()
}

/// Reads a plain C structure.
pub fn get<T: Copy>(pointer: *const T) -> Result<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: `value` is ours and of this size; the source may be anything.
    unsafe { kernels::copy_out(value.as_mut_ptr().cast(), pointer.cast(), size_of::<T>()) }
        .map_err(|_| Errno::FAULT)?;
    // SAFETY: all bytes were just written, and `T` is one of libc's structures, for which all bytes are valid.
    Ok(unsafe { value.assume_init() })
}

/// Writes a plain C structure.
pub fn put<T: Copy>(pointer: *mut T, value: &T) -> Result<()> {
    // SAFETY: the source is a value of ours; the program owns what it pointed at, or the copy faults.
    unsafe { kernels::copy_out(pointer.cast(), (value as *const T).cast(), size_of::<T>()) }.map_err(|_| Errno::FAULT)
}

/// Writes bytes.
pub fn put_bytes(pointer: *mut libc::c_char, bytes: &[u8]) -> Result<()> {
    // SAFETY: as in `put`.
    unsafe { kernels::copy_out(pointer.cast(), bytes.as_ptr(), bytes.len()) }.map_err(|_| Errno::FAULT)
}

/// A buffer to read into.
pub fn target<'a>(pointer: *mut libc::c_void, length: usize) -> UserTarget<'a> {
    // SAFETY: the program gave the buffer to us for the time of the call, so no Rust code holds references into it.
    unsafe { UserTarget::new(pointer.cast(), length.min(LENGTH_MAX)) }
}

/// A buffer to take from.
pub fn source<'a>(pointer: *const libc::c_void, length: usize) -> UserSource<'a> {
    // SAFETY: as in `target`, and it is only read.
    unsafe { UserSource::new(pointer.cast(), length) }
}

/// Copies a program's `iovec` array and hands it to `use_it`.
pub fn pieces<R>(
    vector: *const libc::iovec,
    count: libc::c_int,
    use_it: impl FnOnce(&[libc::iovec]) -> Result<R>,
) -> Result<R> {
    const FEW: usize = 16;
    let count = usize::try_from(count).map_err(|_| Errno::INVAL)?;
    if count <= FEW {
        copied_pieces::<FEW, R>(vector, count, use_it)
    } else if count <= PIECES_MAX {
        copied_pieces::<PIECES_MAX, R>(vector, count, use_it)
    } else {
        Err(Errno::INVAL)
    }
}

#[inline(never)]
fn copied_pieces<const N: usize, R>(
    vector: *const libc::iovec,
    count: usize,
    use_it: impl FnOnce(&[libc::iovec]) -> Result<R>,
) -> Result<R> {
    let mut copy = [libc::iovec { iov_base: core::ptr::null_mut(), iov_len: 0 }; N];
    let bytes = count * size_of::<libc::iovec>();
    // SAFETY: `copy` is ours and `count <= N`; the source may be anything.
    unsafe { kernels::copy_out(copy.as_mut_ptr().cast(), vector.cast(), bytes) }.map_err(|_| Errno::FAULT)?;
    let copy = copy.get_mut(..count).ok_or(Errno::INVAL)?;
    let mut room = LENGTH_MAX;
    for piece in copy.iter_mut() {
        if piece.iov_len > isize::MAX as usize {
            return Err(Errno::INVAL);
        }
        piece.iov_len = piece.iov_len.min(room);
        room -= piece.iov_len;
    }
    use_it(copy)
}

/// A copied `iovec` array as buffers to read into.
pub fn as_targets(pieces: &[libc::iovec]) -> &[UserTarget<'_>] {
    // SAFETY: `UserTarget` is documented to have the layout of `struct iovec`; the program lent the buffers.
    unsafe { core::slice::from_raw_parts(pieces.as_ptr().cast(), pieces.len()) }
}

/// A copied `iovec` array as buffers to write from.
pub fn as_sources(pieces: &[libc::iovec]) -> &[UserSource<'_>] {
    // SAFETY: as in `as_targets`.
    unsafe { core::slice::from_raw_parts(pieces.as_ptr().cast(), pieces.len()) }
}

/// Whether the memory at `pointer` begins with these bytes.
pub fn begins(pointer: *const libc::c_char, bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(index, &byte)| peek(pointer.wrapping_add(index)) == Some(byte))
}
