//! Executing a program that is a file of ours: the kernel cannot see it, so it gets a copy in anonymous memory.
//!
//! Found by name only where the name has a slash; directories of `PATH` below the mount are not searched.

use crate::path::{self, Buffer, Place};
use crate::{call, covered, user};
use core::ffi::{CStr, c_char};
use lifeboat_fs::{Errno, InodeId, LastLink, OUTSIDE, OpenFile, Position, Result};
use lifeboat_region::UserTarget;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::MemfdFlags;

/// Bytes that travel through the stack at a time: there may be no heap between `vfork` and `exec`.
const PIECE: usize = 32 * 1024;

const ELF: &[u8] = b"\x7fELF";

/// Permission to execute.
const MAY_EXECUTE: u32 = 1;

/// What is to be executed.
pub enum Program {
    /// The kernel's, under the name that was given.
    Foreign,
    /// The kernel's, under the name now in the buffer.
    Outside,
    /// A copy of a file of ours.
    Copy(OwnedFd),
}

/// Finds out whether a path that is to be executed is ours, and copies the file if so. `inherited`: the descriptor is
/// passed to a new process.
///
/// # Errors
/// As `execve` has them: EACCES for what is not an executable regular file; ENOMEM and the like when copying.
#[inline(never)]
pub fn find(name: *const c_char, inherited: bool, outside: &mut Buffer) -> Result<Program> {
    let mut buffer = [0; user::PATH_MAX];
    match path::locate(libc::AT_FDCWD, name, &mut buffer) {
        Place::Refused(error) => Err(error),
        Place::Ours(start, rest) => find_from(start, rest, inherited, outside),
        Place::Descriptor(file) => copy(file, inherited).map(Program::Copy),
        Place::Foreign => Ok(Program::Foreign),
    }
}

fn find_from(start: InodeId, rest: &[u8], inherited: bool, outside: &mut Buffer) -> Result<Program> {
    match open(start, rest) {
        Err(OUTSIDE) => path::outside(start, rest, LastLink::Follow, outside).map(|_| Program::Outside),
        Err(error) => Err(error),
        Ok(file) => {
            let copied = copy(file, inherited);
            let _ = call::call_once(|file_system, _| file_system.close(file));
            copied.map(Program::Copy)
        }
    }
}

fn open(start: InodeId, rest: &[u8]) -> Result<OpenFile> {
    call::call(|file_system, who| {
        let inode = file_system.resolve(who, start, rest, LastLink::Follow)?;
        if file_system.stat(inode)?.mode & libc::S_IFMT != libc::S_IFREG {
            return Err(Errno::ACCESS);
        }
        file_system.access(who, inode, MAY_EXECUTE)?;
        file_system.open_inode(who, inode, libc::O_RDONLY)
    })
}

fn copy(file: OpenFile, inherited: bool) -> Result<OwnedFd> {
    let mut piece = [0u8; PIECE];
    let mut offset = 0;
    let mut copy = None;
    loop {
        let count = {
            let target = [UserTarget::from_slice(&mut piece)];
            call::data(|file_system| file_system.read(file, &target, Position::At(offset)))?
        };
        let bytes = piece.get(..count).unwrap_or_default();
        let memory = match copy.take() {
            Some(memory) => memory,
            // An interpreter opens its script by the descriptor's name, so that one has to live on.
            None if inherited || !bytes.starts_with(ELF) => rustix::fs::memfd_create(c"program", MemfdFlags::empty())?,
            None => rustix::fs::memfd_create(c"program", MemfdFlags::CLOEXEC)?,
        };
        if count == 0 {
            return Ok(memory);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = rustix::io::write(&memory, rest)?;
            rest = rest.get(written..).unwrap_or_default();
        }
        offset += count as u64;
        copy = Some(memory);
    }
}

/// The name under which the kernel finds a descriptor of this process.
pub fn name_of(descriptor: &OwnedFd, text: &mut [u8; 64]) -> *const c_char {
    let number = descriptor.as_raw_fd().unsigned_abs() as u64;
    let length = lifeboat_region::process::decimal(b"/proc/self/fd/", number, b"\0", text);
    CStr::from_bytes_with_nul(&text[..length]).map_or(c"".as_ptr(), CStr::as_ptr)
}

/// Runs `start`, which answers -1 and `errno`, with the path to execute in place of `name`.
///
/// # Errors
/// Why there is no such path.
pub fn with_program(name: *const c_char, inherited: bool, start: impl Fn(*const c_char) -> i32) -> Result<i32> {
    let mut outside = [0; user::PATH_MAX];
    let program = if path::surely_foreign(libc::AT_FDCWD, name) {
        Program::Foreign
    } else {
        find(name, inherited, &mut outside)?
    };
    match program {
        Program::Outside => Ok(start(outside.as_ptr().cast())),
        Program::Copy(memory) => Ok(start_copy(&memory, start)),
        Program::Foreign => {
            let answer = start(name);
            if answer != -1 || !covered::explains_error() {
                return Ok(answer);
            }
            let mut buffer = [0; user::PATH_MAX];
            match covered::entered(libc::AT_FDCWD, name, LastLink::Follow, &mut buffer) {
                None => Ok(answer),
                Some((directory, rest)) => match find_from(directory, rest, inherited, &mut outside)? {
                    Program::Copy(memory) => Ok(start_copy(&memory, start)),
                    _ => Ok(start(outside.as_ptr().cast())),
                },
            }
        }
    }
}

fn start_copy(memory: &OwnedFd, start: impl Fn(*const c_char) -> i32) -> i32 {
    let mut text = [0; 64];
    start(name_of(memory, &mut text))
}

/// Whether a file name is looked for as it is, and not along `PATH`.
pub fn is_path(name: *const c_char) -> bool {
    for index in 0..user::PATH_MAX {
        match user::peek(name.wrapping_add(index)) {
            Some(b'/') => return true,
            None | Some(0) => return false,
            Some(_) => {}
        }
    }
    false
}
