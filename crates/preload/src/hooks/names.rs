//! Names: making, removing, renaming, linking.

use crate::answer::{fail, give};
use crate::path::{self, Buffer, Place};
use crate::user::{self, Room};
use crate::{call, covered};
use core::ffi::{c_char, c_int, c_uint};
use lifeboat_fs::{Caller, Errno, FileSystem, InodeId, LastLink, OUTSIDE, PATH_LONGEST, Result};

/// One of the two paths of a call.
#[derive(Clone, Copy)]
struct End<'a> {
    start: InodeId,
    path: &'a [u8],
}

type PathAt = (c_int, *const c_char);

/// One of two paths, if it is ours.
fn locate_end<'a>(given: PathAt, room: &'a mut Room) -> Result<Option<End<'a>>> {
    match path::locate(given.0, given.1, room) {
        Place::Refused(error) => Err(error),
        Place::Ours(start, path) => Ok(Some(End { start, path })),
        Place::Foreign | Place::Descriptor(_) => Ok(None),
    }
}

fn entered_end<'a>(given: PathAt, last: LastLink, buffer: &'a mut Buffer) -> Option<End<'a>> {
    covered::entered(given.0, given.1, last, buffer).map(|(start, path)| End { start, path })
}

/// Stands for a path that no file system needs to look at.
static TOO_LONG: [u8; PATH_LONGEST + 1] = [b'/'; PATH_LONGEST + 1];

/// Why no file system can look at a path.
fn wrong_with(path: *const c_char) -> Option<Errno> {
    user::path(path, &mut Room::new()).err()
}

/// For a new name that is not ours.
fn not_ours(_: c_int, path: *const c_char) -> c_int {
    fail(wrong_with(path).unwrap_or(Errno::XDEV))
}

/// Runs `ours` when both paths lie below the mount, `theirs` when both lead elsewhere; EXDEV between the two.
#[inline(never)]
fn on_pair(
    old: PathAt,
    new: PathAt,
    last: LastLink,
    theirs: impl Fn(PathAt, PathAt) -> c_int,
    ours: impl Fn(&FileSystem, &Caller<'_>, (InodeId, &[u8]), (InodeId, &[u8])) -> Result<()>,
) -> c_int {
    let (mut first_room, mut second_room) = (Room::new(), Room::new());
    let first = match locate_end(old, &mut first_room) {
        Ok(end) => end,
        Err(error) => return fail(error),
    };
    let second = match locate_end(new, &mut second_room) {
        Ok(end) => end,
        Err(error) => return fail(error),
    };
    if first.is_none() && second.is_none() {
        let answer = theirs(old, new);
        if answer == 0 || !covered::explains_error() {
            return answer;
        }
    }
    let [mut first_entered, mut second_entered] = [[0; user::PATH_MAX]; 2];
    let asked = (first.is_some(), second.is_some());
    let first = first.or_else(|| entered_end(old, last, &mut first_entered));
    let second = second.or_else(|| entered_end(new, LastLink::Keep, &mut second_entered));
    let wrong = match (first, second) {
        (Some(_), None) => wrong_with(new.1),
        (None, Some(_)) => wrong_with(old.1),
        _ => None,
    };
    if let (Some(error), Some(End { start, .. })) = (wrong, first.or(second)) {
        // Other things are wrong before it comes to the path that is too long or cannot be read.
        let unusable = End { start, path: &TOO_LONG };
        let (from, to) = (first.unwrap_or(unusable), second.unwrap_or(unusable));
        let result =
            call::call(|file_system, who| ours(file_system, who, (from.start, from.path), (to.start, to.path)));
        return give(result.map_err(|found| if found == Errno::NAMETOOLONG { error } else { found }));
    }
    let (Some(from), Some(to)) = (first, second) else {
        return match (first.is_some(), second.is_some()) {
            (false, false) => -1,
            now if now == asked => leave_for(old, new, first, second, last, theirs),
            _ => fail(Errno::XDEV),
        };
    };
    match call::call(|file_system, who| ours(file_system, who, (from.start, from.path), (to.start, to.path))) {
        Err(OUTSIDE) => leave_for(old, new, first, second, last, theirs),
        result => give(result),
    }
}

/// The kernel's turn if every side that began below the mount leads out of it.
#[inline(never)]
fn leave_for(
    old: PathAt,
    new: PathAt,
    first: Option<End<'_>>,
    second: Option<End<'_>>,
    last: LastLink,
    theirs: impl Fn(PathAt, PathAt) -> c_int,
) -> c_int {
    let mut buffers = [[0; user::PATH_MAX]; 2];
    let [first_out, second_out] = &mut buffers;
    if let Some(error) = wrong_with(old.1).or_else(|| wrong_with(new.1)) {
        return fail(error);
    }
    let old = match outside_or_as_it_is(old, first, last, first_out) {
        Some(old) => old,
        None => return fail(Errno::XDEV),
    };
    match outside_or_as_it_is(new, second, LastLink::Keep, second_out) {
        Some(new) => theirs(old, new),
        None => fail(Errno::XDEV),
    }
}

fn outside_or_as_it_is(given: PathAt, end: Option<End<'_>>, last: LastLink, buffer: &mut Buffer) -> Option<PathAt> {
    let Some(end) = end else { return Some(given) };
    let outside = path::outside(end.start, end.path, last, buffer).ok()?;
    Some((libc::AT_FDCWD, outside.as_ptr()))
}

fn both_foreign(old: PathAt, new: PathAt) -> bool {
    path::surely_foreign(old.0, old.1) && path::surely_foreign(new.0, new.1)
}

fn rename_any(old: PathAt, new: PathAt, flags: c_uint, theirs: impl Fn(PathAt, PathAt) -> c_int) -> c_int {
    const EXCHANGE: c_uint = libc::RENAME_EXCHANGE;
    if flags & !7 != 0 || (flags & EXCHANGE != 0 && flags != EXCHANGE) {
        // The kernel says so before it looks at a name.
        return theirs(old, new);
    }
    if both_foreign(old, new) {
        let answer = theirs(old, new);
        if answer == 0 || !covered::explains_error() {
            return answer;
        }
    }
    on_pair(old, new, LastLink::Keep, theirs, |file_system, who, old, new| {
        file_system.rename(who, old.0, old.1, new.0, new.1, flags)
    })
}

fn link_any(old: PathAt, new: PathAt, flags: c_int, theirs: impl Fn(PathAt, PathAt) -> c_int) -> c_int {
    if flags & !(libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return theirs(old, new);
    }
    if let Some(file) = super::stat::meant_by_empty_path(old.0, old.1, flags) {
        return path::on_name(new.0, new.1, not_ours, |file_system, who, start, name| {
            file_system.link(who, file_system.inode_of(file)?, start, name)
        });
    }
    if both_foreign(old, new) {
        let answer = theirs(old, new);
        if answer == 0 || !covered::explains_error() {
            return answer;
        }
    }
    let last = if flags & libc::AT_SYMLINK_FOLLOW != 0 { LastLink::Follow } else { LastLink::Keep };
    // A link by /proc/self/fd/N is how a file without a name gets one.
    if last == LastLink::Follow
        && let Some(answer) = link_descriptor(old, new)
    {
        return answer;
    }
    on_pair(old, new, last, theirs, |file_system, who, old, new| {
        let inode = file_system.resolve(who, old.0, old.1, last)?;
        file_system.link(who, inode, new.0, new.1)
    })
}

#[inline(never)]
fn link_descriptor(old: PathAt, new: PathAt) -> Option<c_int> {
    let mut room = Room::new();
    let Place::Descriptor(file) = path::locate(old.0, old.1, &mut room) else { return None };
    Some(path::on_name(new.0, new.1, not_ours, |file_system, who, start, name| {
        file_system.link(who, file_system.inode_of(file)?, start, name)
    }))
}

/// Copies a symbolic link's target, which is ours to read.
fn symlink_any(
    target: *const c_char,
    directory: c_int,
    name: *const c_char,
    theirs: impl Fn(c_int, *const c_char) -> c_int,
) -> c_int {
    if path::surely_foreign(directory, name) {
        let answer = theirs(directory, name);
        if answer == 0 || !covered::explains_error() {
            return answer;
        }
    }
    let mut room = Room::new();
    match user::path(target, &mut room) {
        Err(error) => fail(error),
        Ok(text) => path::on_name(directory, name, theirs, |file_system, who, start, name| {
            file_system.symlink(who, text, start, name)
        }),
    }
}

fn remove_directory(file_system: &FileSystem, who: &Caller<'_>, start: InodeId, name: &[u8]) -> Result<()> {
    file_system.rmdir(who, start, name)
}

fn remove_name(file_system: &FileSystem, who: &Caller<'_>, start: InodeId, name: &[u8]) -> Result<()> {
    file_system.unlink(who, start, name)
}

fn make_node(
    directory: c_int,
    name: *const c_char,
    mode: libc::mode_t,
    device: libc::dev_t,
    theirs: impl Fn(c_int, *const c_char) -> c_int,
) -> c_int {
    let mode = if mode & libc::S_IFMT == 0 { mode | libc::S_IFREG } else { mode };
    path::on_name(directory, name, theirs, |file_system, who, start, name| {
        file_system.mknod(who, start, name, mode, device)
    })
}

hooks! {
    fn rename(old: *const c_char, new: *const c_char) -> c_int {
        rename_any((libc::AT_FDCWD, old), (libc::AT_FDCWD, new), 0, |old, new| next(old.1, new.1))
    }

    fn renameat(old_directory: c_int, old: *const c_char, new_directory: c_int, new: *const c_char) -> c_int {
        rename_any((old_directory, old), (new_directory, new), 0, |old, new| next(old.0, old.1, new.0, new.1))
    }

    fn renameat2(
        old_directory: c_int,
        old: *const c_char,
        new_directory: c_int,
        new: *const c_char,
        flags: c_uint,
    ) -> c_int {
        rename_any((old_directory, old), (new_directory, new), flags, |old, new| {
            next(old.0, old.1, new.0, new.1, flags)
        })
    }

    fn link(old: *const c_char, new: *const c_char) -> c_int {
        link_any((libc::AT_FDCWD, old), (libc::AT_FDCWD, new), 0, |old, new| next(old.1, new.1))
    }

    fn linkat(
        old_directory: c_int,
        old: *const c_char,
        new_directory: c_int,
        new: *const c_char,
        flags: c_int,
    ) -> c_int {
        link_any((old_directory, old), (new_directory, new), flags, |old, new| next(old.0, old.1, new.0, new.1, flags))
    }

    fn symlink(target: *const c_char, name: *const c_char) -> c_int {
        symlink_any(target, libc::AT_FDCWD, name, |_, name| next(target, name))
    }

    fn symlinkat(target: *const c_char, directory: c_int, name: *const c_char) -> c_int {
        symlink_any(target, directory, name, |directory, name| next(target, directory, name))
    }

    fn unlink(name: *const c_char) -> c_int {
        path::on_name(libc::AT_FDCWD, name, |_, name| next(name), remove_name)
    }

    fn unlinkat(directory: c_int, name: *const c_char, flags: c_int) -> c_int {
        match flags {
            0 => path::on_name(directory, name, |directory, name| next(directory, name, flags), remove_name),
            libc::AT_REMOVEDIR => {
                path::on_name(directory, name, |directory, name| next(directory, name, flags), remove_directory)
            }
            _ => next(directory, name, flags),
        }
    }

    fn rmdir(name: *const c_char) -> c_int {
        path::on_name(libc::AT_FDCWD, name, |_, name| next(name), remove_directory)
    }

    fn remove(name: *const c_char) -> c_int {
        path::on_name(
            libc::AT_FDCWD,
            name,
            |_, name| next(name),
            |file_system, who, start, name| match file_system.unlink(who, start, name) {
                Err(Errno::ISDIR) => file_system.rmdir(who, start, name),
                result => result,
            },
        )
    }

    fn mkdir(name: *const c_char, mode: libc::mode_t) -> c_int {
        path::on_name(
            libc::AT_FDCWD,
            name,
            |_, name| next(name, mode),
            |file_system, who, start, name| file_system.mkdir(who, start, name, mode),
        )
    }

    fn mkdirat(directory: c_int, name: *const c_char, mode: libc::mode_t) -> c_int {
        path::on_name(
            directory,
            name,
            |directory, name| next(directory, name, mode),
            |file_system, who, start, name| file_system.mkdir(who, start, name, mode),
        )
    }

    fn mknod(name: *const c_char, mode: libc::mode_t, device: libc::dev_t) -> c_int {
        make_node(libc::AT_FDCWD, name, mode, device, |_, name| next(name, mode, device))
    }

    fn mknodat(directory: c_int, name: *const c_char, mode: libc::mode_t, device: libc::dev_t) -> c_int {
        make_node(directory, name, mode, device, |directory, name| next(directory, name, mode, device))
    }

    fn mkfifo(name: *const c_char, mode: libc::mode_t) -> c_int {
        make_node(libc::AT_FDCWD, name, (mode & 0o7777) | libc::S_IFIFO, 0, |_, name| next(name, mode))
    }

    fn mkfifoat(directory: c_int, name: *const c_char, mode: libc::mode_t) -> c_int {
        make_node(directory, name, (mode & 0o7777) | libc::S_IFIFO, 0, |directory, name| next(directory, name, mode))
    }
}

/// Reads a link's text into a buffer of ours and copies what fits.
fn read_link(
    directory: c_int,
    name: *const c_char,
    buffer: *mut c_char,
    length: usize,
    theirs: impl Fn(c_int, *const c_char) -> isize,
) -> isize {
    let put = |file_system: &FileSystem, inode| {
        if length == 0 {
            return Err(Errno::INVAL);
        }
        let mut text = [0; user::PATH_MAX];
        let count = file_system.readlink(inode, &mut text)?.min(length);
        user::put_bytes(buffer, text.get(..count).unwrap_or_default())?;
        Ok(count)
    };
    // An empty path means the link that the descriptor was opened on.
    if path::is_empty(name)
        && let Some(file) = crate::descriptors::find(directory)
    {
        let answer = call::call(|file_system, _| put(file_system, file_system.inode_of(file)?));
        // What is no link is not there to be read.
        return give(answer.map_err(|error| if error == Errno::INVAL && length > 0 { Errno::NOENT } else { error }));
    }
    path::on_inode(directory, name, LastLink::Keep, theirs, |file_system, _, inode| put(file_system, inode))
}

hooks! {
    fn readlink(name: *const c_char, buffer: *mut c_char, length: usize) -> isize {
        read_link(libc::AT_FDCWD, name, buffer, length, |_, name| next(name, buffer, length))
    }

    fn readlinkat(directory: c_int, name: *const c_char, buffer: *mut c_char, length: usize) -> isize {
        read_link(directory, name, buffer, length, |directory, name| next(directory, name, buffer, length))
    }

    fn __readlink_chk(name: *const c_char, buffer: *mut c_char, length: usize, room: usize) -> isize {
        if length > room {
            return next(name, buffer, length, room);
        }
        read_link(libc::AT_FDCWD, name, buffer, length, |_, name| next(name, buffer, length, room))
    }

    fn __readlinkat_chk(
        directory: c_int,
        name: *const c_char,
        buffer: *mut c_char,
        length: usize,
        room: usize,
    ) -> isize {
        if length > room {
            return next(directory, name, buffer, length, room);
        }
        read_link(directory, name, buffer, length, |directory, name| next(directory, name, buffer, length, room))
    }
}

/// The calls of programs linked before glibc 2.33, which pass a version of the interface first.
mod old {
    use super::*;

    hooks! {
        fn __xmknod(_version: c_int, name: *const c_char, mode: libc::mode_t, device: *const libc::dev_t) -> c_int {
            match user::get(device) {
                Ok(device) => super::mknod(name, mode, device),
                Err(error) => fail(error),
            }
        }

        fn __xmknodat(
            _version: c_int,
            directory: c_int,
            name: *const c_char,
            mode: libc::mode_t,
            device: *const libc::dev_t,
        ) -> c_int {
            match user::get(device) {
                Ok(device) => super::mknodat(directory, name, mode, device),
                Err(error) => fail(error),
            }
        }
    }
}
