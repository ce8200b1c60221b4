//! Executing a program that is a file of ours: the kernel cannot see it, so it gets a copy in anonymous memory.
//!
//! Directories of `PATH` below the mount are searched here, because libc cannot look into them.

use crate::path::{self, Buffer, Place};
use crate::{call, covered, user};
use core::ffi::{CStr, c_char, c_int};
use lifeboat_fs::{Caller, Errno, FileSystem, InodeId, LastLink, OUTSIDE, OpenFile, Position, Result};
use lifeboat_region::UserTarget;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::MemfdFlags;

/// Bytes that travel through the stack at a time: there may be no heap between `vfork` and `exec`.
const PIECE: usize = 32 * 1024;

const ELF: &[u8] = b"\x7fELF";

/// Permission to execute.
const MAY_EXECUTE: u32 = 1;

/// What is to be executed.
// There is no heap to put the large variant on; it lives on the stack of one call.
#[allow(clippy::large_enum_variant)]
pub enum Program {
    /// The kernel's, under the name that was given.
    Foreign,
    /// The kernel's, under the name now in the buffer.
    Outside,
    /// A copy of a file of ours.
    Copy(OwnedFd),
    /// To be read by another program, which finds the file by its name.
    Script(Script),
}

/// Bytes of a script's first line that are looked at, as in the kernel.
const LINE_MAX: usize = 256;

/// Interpreters that are themselves scripts, and links out of the mount and back.
const CHANGES_MAX: usize = 5;

/// Arguments that fit on the stack; with more, a script is run from a copy.
const ARGUMENTS_MAX: usize = 4096;

/// What a script's first line says.
pub struct Script {
    /// The interpreter and its NUL, the argument and its NUL.
    line: [u8; LINE_MAX + 2],
    /// Where the argument begins.
    argument: Option<usize>,
}

impl Script {
    /// Takes the beginning of a file apart; `None` when it is no script.
    fn parse(beginning: &[u8]) -> Option<Script> {
        let line = beginning.strip_prefix(b"#!")?;
        let line = &line[..line.iter().position(|&byte| byte == b'\n')?];
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let from = line.iter().position(|byte| !blank(byte))?;
        let to = line.iter().rposition(|byte| !blank(byte))? + 1;
        let line = line.get(from..to)?;
        let end = line.iter().position(blank).unwrap_or(line.len());
        let mut script = Script { line: [0; LINE_MAX + 2], argument: None };
        script.line.get_mut(..end)?.copy_from_slice(&line[..end]);
        let rest = &line[end..];
        if let Some(blanks) = rest.iter().position(|byte| !blank(byte)) {
            script.line.get_mut(end + 1..)?.get_mut(..rest.len() - blanks)?.copy_from_slice(&rest[blanks..]);
            script.argument = Some(end + 1);
        }
        Some(script)
    }

    fn interpreter(&self) -> *const c_char {
        self.line.as_ptr().cast()
    }

    /// The arguments of the interpreter: its own, the script's name, and those of the script.
    fn arguments(
        &self,
        name: *const c_char,
        given: Strings,
        list: &mut [*const c_char; ARGUMENTS_MAX + 3],
    ) -> Option<()> {
        let own = self.argument.map(|at| self.line.as_ptr().wrapping_add(at).cast());
        let mut used = 0;
        for pointer in [Some(self.interpreter()), own, Some(name)].into_iter().flatten() {
            list[used] = pointer;
            used += 1;
        }
        // The program's name for itself makes room for the script's.
        let mut given: Strings = if given.is_null() { (&raw const END).cast() } else { given };
        // SAFETY: an array of pointers that ends with a null pointer, as `execve` requires.
        unsafe {
            if !(*given).is_null() {
                given = given.add(1);
            }
            loop {
                *list.get_mut(used)? = *given;
                if (*given).is_null() {
                    return Some(());
                }
                used += 1;
                given = given.add(1);
            }
        }
    }
}

/// An array of arguments without any.
static END: NoArguments = NoArguments(core::ptr::null());

struct NoArguments(#[allow(dead_code)] *const c_char);

// SAFETY: a null pointer that is never written.
unsafe impl Sync for NoArguments {}

/// Arguments or an environment.
pub type Strings = *const *const c_char;

/// Finds out whether a path that is to be executed is ours, and copies the file if so. `inherited`: the descriptor is
/// passed to a new process.
///
/// # Errors
/// As `execve` has them: EACCES for what is not an executable regular file; ENOMEM and the like when copying.
#[inline(never)]
fn find(directory: c_int, name: *const c_char, inherited: bool, outside: &mut Buffer) -> Result<Program> {
    let mut room = user::Room::new();
    match path::locate(directory, name, &mut room) {
        Place::Refused(error) => Err(error),
        Place::Ours(start, rest) => find_from(start, rest, directory == libc::AT_FDCWD, inherited, outside),
        Place::Descriptor(file) => copy_again(file, inherited).map(Program::Copy),
        Place::Foreign => Ok(Program::Foreign),
    }
}

/// Copies what an open file of ours is of: it may itself be open for nothing but that.
fn copy_again(file: OpenFile, inherited: bool) -> Result<OwnedFd> {
    let again = call::call(|file_system, who| {
        let inode = file_system.inode_of(file)?;
        check(file_system, who, inode)?;
        file_system.open_inode(who, inode, libc::O_RDONLY)
    })?;
    let copied = copy(again, inherited);
    let _ = call::call_once(|file_system, _| file_system.close(again));
    copied
}

/// `named`: an interpreter could find the file by the name that it was given.
fn find_from(start: InodeId, rest: &[u8], named: bool, inherited: bool, outside: &mut Buffer) -> Result<Program> {
    match open(start, rest) {
        Err(OUTSIDE) => path::outside(start, rest, LastLink::Follow, outside).map(|_| Program::Outside),
        Err(error) => Err(error),
        Ok(file) => {
            let script = if named { read_script(file) } else { None };
            let program = match script {
                Some(script) => Ok(Program::Script(script)),
                None => copy(file, inherited).map(Program::Copy),
            };
            let _ = call::call_once(|file_system, _| file_system.close(file));
            program
        }
    }
}

fn read_script(file: OpenFile) -> Option<Script> {
    let mut beginning = [0; LINE_MAX];
    let count = {
        let target = [UserTarget::from_slice(&mut beginning)];
        call::data(|file_system| file_system.read(file, &target, Position::At(0))).ok()?
    };
    Script::parse(beginning.get(..count)?)
}

fn open(start: InodeId, rest: &[u8]) -> Result<OpenFile> {
    call::call(|file_system, who| {
        let inode = file_system.resolve(who, start, rest, LastLink::Follow)?;
        check(file_system, who, inode)?;
        file_system.open_inode(who, inode, libc::O_RDONLY)
    })
}

/// Whether an inode may be executed.
fn check(file_system: &FileSystem, who: &Caller<'_>, inode: InodeId) -> Result<()> {
    if file_system.stat(inode)?.mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Errno::ACCESS);
    }
    file_system.access(who, inode, MAY_EXECUTE)
}

/// Copies a file of ours into anonymous memory, for the linker. The descriptor is closed when a program is executed.
///
/// # Errors
/// What opening or reading it answers.
pub fn copy_inode(inode: InodeId) -> Result<OwnedFd> {
    let file = call::call(|file_system, who| file_system.open_inode(who, inode, libc::O_RDONLY))?;
    let copied = copy(file, false);
    let _ = call::call_once(|file_system, _| file_system.close(file));
    copied
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

/// What is to be executed.
#[derive(Clone, Copy)]
pub struct Wish {
    /// Directory that the path starts from.
    pub directory: c_int,
    /// The path.
    pub name: *const c_char,
    /// The name under which an interpreter finds a script, and the script itself.
    pub shown: *const c_char,
    /// Of the program.
    pub arguments: Strings,
    /// A new process executes it.
    pub inherited: bool,
}

impl Wish {
    /// A path that starts from the working directory.
    pub fn new(name: *const c_char, arguments: Strings, inherited: bool) -> Wish {
        Wish { directory: libc::AT_FDCWD, name, shown: name, arguments, inherited }
    }
}

/// Runs `start`, which takes a directory, a path and arguments, and answers -1 and `errno`, with what the kernel can
/// execute in place of a file of ours.
///
/// # Errors
/// Why there is no such program.
pub fn with_program(wish: Wish, start: impl Fn(c_int, *const c_char, Strings) -> i32) -> Result<i32> {
    with(wish, &start, 0)
}

/// As [`with_program`], for what a descriptor of ours is of.
///
/// # Errors
/// Why it cannot be executed.
pub fn with_open_file(file: OpenFile, start: impl Fn(*const c_char) -> i32) -> Result<i32> {
    let memory = copy_again(file, false)?;
    let mut text = [0; 64];
    Ok(start(name_of(&memory, &mut text)))
}

fn with(wish: Wish, start: &impl Fn(c_int, *const c_char, Strings) -> i32, changes: usize) -> Result<i32> {
    let mut outside = [0; user::PATH_MAX];
    let mut program = if path::surely_foreign(wish.directory, wish.name) {
        Program::Foreign
    } else {
        find(wish.directory, wish.name, wish.inherited, &mut outside)?
    };
    if let Program::Foreign = program {
        let answer = start(wish.directory, wish.name, wish.arguments);
        if answer != -1 || !covered::explains_error() {
            return Ok(answer);
        }
        let mut buffer = [0; user::PATH_MAX];
        program = match covered::entered(wish.directory, wish.name, LastLink::Follow, &mut buffer) {
            None => return Ok(answer),
            Some((from, rest)) => {
                find_from(from, rest, wish.directory == libc::AT_FDCWD, wish.inherited, &mut outside)?
            }
        };
    }
    match program {
        Program::Foreign => Err(Errno::NOENT),
        Program::Outside | Program::Script(_) if changes == CHANGES_MAX => Err(Errno::LOOP),
        Program::Outside => {
            let wish = Wish { directory: libc::AT_FDCWD, name: outside.as_ptr().cast(), ..wish };
            with(wish, start, changes + 1)
        }
        Program::Copy(memory) => {
            let mut text = [0; 64];
            Ok(start(libc::AT_FDCWD, name_of(&memory, &mut text), wish.arguments))
        }
        Program::Script(script) => run_script(&script, wish, start, changes),
    }
}

#[inline(never)]
fn run_script(
    script: &Script,
    wish: Wish,
    start: &impl Fn(c_int, *const c_char, Strings) -> i32,
    changes: usize,
) -> Result<i32> {
    let mut list = [core::ptr::null(); ARGUMENTS_MAX + 3];
    script.arguments(wish.shown, wish.arguments, &mut list).ok_or(Errno::TOOBIG)?;
    with(Wish::new(script.interpreter(), list.as_ptr(), wish.inherited), start, changes + 1)
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

/// Looks for a program along `PATH`, as far as to the first directory that has it. True when that is one of ours: then
/// its path is in `out`.
pub fn search(file: *const c_char, out: &mut Buffer) -> bool {
    // SAFETY: libc's own list; a program that changes its environment in another thread at this time races by itself.
    let list = unsafe { libc::getenv(c"PATH".as_ptr()) };
    let mut name_room = user::Room::new();
    let Ok(name) = user::path(file, &mut name_room) else { return false };
    if list.is_null() || name.is_empty() {
        return false;
    }
    // SAFETY: libc's own string.
    let list = unsafe { CStr::from_ptr(list) }.to_bytes();
    let folders = || list.split(|&byte| byte == b':');
    let mut any = false;
    for folder in folders() {
        any |= join(folder, name, out).is_some() && !path::surely_foreign(libc::AT_FDCWD, out.as_ptr().cast());
    }
    if !any {
        return false;
    }
    for folder in folders() {
        if join(folder, name, out).is_none() {
            continue;
        }
        let candidate = out.as_ptr().cast();
        let mut room = user::Room::new();
        let ours = match path::locate(libc::AT_FDCWD, candidate, &mut room) {
            Place::Ours(start, rest) => open(start, rest),
            Place::Refused(_) => continue,
            Place::Foreign | Place::Descriptor(_) => Err(OUTSIDE),
        };
        match ours {
            Ok(file) => {
                let _ = call::call_once(|file_system, _| file_system.close(file));
                return true;
            }
            Err(OUTSIDE) if kernels_executable(out) => return false,
            Err(_) => {}
        }
    }
    false
}

fn kernels_executable(path: &Buffer) -> bool {
    CStr::from_bytes_until_nul(path).is_ok_and(|path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok())
}

/// A folder of `PATH`, of which an empty one means the working directory, and the name.
fn join(folder: &[u8], name: &[u8], out: &mut Buffer) -> Option<()> {
    let folder = if folder.is_empty() { b"." } else { folder };
    let end = folder.len() + 1 + name.len();
    out.get_mut(..=end)?;
    out[..folder.len()].copy_from_slice(folder);
    out[folder.len()] = b'/';
    out[folder.len() + 1..end].copy_from_slice(name);
    out[end] = 0;
    Some(())
}
