//! Opening a file of ours: the open file in the region first, then its placeholder, then the entry in the table.

use crate::{call, descriptors, path, signals, state, tags};
use core::ffi::{c_char, c_int};
use lifeboat_fs::{Errno, InodeId, LastLink, OUTSIDE, OpenFile, Result};

/// Result of opening a path.
pub enum Opened {
    /// The path is the kernel's; its name is as given.
    Foreign,
    /// The path is the kernel's, under the name now in the buffer.
    Outside,
    /// A new descriptor of ours, or the error.
    Done(Result<c_int>),
}

/// Opens a path if it is ours.
#[inline(never)]
pub fn open(
    directory: c_int,
    name: *const c_char,
    flags: c_int,
    mode: libc::mode_t,
    outside: &mut path::Buffer,
) -> Opened {
    let mut buffer = [0; crate::user::PATH_MAX];
    let (start, rest) = match path::locate(directory, name, &mut buffer) {
        path::Place::Foreign => return Opened::Foreign,
        path::Place::Refused(error) => return Opened::Done(Err(error)),
        path::Place::Descriptor(file) => return Opened::Done(reopen(file, flags)),
        path::Place::Ours(start, rest) => (start, rest),
    };
    match open_at(start, rest, flags, mode) {
        Err(OUTSIDE) => match path::outside(start, rest, last_link(flags), outside) {
            Ok(_) => Opened::Outside,
            Err(error) => Opened::Done(Err(error)),
        },
        result => Opened::Done(result),
    }
}

/// Opens a path that starts at one of our directories.
pub fn open_at(start: InodeId, rest: &[u8], flags: c_int, mode: libc::mode_t) -> Result<c_int> {
    let _held = signals::hold();
    let file = call::call_held(|file_system, who| file_system.open(who, start, rest, flags, mode))?;
    place(file, flags)
}

/// Opens again what one of our descriptors stands for, as a path below `/proc/self/fd` does.
pub fn reopen(file: OpenFile, flags: c_int) -> Result<c_int> {
    let _held = signals::hold();
    let file = call::call_held(|file_system, who| file_system.open_inode(who, file_system.inode_of(file)?, flags))?;
    place(file, flags)
}

fn last_link(flags: c_int) -> LastLink {
    let exclusive = libc::O_CREAT | libc::O_EXCL;
    if flags & libc::O_NOFOLLOW != 0 || flags & exclusive == exclusive { LastLink::Keep } else { LastLink::Follow }
}

/// Gives a new open file its descriptor.
fn place(file: OpenFile, flags: c_int) -> Result<c_int> {
    let file_system = state::file_system()?;
    // Until the placeholder is held and the file is marked so, it counts as open because this process lives.
    let tag = tags::open(file, flags).and_then(|tag| file_system.mark_tagged(file).map(|()| tag));
    match tag {
        Ok(tag) => {
            let descriptor = tags::hand_over(tag);
            if !state::borrows_memory() {
                descriptors::enter(descriptor, descriptors::Entry { file, shared: false });
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
