//! Opening a file of ours: the open file in the region first, then its placeholder, then the entry in the table.

use crate::answer::{Failure, fail};
use crate::kept_tags::{self, Reserved};
use crate::{call, covered, descriptors, fifos, path, sharing, signals, state, tags, user};
use core::ffi::{c_char, c_int};
use lifeboat_fs::{Errno, FileSystem, InodeId, LastLink, OUTSIDE, OpenFile, Opened, Result};
use rustix::fd::OwnedFd;

/// Times that a path may change between the mount and the kernel.
const CHANGES_MAX: usize = 4;

/// What is to be opened.
#[derive(Clone, Copy)]
pub struct Wish {
    /// Directory that the path starts from.
    pub directory: c_int,
    /// The path.
    pub name: *const c_char,
    /// `O_*`.
    pub flags: c_int,
    /// Permissions of a new file.
    pub mode: libc::mode_t,
}

/// Opens a path wherever it leads: `theirs` asks the kernel, `ours` makes the program's answer out of a new descriptor
/// of ours. `is_covered` tells whether what the kernel opened is the covered directory, and if so closes it.
#[inline(always)]
pub fn open_anywhere<C: Failure>(
    wish: Wish,
    theirs: impl Fn(c_int, *const c_char) -> C,
    is_covered: impl Fn(&C) -> bool,
    ours: impl Fn(Result<c_int>) -> C,
) -> C {
    if path::surely_foreign(wish.directory, wish.name) {
        let answer = theirs(wish.directory, wish.name);
        let failed = answer.failed();
        if if failed { !covered::explains_error() } else { !is_covered(&answer) } {
            return answer;
        }
        return open_entered(wish, failed, &theirs, &ours, 0);
    }
    open_slowly(wish, &theirs, &is_covered, &ours)
}

#[inline(never)]
fn open_slowly<C: Failure>(
    wish: Wish,
    theirs: &impl Fn(c_int, *const c_char) -> C,
    is_covered: &impl Fn(&C) -> bool,
    ours: &impl Fn(Result<c_int>) -> C,
) -> C {
    let mut room = user::Room::new();
    match path::locate(wish.directory, wish.name, &mut room) {
        path::Place::Foreign => {
            let answer = theirs(wish.directory, wish.name);
            let failed = answer.failed();
            if if failed { !covered::explains_error() } else { !is_covered(&answer) } {
                return answer;
            }
            open_entered(wish, failed, theirs, ours, 0)
        }
        path::Place::Refused(error) => fail(error),
        path::Place::Descriptor(file) => ours(reopen(file, wish.flags)),
        path::Place::Ours(start, rest) => open_from(start, rest, wish, theirs, ours, 0),
    }
}

/// Opens a path that begins in the mount and may lead out of it.
#[inline(never)]
fn open_from<C: Failure>(
    start: InodeId,
    rest: &[u8],
    wish: Wish,
    theirs: &impl Fn(c_int, *const c_char) -> C,
    ours: &impl Fn(Result<c_int>) -> C,
    changes: usize,
) -> C {
    match open_at(start, rest, wish.flags, wish.mode) {
        Err(OUTSIDE) => {
            let mut outside = [0; user::PATH_MAX];
            match path::outside(start, rest, last_link(wish.flags), &mut outside) {
                Err(error) => fail(error),
                Ok(name) => {
                    let answer = theirs(libc::AT_FDCWD, name.as_ptr());
                    if !answer.failed() || !covered::explains_error() || changes == CHANGES_MAX {
                        return answer;
                    }
                    let wish = Wish { directory: libc::AT_FDCWD, name: name.as_ptr(), ..wish };
                    open_entered(wish, true, theirs, ours, changes)
                }
            }
        }
        result => ours(result),
    }
}

/// After the kernel: the path led to the mount, if it `failed` perhaps, else to its root.
#[cold]
#[inline(never)]
fn open_entered<C: Failure>(
    wish: Wish,
    failed: bool,
    theirs: &impl Fn(c_int, *const c_char) -> C,
    ours: &impl Fn(Result<c_int>) -> C,
    changes: usize,
) -> C {
    if !failed {
        return ours(state::file_system().and_then(|file_system| open_at(file_system.root(), b"/", wish.flags, 0)));
    }
    let mut buffer = [0; user::PATH_MAX];
    match covered::entered(wish.directory, wish.name, last_link(wish.flags), &mut buffer) {
        Some((start, rest)) => open_from(start, rest, wish, theirs, ours, changes + 1),
        None => C::FAILED,
    }
}

/// For [`open_anywhere`]: whether a new descriptor of the kernel's is of the covered directory. Asked only where the
/// flags say that a directory is expected.
#[inline(always)]
pub fn is_covered(descriptor: c_int, flags: c_int) -> bool {
    flags & (libc::O_DIRECTORY | libc::O_PATH) != 0 && close_if_covered(descriptor)
}

#[inline(never)]
fn close_if_covered(descriptor: c_int) -> bool {
    let found = covered::is(descriptor);
    if found {
        libc_function!(c"close", fn(c_int) -> c_int)(descriptor);
    }
    found
}

/// Opens a path that starts at one of our directories. A FIFO's descriptor is the kernel's.
pub fn open_at(start: InodeId, rest: &[u8], flags: c_int, mode: libc::mode_t) -> Result<c_int> {
    let held = signals::hold();
    let kept = kept_tags::reserve(tags::access(flags));
    let file = kept.as_ref().map(Reserved::file);
    match call::call_held(|file_system, who| file_system.open_with(who, start, rest, flags, mode, file))? {
        Opened::File(file) => place(file, flags, kept),
        Opened::Fifo(inode) => {
            drop(kept);
            drop(held);
            fifos::open(inode, flags)
        }
    }
}

/// Opens again what one of our descriptors stands for, as a path below `/proc/self/fd` does.
pub fn reopen(file: OpenFile, flags: c_int) -> Result<c_int> {
    let held = signals::hold();
    let opened = call::call_held(|file_system, who| {
        let inode = file_system.inode_of(file)?;
        file_system.claim_to_open(inode, flags, None)?;
        file_system.open_any_inode(who, inode, flags)
    })?;
    match opened {
        Opened::File(file) => place(file, flags, None),
        Opened::Fifo(inode) => {
            drop(held);
            fifos::open(inode, flags)
        }
    }
}

fn last_link(flags: c_int) -> LastLink {
    let exclusive = libc::O_CREAT | libc::O_EXCL;
    if flags & libc::O_NOFOLLOW != 0 || flags & exclusive == exclusive { LastLink::Keep } else { LastLink::Follow }
}

/// Gives a new open file its descriptor. `kept`: what was reserved for it.
fn place(file: OpenFile, flags: c_int, kept: Option<Reserved>) -> Result<c_int> {
    let file_system = state::file_system()?;
    let before = sharing::Moment::now();
    // Until the placeholder is held and the file is marked so, it counts as open because this process lives.
    let tag = match lent(kept, file, flags) {
        Some(tag) => Ok(tag),
        None => open_tag(&file_system, file, flags),
    };
    let tag = tag.and_then(|tag| file_system.mark_tagged(file).map(|()| tag));
    match tag {
        Ok(tag) => {
            let descriptor = tags::hand_over(tag);
            if !state::borrows_memory() {
                descriptors::enter(descriptor, descriptors::Entry { file, shared: false });
                if before.may_be_before_a_fork() {
                    descriptors::mark_shared(descriptor);
                }
            }
            Ok(descriptor)
        }
        Err(error) => {
            let _ = file_system.close(file);
            // The tags' own file system being full is a limit on open files, not on space.
            Err(if error == Errno::NOSPC { Errno::NFILE } else { error })
        }
    }
}

fn lent(kept: Option<Reserved>, file: OpenFile, flags: c_int) -> Option<OwnedFd> {
    let kept = kept?;
    if kept.file() == file {
        return kept.lend(flags & libc::O_CLOEXEC != 0);
    }
    kept.refuse();
    None
}

fn open_tag(file_system: &FileSystem, file: OpenFile, flags: c_int) -> Result<OwnedFd> {
    let generation = file_system.generation_of(file)?;
    match tags::open(file, generation, flags) {
        Err(Errno::BADF) if descriptors::restore(file_system) => tags::open(file, generation, flags),
        tag => tag,
    }
}
