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
    let mut piece = [0u8; PIECE];
    let mut done = 0;
    while done < count {
        let want = (count - done).min(PIECE);
        let read = match from.read(&mut piece[..want], from_offset.map(|offset| offset + done as u64)) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
        };
        let written = to.write(&piece[..read], to_offset.map(|offset| offset + done as u64));
        let count_written = *written.as_ref().unwrap_or(&0);
        if count_written < read && from_offset.is_none() {
            from.step_back(read - count_written);
        }
        done += count_written;
        match written {
            Ok(all) if all == read => {}
            Ok(_) => break,
            Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
        }
    }
    Ok(done)
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
        if descriptors::find(input).is_none() && descriptors::find(output).is_none() {
            return next(input, from, output, to, count, flags);
        }
        fail(Errno::INVAL)
    }

    fn vmsplice(descriptor: c_int, vector: *const libc::iovec, count: size_t, flags: c_uint) -> isize {
        match descriptors::find(descriptor) {
            None => next(descriptor, vector, count, flags),
            Some(_) => fail(Errno::BADF),
        }
    }
}
