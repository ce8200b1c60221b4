//! `RLIMIT_FSIZE`: how long a file may become by this process's writes. Most processes have no such limit, and then it
//! costs one load.

use crate::answer::{fail, give};
use crate::{call, signals, state, user};
use core::sync::atomic::{AtomicU64, Ordering};
use lifeboat_fs::{Errno, FileSystem, InodeId, OpenFile, Position, Result, Unwritten};
use lifeboat_region::UserSource;

const NONE: u64 = libc::RLIM_INFINITY;

static LONGEST: AtomicU64 = AtomicU64::new(NONE);

/// Asks the kernel for the limit: at the start, and after it was changed.
pub fn note() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize);
    LONGEST.store(limit.current.unwrap_or(NONE), Ordering::Relaxed);
}

/// Writes to one of our files, as far as the limit allows.
pub fn write(file: OpenFile, pieces: &[libc::iovec], position: Position) -> Result<usize> {
    if LONGEST.load(Ordering::Relaxed) != NONE {
        return write_within(file, pieces, position);
    }
    call::writing(|file_system| file_system.write(file, user::as_sources(pieces), position))
}

/// The same of one piece, of at most [`user::LENGTH_MAX`] bytes, answered as C wants it: in a register.
#[inline(always)]
pub fn give_piece(file: OpenFile, buffer: *const libc::c_void, length: usize, position: Position) -> libc::ssize_t {
    if LONGEST.load(Ordering::Relaxed) != NONE {
        let piece = libc::iovec { iov_base: buffer.cast_mut(), iov_len: length };
        return give(write_within(file, core::slice::from_ref(&piece), position));
    }
    signals::cancellation_point();
    let _held = signals::hold();
    let file_system = match state::file_system() {
        Ok(file_system) => file_system,
        Err(error) => return fail(error),
    };
    let piece = user::source(buffer, length);
    match file_system.write_small(file, &piece, position) {
        Ok(()) => length as libc::ssize_t,
        Err(unwritten) => give(write_unwritten(&file_system, unwritten, file, &piece, position)),
    }
}

#[inline(never)]
fn write_unwritten(
    file_system: &FileSystem,
    unwritten: Unwritten,
    file: OpenFile,
    piece: &UserSource<'_>,
    position: Position,
) -> Result<usize> {
    let pieces = core::slice::from_ref(piece);
    match file_system.write_unwritten(unwritten, file, pieces, position) {
        Err(Errno::NOSPC) => {
            call::again_after_reaping(file_system, |file_system| file_system.write(file, pieces, position))
        }
        written => written,
    }
}

#[cold]
#[inline(never)]
fn write_within(file: OpenFile, pieces: &[libc::iovec], position: Position) -> Result<usize> {
    let mut copy = [libc::iovec { iov_base: core::ptr::null_mut(), iov_len: 0 }; user::PIECES_MAX];
    let copy = copy.get_mut(..pieces.len()).ok_or(Errno::INVAL)?;
    copy.copy_from_slice(pieces);
    let wanted: usize = copy.iter().map(|piece| piece.iov_len).sum();
    if wanted > 0 {
        let start = start_of(file, position)?;
        let longest = LONGEST.load(Ordering::Relaxed);
        if start >= longest {
            return too_long();
        }
        let mut room = usize::try_from(longest - start).unwrap_or(usize::MAX);
        for piece in copy.iter_mut() {
            piece.iov_len = piece.iov_len.min(room);
            room -= piece.iov_len;
        }
    }
    call::writing(|file_system| file_system.write(file, user::as_sources(copy), position))
}

/// Where a write would begin. Others that share the offset may move it meanwhile, as they may in the kernel.
fn start_of(file: OpenFile, position: Position) -> Result<u64> {
    call::data(|file_system| {
        if file_system.flags_of(file)? & libc::O_APPEND != 0 {
            return Ok(file_system.stat(file_system.inode_of(file)?)?.size);
        }
        match position {
            Position::At(offset) => Ok(offset),
            _ => file_system.seek(file, 0, libc::SEEK_CUR as u32),
        }
    })
}

/// Whether one of our files may get this length.
///
/// # Errors
/// EFBIG, after the signal that belongs to it.
pub fn check_growth(file: OpenFile, length: u64) -> Result<()> {
    if length <= LONGEST.load(Ordering::Relaxed) {
        return Ok(());
    }
    call::data(|file_system| check_growth_of(file_system, file_system.inode_of(file)?, length))
}

/// As [`check_growth`].
///
/// # Errors
/// EFBIG, after the signal that belongs to it.
pub fn check_growth_of(file_system: &FileSystem, inode: InodeId, length: u64) -> Result<()> {
    if length <= LONGEST.load(Ordering::Relaxed) || length <= file_system.stat(inode)?.size {
        return Ok(());
    }
    too_long()
}

fn too_long<T>() -> Result<T> {
    // SAFETY: a signal to the calling thread; `raise` is not hooked.
    unsafe { libc::raise(libc::SIGXFSZ) };
    Err(Errno::FBIG)
}
