//! Copies between two descriptors that the kernel would make by itself.

use super::data::{read_one, write_one};
use crate::answer::{fail, give};
use crate::{call, descriptors, user};
use core::ffi::{c_int, c_uint};
use libc::{off_t, size_t};
use lifeboat_fs::{Errno, OpenFile, Position, Result};

/// Bytes that travel through the stack at a time.
const PIECE: usize = 32 * 1024;

/// One side of a copy.
#[derive(Clone, Copy)]
struct Side {
    descriptor: c_int,
    /// When it is one of ours.
    file: Option<OpenFile>,
}

impl Side {
    fn new(descriptor: c_int) -> Side {
        Side { descriptor, file: descriptors::find(descriptor) }
    }

    fn read(self, buffer: &mut [u8], offset: Option<u64>) -> Result<usize> {
        let (pointer, length) = (buffer.as_mut_ptr(), buffer.len());
        if let Some(file) = self.file {
            return read_one(file, pointer.cast(), length, offset.map_or(Position::Current, Position::At));
        }
        let descriptor = descriptors::borrow(self.descriptor)?;
        match offset {
            Some(offset) => rustix::io::pread(descriptor, buffer, offset),
            None => rustix::io::read(descriptor, buffer),
        }
    }

    fn write(self, bytes: &[u8], offset: Option<u64>) -> Result<usize> {
        if let Some(file) = self.file {
            return write_one(file, bytes.as_ptr().cast(), bytes.len(), offset.map_or(Position::Current, Position::At));
        }
        let descriptor = descriptors::borrow(self.descriptor)?;
        match offset {
            Some(offset) => rustix::io::pwrite(descriptor, bytes, offset),
            None => rustix::io::write(descriptor, bytes),
        }
    }

    /// Goes back over what was read but could not be written.
    fn step_back(self, count: usize) {
        let Ok(back) = i64::try_from(count) else { return };
        match self.file {
            Some(file) => {
                let _ = call::data(|file_system| file_system.seek(file, -back, libc::SEEK_CUR as u32));
            }
            None => {
                if let Ok(descriptor) = descriptors::borrow(self.descriptor) {
                    let _ = rustix::fs::seek(descriptor, rustix::fs::SeekFrom::Current(-back));
                }
            }
        }
    }
}

fn copy(from: Side, from_offset: Option<u64>, to: Side, to_offset: Option<u64>, count: usize) -> Result<usize> {
    let mut done = 0;
    while done < count {
        let want = (count - done).min(PIECE);
        let at = |offset: Option<u64>| offset.map(|offset| offset + done as u64);
        match copy_piece(from, at(from_offset), to, at(to_offset), want) {
            Ok(Copied { read: 0, .. }) => break,
            Ok(Copied { read, written }) => {
                done += written;
                if written < read {
                    break;
                }
            }
            Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
        }
    }
    Ok(done)
}

/// What one piece came to.
struct Copied {
    read: usize,
    written: usize,
}

/// Reads once and writes that: `want` is at most a piece.
fn copy_piece(from: Side, from_offset: Option<u64>, to: Side, to_offset: Option<u64>, want: usize) -> Result<Copied> {
    let mut piece = [0u8; PIECE];
    let piece = piece.get_mut(..want).ok_or(Errno::INVAL)?;
    let read = from.read(piece, from_offset)?;
    if read == 0 {
        return Ok(Copied { read, written: 0 });
    }
    let written = to.write(&piece[..read], to_offset);
    let count = *written.as_ref().unwrap_or(&0);
    if count < read && from_offset.is_none() {
        from.step_back(read - count);
    }
    written.map(|written| Copied { read, written })
}

fn start(offset: *const off_t) -> Result<Option<u64>> {
    if offset.is_null() {
        return Ok(None);
    }
    u64::try_from(user::get(offset)?).map(Some).map_err(|_| Errno::INVAL)
}

fn finish(offset: *mut off_t, start: Option<u64>, done: usize) -> Result<()> {
    match start {
        Some(start) => user::put(offset, &((start + done as u64) as off_t)),
        None => Ok(()),
    }
}

fn send(output: Side, input: Side, offset: *mut off_t, count: usize) -> Result<usize> {
    if let Some(file) = output.file {
        let appends = call::data(|file_system| file_system.flags_of(file))? & libc::O_APPEND != 0;
        if appends {
            return Err(Errno::INVAL);
        }
    }
    let from = start(offset)?;
    let done = copy(input, from, output, None, count)?;
    finish(offset, from, done)?;
    Ok(done)
}

fn copy_range(
    input: Side,
    from: *mut off_t,
    output: Side,
    to: *mut off_t,
    count: usize,
    flags: c_uint,
) -> Result<usize> {
    if input.file.is_none() || output.file.is_none() {
        return Err(Errno::XDEV);
    }
    if flags != 0 {
        return Err(Errno::INVAL);
    }
    let (start_from, start_to) = (start(from)?, start(to)?);
    let done = copy(input, start_from, output, start_to, count)?;
    finish(from, start_from, done)?;
    finish(to, start_to, done)?;
    Ok(done)
}

/// `splice`: between a file of ours and a pipe, of which one page at a time is sure to be taken or given at once.
fn through_pipe(from: (Side, *mut off_t), to: (Side, *mut off_t), count: usize, flags: c_uint) -> Result<usize> {
    const PAGE: usize = 4096;
    if flags & !0xf != 0 {
        return Err(Errno::INVAL);
    }
    let (pipe, pipe_offset, event) = match (from.0.file, to.0.file) {
        (Some(_), None) => (to.0, to.1, libc::POLLOUT),
        (None, Some(_)) => (from.0, from.1, libc::POLLIN),
        _ => return Err(Errno::INVAL),
    };
    let found = rustix::fs::fstat(descriptors::borrow(pipe.descriptor)?)?;
    if found.st_mode & libc::S_IFMT != libc::S_IFIFO {
        return Err(Errno::INVAL);
    }
    let writes = call::data(|file_system| match to.0.file {
        Some(file) => Ok(file_system.flags_of(file)? & libc::O_ACCMODE != libc::O_RDONLY),
        None => Ok(true),
    })?;
    if !writes {
        return Err(Errno::BADF);
    }
    if !pipe_offset.is_null() {
        return Err(Errno::SPIPE);
    }
    if let Some(file) = to.0.file
        && call::data(|file_system| file_system.flags_of(file))? & libc::O_APPEND != 0
    {
        return Err(Errno::INVAL);
    }
    let (from_start, to_start) = (start(from.1)?, start(to.1)?);
    let mut done = 0;
    while done < count {
        let patient = done == 0 && flags & libc::SPLICE_F_NONBLOCK == 0;
        if !is_ready(pipe.descriptor, event, patient)? {
            break;
        }
        let at = |start: Option<u64>| start.map(|start| start + done as u64);
        match copy_piece(from.0, at(from_start), to.0, at(to_start), (count - done).min(PAGE)) {
            Ok(Copied { written: 0, .. }) => break,
            Ok(Copied { written, .. }) => done += written,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    finish(from.1, from_start, done)?;
    finish(to.1, to_start, done)?;
    // An end that is closed, or a file that has no more, moves nothing; a pipe that is not ready says so.
    if done == 0 && count > 0 && flags & libc::SPLICE_F_NONBLOCK != 0 && !is_ready(pipe.descriptor, event, false)? {
        return Err(Errno::AGAIN);
    }
    Ok(done)
}

fn is_ready(descriptor: c_int, event: libc::c_short, patient: bool) -> Result<bool> {
    let mut wait = libc::pollfd { fd: descriptor, events: event, revents: 0 };
    let poll = libc_function!(c"poll", fn(*mut libc::pollfd, libc::nfds_t, c_int) -> c_int);
    match poll(&mut wait, 1, if patient { -1 } else { 0 }) {
        -1 => Err(Errno::from_raw_os_error(crate::answer::errno())),
        ready => Ok(ready > 0),
    }
}

hooks! {
    fn sendfile(output: c_int, input: c_int, offset: *mut off_t, count: size_t) -> isize, also sendfile64 {
        let (to, from) = (Side::new(output), Side::new(input));
        if to.file.is_none() && from.file.is_none() {
            return next(output, input, offset, count);
        }
        give(send(to, from, offset, count))
    }

    fn copy_file_range(
        input: c_int,
        from: *mut off_t,
        output: c_int,
        to: *mut off_t,
        count: size_t,
        flags: c_uint,
    ) -> isize {
        let (source, target) = (Side::new(input), Side::new(output));
        if source.file.is_none() && target.file.is_none() {
            return next(input, from, output, to, count, flags);
        }
        give(copy_range(source, from, target, to, count, flags))
    }

    fn splice(input: c_int, from: *mut off_t, output: c_int, to: *mut off_t, count: size_t, flags: c_uint) -> isize {
        let (source, target) = (Side::new(input), Side::new(output));
        if source.file.is_none() && target.file.is_none() {
            return next(input, from, output, to, count, flags);
        }
        give(through_pipe((source, from), (target, to), count, flags))
    }

    fn vmsplice(descriptor: c_int, vector: *const libc::iovec, count: size_t, flags: c_uint) -> isize {
        match descriptors::find(descriptor) {
            None => next(descriptor, vector, count, flags),
            Some(_) => fail(Errno::BADF),
        }
    }
}
