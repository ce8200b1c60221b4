//! The life of descriptors: close, duplicate, ask and set.

use super::{locks, socket_names};
use crate::answer::{fail, give};
use crate::{call, descriptors, environment, kept_tags, state, user};
use core::ffi::{c_int, c_uint, c_ulong, c_void};
use lifeboat_fs::{Errno, OpenFile};

/// `fcntl` commands that concern the descriptor or the kernel's own bookkeeping, which the placeholder has like any
/// other: F_GETFD, F_SETFD, F_SETOWN, F_GETOWN, F_SETSIG, F_GETSIG, F_SETOWN_EX, F_GETOWN_EX.
const KERNEL_COMMANDS: [c_int; 8] = [1, 2, 8, 9, 10, 11, 15, 16];

/// Those of them that set something which stays with the placeholder, so that it must not be kept for another file: F_SETOWN,
/// F_SETSIG, F_SETOWN_EX.
const SETTINGS: [c_int; 3] = [8, 10, 15];

/// Messages of one `recvmmsg` whose senders are shown by their names in the mount.
const NAMED_MESSAGES: usize = 64;

/// Shown by `F_GETFL` for every file that was opened on a 64-bit kernel.
const LARGE_FILE: c_int = 0o100_000;

fn control_ours(file: OpenFile, command: c_int, argument: usize, theirs: impl FnOnce() -> c_int) -> c_int {
    match command {
        libc::F_GETFL => give(call::data(|file_system| Ok(file_system.flags_of(file)? | LARGE_FILE))),
        libc::F_SETFL => give(call::call(|file_system, _| file_system.set_flags(file, argument as c_int))),
        libc::F_SETLEASE | libc::F_GETLEASE | libc::F_NOTIFY => fail(Errno::INVAL),
        _ if locks::LOCK_COMMANDS.contains(&command) => {
            give(locks::control(file, command, argument as *mut libc::flock))
        }
        _ if KERNEL_COMMANDS.contains(&command) => theirs(),
        _ => fail(Errno::INVAL),
    }
}

fn control_any(descriptor: c_int, command: c_int, argument: usize, theirs: impl FnOnce() -> c_int) -> c_int {
    let Some(file) = descriptors::find(descriptor) else { return theirs() };
    if command == libc::F_DUPFD || command == libc::F_DUPFD_CLOEXEC {
        let new = theirs();
        if new >= 0 {
            descriptors::duplicated(descriptor, new);
        }
        return new;
    }
    if SETTINGS.contains(&command) {
        descriptors::mark_shared(descriptor);
    }
    control_ours(file, command, argument, theirs)
}

fn device_control(file: OpenFile, request: c_ulong, argument: *mut c_void, theirs: impl FnOnce() -> c_int) -> c_int {
    /// `_IOW(0x94, 9, int)`, `_IOW(0x94, 13, struct file_clone_range)`, `_IOWR(0x94, 54, struct file_dedupe_range)`.
    const CLONE: [c_ulong; 3] = [0x4004_9409, 0x4020_940d, 0xc018_9436];
    const GET_BLOCK_SIZE: c_ulong = 2;
    match request {
        libc::FIOCLEX | libc::FIONCLEX => theirs(),
        libc::FIONBIO | libc::FIOASYNC => 0,
        libc::FIONREAD => give(bytes_ahead(file).and_then(|count| user::put(argument.cast::<c_int>(), &count))),
        GET_BLOCK_SIZE => give(user::put(argument.cast::<c_int>(), &4096)),
        _ if SPACE.iter().any(|(known, _)| *known == request) => give(allot(file, request, argument)),
        _ if CLONE.contains(&request) => fail(Errno::OPNOTSUPP),
        _ => fail(Errno::NOTTY),
    }
}

/// `_IOW('X', N, struct space_resv)`, for N = 40 to 43 and 57, and what each does to the space of a file.
const SPACE: [(c_ulong, c_int); 5] = [
    (0x4030_5828, 0),
    (0x4030_5829, libc::FALLOC_FL_PUNCH_HOLE),
    (0x4030_582a, 0),
    (0x4030_582b, libc::FALLOC_FL_PUNCH_HOLE),
    (0x4030_5839, libc::FALLOC_FL_ZERO_RANGE),
];

/// `struct space_resv`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Range {
    kind: i16,
    whence: i16,
    start: i64,
    length: i64,
    reserved: [u32; 6],
}

fn allot(file: OpenFile, request: c_ulong, argument: *const c_void) -> lifeboat_fs::Result<()> {
    let range = user::get(argument.cast::<Range>())?;
    let mode = SPACE.iter().find(|(known, _)| *known == request).map_or(0, |(_, mode)| *mode);
    let base = match c_int::from(range.whence) {
        libc::SEEK_SET => 0,
        libc::SEEK_CUR => call::data(|file_system| file_system.seek(file, 0, libc::SEEK_CUR as u32))?,
        libc::SEEK_END => call::data(|file_system| Ok(file_system.stat(file_system.inode_of(file)?)?.size))?,
        _ => return Err(Errno::INVAL),
    };
    let start = range.start.checked_add(base as i64).ok_or(Errno::INVAL)?;
    super::space::allocate(file, mode | libc::FALLOC_FL_KEEP_SIZE, start, range.length)
}

fn bytes_ahead(file: OpenFile) -> lifeboat_fs::Result<c_int> {
    call::data(|file_system| {
        let size = file_system.stat(file_system.inode_of(file)?)?.size;
        let position = file_system.seek(file, 0, libc::SEEK_CUR as u32)?;
        Ok(c_int::try_from(size.saturating_sub(position)).unwrap_or(c_int::MAX))
    })
}

/// Closes any descriptor; those that the region needs only seem to be closed.
pub(super) fn close_any(descriptor: c_int, theirs: impl FnOnce() -> c_int) -> c_int {
    match descriptors::find(descriptor) {
        Some(_) => give(descriptors::close(descriptor)),
        None if descriptors::is_internal(descriptor) => 0,
        None => {
            kept_tags::make_way(descriptor);
            theirs()
        }
    }
}

/// Closes a descriptor, whosever it is.
pub(crate) fn close_any_descriptor(descriptor: c_int) {
    close_any(descriptor, || libc_function!(c"close", fn(c_int) -> c_int)(descriptor));
}

/// Runs `theirs` on each stretch of numbers between the descriptors that the region needs.
fn close_between(first: c_uint, last: c_uint, theirs: impl Fn(c_uint, c_uint) -> c_int) -> c_int {
    let mut from = first;
    while let Some(internal) = descriptors::next_internal(from).filter(|&internal| internal <= last) {
        if from < internal {
            let answer = theirs(from, internal - 1);
            if answer != 0 {
                return answer;
            }
        }
        from = internal + 1;
        if from > last {
            return 0;
        }
    }
    theirs(from, last)
}

fn close_ours_between(first: c_uint, last: c_uint) {
    for descriptor in 0..descriptors::highest() {
        if (first..=last).contains(&(descriptor as c_uint)) && descriptors::is_tabled(descriptor) {
            let _ = descriptors::close(descriptor);
        }
    }
}

fn would_replace_internal(new: c_int) -> bool {
    descriptors::is_internal(new)
}

hooks! {
    fn close(descriptor: c_int) -> c_int, also __close {
        close_any(descriptor, || next(descriptor))
    }

    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
        const CLOSE_ON_EXEC: c_int = 4;
        if !state::attached() || flags & CLOSE_ON_EXEC != 0 || first > last {
            return next(first, last, flags);
        }
        if !state::borrows_memory() {
            close_ours_between(first, last);
            kept_tags::forget_all();
        }
        close_between(first, last, |first, last| next(first, last, flags))
    }

    fn dup(old: c_int) -> c_int {
        let new = next(old);
        if new >= 0 && descriptors::find(old).is_some() {
            descriptors::duplicated(old, new);
        }
        new
    }

    fn dup2(old: c_int, new: c_int) -> c_int, also __dup2 {
        if would_replace_internal(new) {
            return fail(Errno::BUSY);
        }
        kept_tags::make_way(new);
        let answer = next(old, new);
        if answer >= 0 {
            descriptors::duplicated(old, new);
        }
        answer
    }

    fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
        if would_replace_internal(new) {
            return fail(Errno::BUSY);
        }
        kept_tags::make_way(new);
        let answer = next(old, new, flags);
        if answer >= 0 {
            descriptors::duplicated(old, new);
        }
        answer
    }

    fn fcntl(descriptor: c_int, command: c_int, argument: usize) -> c_int, also fcntl64, also __fcntl {
        control_any(descriptor, command, argument, || next(descriptor, command, argument))
    }

    fn ioctl(descriptor: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
        match descriptors::find(descriptor) {
            None => next(descriptor, request, argument),
            Some(file) => device_control(file, request, argument, || next(descriptor, request, argument)),
        }
    }

    fn isatty(descriptor: c_int) -> c_int {
        match descriptors::find(descriptor) {
            None => next(descriptor),
            Some(_) => {
                crate::answer::set_errno(libc::ENOTTY);
                0
            }
        }
    }

    fn ttyname_r(descriptor: c_int, name: *mut libc::c_char, length: libc::size_t) -> c_int {
        match descriptors::find(descriptor) {
            None => next(descriptor, name, length),
            Some(_) => libc::ENOTTY,
        }
    }

    fn __ttyname_r_chk(
        descriptor: c_int,
        name: *mut libc::c_char,
        length: libc::size_t,
        room: libc::size_t,
    ) -> c_int {
        match descriptors::find(descriptor) {
            None => next(descriptor, name, length, room),
            Some(_) => libc::ENOTTY,
        }
    }

    fn ttyname(descriptor: c_int) -> *mut libc::c_char {
        match descriptors::find(descriptor) {
            None => next(descriptor),
            Some(_) => fail(Errno::NOTTY),
        }
    }

    fn sendmmsg(socket: c_int, messages: *mut libc::mmsghdr, count: c_uint, flags: c_int) -> c_int, also __sendmmsg {
        let carries = |index: usize| {
            user::get(messages.wrapping_add(index)).is_ok_and(|message| message.msg_hdr.msg_controllen > 0)
        };
        if state::attached() && (0..count as usize).any(carries) {
            descriptors::mark_all_shared();
        }
        next(socket, messages, count, flags)
    }

    fn recvmmsg(
        socket: c_int,
        messages: *mut libc::mmsghdr,
        count: c_uint,
        flags: c_int,
        patience: *mut libc::timespec,
    ) -> c_int {
        // What room each sender's address has is known only before.
        let mut rooms = [0; NAMED_MESSAGES];
        for (index, room) in rooms.iter_mut().enumerate().take(count as usize) {
            *room = socket_names::room_for_sender(messages.wrapping_add(index).cast());
        }
        let answer = next(socket, messages, count, flags, patience);
        if answer > 0 && state::configured() {
            for index in 0..answer as usize {
                let message = messages.wrapping_add(index).cast::<libc::msghdr>();
                adopt_received(message);
                socket_names::name_sender(message, rooms.get(index).copied().unwrap_or(0));
            }
        }
        answer
    }

    fn sendmsg(socket: c_int, message: *const libc::msghdr, flags: c_int) -> libc::ssize_t {
        // A descriptor may travel in the control part: its open file then has a second holder.
        if state::attached() && user::get(message).is_ok_and(|message| message.msg_controllen > 0) {
            descriptors::mark_all_shared();
        }
        super::sockets::send_message(message, |message| next(socket, message, flags))
    }

    fn recvmsg(socket: c_int, message: *mut libc::msghdr, flags: c_int) -> libc::ssize_t {
        let room = socket_names::room_for_sender(message);
        let answer = next(socket, message, flags);
        if answer >= 0 && state::configured() {
            adopt_received(message);
            socket_names::name_sender(message, room);
        }
        answer
    }
}

// Outside `hooks!`, because it answers nothing.
/// `closefrom`: closes every descriptor from `first` on, but those that the region needs.
#[unsafe(no_mangle)]
extern "C" fn closefrom(first: c_int) {
    close_range(first.max(0) as c_uint, c_uint::MAX, 0);
}

/// Enters placeholders that came over a socket.
fn adopt_received(message: *const libc::msghdr) {
    let Ok(message) = user::get(message) else { return };
    if message.msg_control.is_null() || environment::region().is_empty() {
        return;
    }
    // SAFETY: the kernel has just filled the control part of this header, and the CMSG functions stay inside it.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(header);
                let bytes = ((*header).cmsg_len).saturating_sub(data.offset_from(header.cast()) as usize);
                for index in 0..bytes / size_of::<c_int>() {
                    descriptors::adopt_foreign(data.cast::<c_int>().add(index).read_unaligned());
                }
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
}
