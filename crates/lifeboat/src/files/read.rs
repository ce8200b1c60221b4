//! `lifeboat cat`, and reading pieces of a file.

use std::io::Write;

use lifeboat_fs::{Errno, FileSystem, OpenFile, Position, UserSource, UserTarget};

use super::{Failures, Files, O_RDONLY, PIECE};
use crate::arguments::CatArguments;
use crate::failure::Failure;
use crate::output::{Out, out};

/// Reads at `offset` as much as `buffer` takes; less only at the end of the file.
pub fn read_at(fs: &FileSystem, file: OpenFile, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut length = 0;
    while length < buffer.len() {
        let target = UserTarget::from_slice(&mut buffer[length..]);
        match fs.read(file, &[target], Position::At(offset + length as u64)) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(length)
}

/// Writes all of `bytes` at `offset`.
pub fn write_at(fs: &FileSystem, file: OpenFile, bytes: &[u8], offset: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < bytes.len() {
        let source = UserSource::from_slice(&bytes[done..]);
        match fs.write(file, &[source], Position::At(offset + done as u64)) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Runs `lifeboat cat`.
pub fn cat(arguments: &CatArguments) -> Result<(), Failure> {
    let files = Files::open(&arguments.files)?;
    let mut failures = Failures::default();
    let mut out = out();
    let mut buffer = vec![0; PIECE];
    for argument in &arguments.paths {
        let path = files.inner(argument);
        failures.check(copy_out(&files, &path, &mut buffer, &mut out))?;
    }
    out.flush()?;
    failures.end()
}

fn copy_out(files: &Files, path: &[u8], buffer: &mut [u8], out: &mut Out) -> Result<(), Failure> {
    let failed = |errno| Failure::on_path("read", path, errno);
    let opened = files.open_path(path, O_RDONLY, 0).map_err(failed)?;
    let mut offset = 0;
    loop {
        let length = read_at(&files.fs, opened.file, buffer, offset).map_err(failed)?;
        out.write_all(&buffer[..length])?;
        if length < buffer.len() {
            return Ok(());
        }
        offset += length as u64;
    }
}
