//! Which paths are ours, and running an operation on one.
//!
//! A path is ours when its leading components, after `//` and `.`, are those of the mount; when it is relative and the
//! directory that it starts from is ours; or when it names one of our descriptors below `/proc/self/fd` or `/dev/fd`.
//! A path that begins elsewhere and comes to the mount through `..`, a symbolic link or a descriptor of a directory above
//! goes to the kernel first; it becomes ours when the kernel could not use it ([`covered`]).

use crate::answer::{Answer, Failure, fail, give};
use crate::{call, covered, descriptors, environment, state, user, working_directory};
use core::ffi::{CStr, c_char, c_int};
use lifeboat_fs::{Caller, Errno, FileSystem, InodeId, LastLink, OUTSIDE, OpenFile, Result};

/// Room for a path that is put together.
pub type Buffer = [u8; user::PATH_MAX];

/// Where a path leads.
pub enum Place<'a> {
    /// To the kernel.
    Foreign,
    /// Below the mount: the directory that it starts from, and the rest.
    Ours(InodeId, &'a [u8]),
    /// To the file behind one of our descriptors.
    Descriptor(OpenFile),
    /// Below the mount, which cannot be used.
    Refused(Errno),
}

/// Whether a look at the first bytes shows that the path is the kernel's.
#[inline(always)]
pub fn surely_foreign(directory: c_int, path: *const c_char) -> bool {
    if !state::configured() {
        return true;
    }
    match user::first_two(path) {
        // Not readable: the kernel says so.
        None => true,
        Some([b'/', b'/' | b'.' | b'p' | b'd']) => false,
        Some([b'/', second]) => environment::mount().get(1) != Some(&second),
        Some([first, _]) if directory == libc::AT_FDCWD => {
            let towards_mount = |rest: &[u8]| first == b'.' || rest.get(1) == Some(&first);
            working_directory::current().is_none() && !working_directory::rest_to_mount().is_some_and(towards_mount)
        }
        Some(_) => descriptors::find(directory).is_none(),
    }
}

/// Finds out where a path leads.
#[inline(never)]
pub fn locate(directory: c_int, path: *const c_char, room: &mut user::Room) -> Place<'_> {
    let path = match user::path(path, room) {
        Ok(path) => path,
        // Unreadable or too long, which the kernel says as well.
        Err(_) => return Place::Foreign,
    };
    if path.first() == Some(&b'/') {
        return locate_absolute(path);
    }
    let start = if directory == libc::AT_FDCWD {
        match working_directory::current() {
            Some(start) => Ok(start),
            None => {
                return match working_directory::rest_to_mount().and_then(|prefix| below(path, prefix, true)) {
                    Some(rest) => ours_from_root(rest),
                    None => Place::Foreign,
                };
            }
        }
    } else {
        match descriptors::find(directory) {
            Some(file) => call::data(|file_system| file_system.inode_of(file)),
            None => return Place::Foreign,
        }
    };
    match start {
        Ok(start) => Place::Ours(start, path),
        Err(error) => Place::Refused(error),
    }
}

fn locate_absolute(path: &[u8]) -> Place<'_> {
    if let Some(rest) = below(path, environment::mount(), false) {
        return ours_from_root(rest);
    }
    match descriptor_path(path) {
        None => Place::Foreign,
        Some((file, rest)) => {
            let rest = &rest[rest.iter().take_while(|&&byte| byte == b'/').count()..];
            if rest.is_empty() {
                return Place::Descriptor(file);
            }
            match call::data(|file_system| file_system.inode_of(file)) {
                Ok(start) => Place::Ours(start, rest),
                Err(error) => Place::Refused(error),
            }
        }
    }
}

fn ours_from_root(rest: &[u8]) -> Place<'_> {
    match state::file_system() {
        Ok(file_system) => Place::Ours(file_system.root(), if rest.is_empty() { b"/" } else { rest }),
        Err(error) => Place::Refused(error),
    }
}

/// What of `path` comes after the components of `prefix`. A relative path has no slash before its first.
fn below<'a>(path: &'a [u8], prefix: &[u8], relative: bool) -> Option<&'a [u8]> {
    // Mostly the text is the same.
    if let Some(rest) = path.strip_prefix(prefix)
        && !relative
        && matches!(rest.first(), None | Some(b'/'))
    {
        return Some(rest);
    }
    let mut rest = path;
    let mut relative = relative;
    for component in prefix.split(|&byte| byte == b'/').filter(|component| !component.is_empty()) {
        loop {
            let slashes = rest.iter().take_while(|&&byte| byte == b'/').count();
            if slashes == 0 && !relative {
                return None;
            }
            relative = false;
            rest = &rest[slashes..];
            match rest.strip_prefix(b".") {
                Some(after) if after.first() == Some(&b'/') => rest = after,
                _ => break,
            }
        }
        rest = rest.strip_prefix(component)?;
        if !matches!(rest.first(), None | Some(b'/')) {
            return None;
        }
    }
    Some(rest)
}

/// One of our descriptors named by its path in `/proc` or `/dev`, and what follows.
fn descriptor_path(path: &[u8]) -> Option<(OpenFile, &[u8])> {
    let (number, rest) = number_path(path)?;
    Some((descriptors::find(number)?, rest))
}

/// A descriptor named by its path in `/proc` or `/dev`, and what follows.
fn number_path(path: &[u8]) -> Option<(c_int, &[u8])> {
    let standard: [(&[u8], c_int); 3] = [(b"/dev/stdin", 0), (b"/dev/stdout", 1), (b"/dev/stderr", 2)];
    if let Some((_, number)) = standard.iter().find(|(name, _)| *name == path) {
        return Some((*number, b""));
    }
    let prefixes: [&[u8]; 3] = [b"/proc/self/fd/", b"/dev/fd/", b"/proc/thread-self/fd/"];
    let rest = prefixes.iter().find_map(|prefix| path.strip_prefix(*prefix))?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = rest.split_at(digits);
    if !matches!(rest.first(), None | Some(b'/')) {
        return None;
    }
    Some((c_int::try_from(lifeboat_region::process::parse_decimal(number)?).ok()?, rest))
}

/// The descriptor that a path in `/proc` or `/dev` means.
pub fn descriptor_meant(path: *const c_char) -> Option<c_int> {
    let mut room = user::Room::new();
    match number_path(user::path(path, &mut room).ok()?) {
        Some((number, b"")) => Some(number),
        _ => None,
    }
}

/// The kernel's path for a path of ours that leads out of the mount.
pub fn outside<'a>(start: InodeId, path: &[u8], last: LastLink, buffer: &'a mut Buffer) -> Result<&'a CStr> {
    let length = call::call_once(|file_system, who| file_system.outside_path(who, start, path, last, buffer))?;
    *buffer.get_mut(length).ok_or(Errno::NAMETOOLONG)? = 0;
    CStr::from_bytes_until_nul(&buffer[..]).map_err(|_| Errno::NAMETOOLONG)
}

/// Runs `ours` on the name that a path ends with, or `theirs` (directory and path) when it is the kernel's.
#[inline(always)]
pub fn on_name<T: Answer<C>, C: Failure>(
    directory: c_int,
    path: *const c_char,
    theirs: impl Fn(c_int, *const c_char) -> C,
    ours: impl Fn(&FileSystem, &Caller<'_>, InodeId, &[u8]) -> Result<T>,
) -> C {
    on_path(directory, path, LastLink::Keep, theirs, ours)
}

/// Runs `ours` on one of our directories and the path from there, or `theirs`. `last`: whether the call itself follows
/// a link at the end.
#[inline(always)]
pub fn on_path<T: Answer<C>, C: Failure>(
    directory: c_int,
    path: *const c_char,
    last: LastLink,
    theirs: impl Fn(c_int, *const c_char) -> C,
    ours: impl Fn(&FileSystem, &Caller<'_>, InodeId, &[u8]) -> Result<T>,
) -> C {
    let both = Both { last, theirs, ours };
    if surely_foreign(directory, path) {
        return both.theirs_first(directory, path, 0);
    }
    both.found_out(directory, path)
}

/// Runs `ours` on the inode that a path leads to, or `theirs` when it is the kernel's.
#[inline(always)]
pub fn on_inode<T: Answer<C>, C: Failure>(
    directory: c_int,
    path: *const c_char,
    last: LastLink,
    theirs: impl Fn(c_int, *const c_char) -> C,
    ours: impl Fn(&FileSystem, &Caller<'_>, InodeId) -> Result<T>,
) -> C {
    on_inode_after(|| Ok(()), (directory, path, last), theirs, ours)
}

/// As [`on_inode`]; `check` comes before the file is looked for, when the path is ours.
#[inline(always)]
pub fn on_inode_after<T: Answer<C>, C: Failure>(
    check: impl Fn() -> Result<()>,
    (directory, path, last): (c_int, *const c_char, LastLink),
    theirs: impl Fn(c_int, *const c_char) -> C,
    ours: impl Fn(&FileSystem, &Caller<'_>, InodeId) -> Result<T>,
) -> C {
    let resolved = |file_system: &FileSystem, who: &Caller<'_>, start: InodeId, rest: &[u8]| {
        check()?;
        let inode = file_system.resolve(who, start, rest, last)?;
        ours(file_system, who, inode)
    };
    let both = Both { last, theirs, ours: resolved };
    if surely_foreign(directory, path) {
        return both.theirs_first(directory, path, 0);
    }
    on_inode_slowly(directory, path, &ours, &both)
}

#[inline(never)]
fn on_inode_slowly<T: Answer<C>, C: Failure>(
    directory: c_int,
    path: *const c_char,
    ours: &impl Fn(&FileSystem, &Caller<'_>, InodeId) -> Result<T>,
    both: &Both<impl Fn(c_int, *const c_char) -> C, impl Fn(&FileSystem, &Caller<'_>, InodeId, &[u8]) -> Result<T>>,
) -> C {
    let mut room = user::Room::new();
    match locate(directory, path, &mut room) {
        Place::Descriptor(file) if both.last == LastLink::Follow => {
            give(call::call(|file_system, who| ours(file_system, who, file_system.inode_of(file)?)))
        }
        place => both.at(directory, path, place),
    }
}

/// Times that a path may change between the mount and the kernel.
const CHANGES_MAX: usize = 4;

/// The two ways to run a call on one path: the kernel's, and ours from one of our directories.
struct Both<K, O> {
    last: LastLink,
    theirs: K,
    ours: O,
}

impl<K, O> Both<K, O> {
    #[inline(never)]
    fn found_out<T: Answer<C>, C: Failure>(&self, directory: c_int, path: *const c_char) -> C
    where
        K: Fn(c_int, *const c_char) -> C,
        O: Fn(&FileSystem, &Caller<'_>, InodeId, &[u8]) -> Result<T>,
    {
        let mut room = user::Room::new();
        self.at(directory, path, locate(directory, path, &mut room))
    }

    /// The call on a path that was located.
    fn at<T: Answer<C>, C: Failure>(&self, directory: c_int, path: *const c_char, place: Place<'_>) -> C
    where
        K: Fn(c_int, *const c_char) -> C,
        O: Fn(&FileSystem, &Caller<'_>, InodeId, &[u8]) -> Result<T>,
    {
        match place {
            Place::Foreign | Place::Descriptor(_) => self.theirs_first(directory, path, 0),
            Place::Refused(error) => fail(error),
            Place::Ours(start, rest) => self.ours_first(start, rest, 0),
        }
    }

    /// The kernel's turn, and ours when the path turns out to lead to the mount.
    #[inline(always)]
    fn theirs_first<T: Answer<C>, C: Failure>(&self, directory: c_int, path: *const c_char, changes: usize) -> C
    where
        K: Fn(c_int, *const c_char) -> C,
        O: Fn(&FileSystem, &Caller<'_>, InodeId, &[u8]) -> Result<T>,
    {
        let answer = (self.theirs)(directory, path);
        if !answer.failed() || !covered::explains_error() || changes == CHANGES_MAX {
            return answer;
        }
        self.entered(directory, path, changes)
    }

    #[cold]
    #[inline(never)]
    fn entered<T: Answer<C>, C: Failure>(&self, directory: c_int, path: *const c_char, changes: usize) -> C
    where
        K: Fn(c_int, *const c_char) -> C,
        O: Fn(&FileSystem, &Caller<'_>, InodeId, &[u8]) -> Result<T>,
    {
        let mut buffer = [0; user::PATH_MAX];
        match covered::entered(directory, path, self.last, &mut buffer) {
            Some((start, rest)) => self.ours_first(start, rest, changes + 1),
            None => C::FAILED,
        }
    }

    /// Our turn, and the kernel's when the path leads out of the mount.
    #[inline(never)]
    fn ours_first<T: Answer<C>, C: Failure>(&self, start: InodeId, rest: &[u8], changes: usize) -> C
    where
        K: Fn(c_int, *const c_char) -> C,
        O: Fn(&FileSystem, &Caller<'_>, InodeId, &[u8]) -> Result<T>,
    {
        match call::call(|file_system, who| (self.ours)(file_system, who, start, rest)) {
            Err(OUTSIDE) => self.left(start, rest, changes),
            result => give(result),
        }
    }

    #[cold]
    #[inline(never)]
    fn left<T: Answer<C>, C: Failure>(&self, start: InodeId, rest: &[u8], changes: usize) -> C
    where
        K: Fn(c_int, *const c_char) -> C,
        O: Fn(&FileSystem, &Caller<'_>, InodeId, &[u8]) -> Result<T>,
    {
        let mut buffer = [0; user::PATH_MAX];
        match outside(start, rest, self.last, &mut buffer) {
            Ok(outside) => self.theirs_first(libc::AT_FDCWD, outside.as_ptr(), changes),
            Err(error) => fail(error),
        }
    }
}

/// Whether a path is the empty string, which `AT_EMPTY_PATH` makes mean the directory itself.
pub fn is_empty(path: *const c_char) -> bool {
    user::peek(path) == Some(0)
}
