//! Permissions, owners, times, and the question whether something may be done.

use crate::answer::{fail, give};
use crate::{call, descriptors, fifos, identity, path, user};
use core::ffi::{c_char, c_int};
use libc::{gid_t, mode_t, timespec, timeval, uid_t};
use lifeboat_fs::{Caller, Errno, FileSystem, InodeId, LastLink, NewTime, OpenFile, Result};

const HERE: c_int = libc::AT_FDCWD;

fn last_link(flags: c_int) -> LastLink {
    if flags & libc::AT_SYMLINK_NOFOLLOW != 0 { LastLink::Keep } else { LastLink::Follow }
}

/// -1 keeps what is there.
fn wanted(id: u32) -> Option<u32> {
    (id != u32::MAX).then_some(id)
}

fn on_open(file: OpenFile, operation: impl Fn(&FileSystem, &Caller<'_>, InodeId) -> Result<()>) -> c_int {
    give(call::call(|file_system, who| operation(file_system, who, file_system.inode_of(file)?)))
}

/// As [`on_open`], for calls that a descriptor opened with `O_PATH` does not allow.
fn on_open_for_use(file: OpenFile, operation: impl Fn(&FileSystem, &Caller<'_>, InodeId) -> Result<()>) -> c_int {
    give(call::call(|file_system, who| {
        // Answers EBADF for such a descriptor, and nothing else can go wrong with it.
        file_system.sync(file)?;
        operation(file_system, who, file_system.inode_of(file)?)
    }))
}

/// For descriptors that are not ours: those of FIFOs in the mount stand for an inode of the region all the same.
#[inline]
fn on_fifo_or(
    descriptor: c_int,
    theirs: impl FnOnce() -> c_int,
    operation: impl Fn(&FileSystem, &Caller<'_>, InodeId) -> Result<()>,
) -> c_int {
    match fifos::behind(descriptor) {
        None => theirs(),
        Some(inode) => give(call::call(|file_system, who| operation(file_system, who, inode))),
    }
}

/// Whether both times are to stay: then the kernel does not even look at the file.
fn keeps_both(times: *const timespec) -> bool {
    times_of_specs(times) == Ok((NewTime::Keep, NewTime::Keep))
}

fn may(file_system: &FileSystem, who: &Caller<'_>, inode: InodeId, mode: c_int, effective: bool) -> Result<()> {
    let mode = u32::try_from(mode).ok().filter(|mode| mode & !7 == 0).ok_or(Errno::INVAL)?;
    if effective {
        return file_system.access(who, inode, mode);
    }
    identity::with_real_caller(who, |who| file_system.access(who, inode, mode))
}

fn new_time(time: timespec) -> Result<NewTime> {
    match time.tv_nsec {
        libc::UTIME_NOW => Ok(NewTime::Now),
        libc::UTIME_OMIT => Ok(NewTime::Keep),
        0..=999_999_999 => Ok(NewTime::At(time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec))),
        _ => Err(Errno::INVAL),
    }
}

type Times = (NewTime, NewTime);

fn times_of_specs(times: *const timespec) -> Result<Times> {
    if times.is_null() {
        return Ok((NewTime::Now, NewTime::Now));
    }
    let [accessed, modified] = user::get(times.cast::<[timespec; 2]>())?;
    Ok((new_time(accessed)?, new_time(modified)?))
}

fn times_of_values(times: *const timeval) -> Result<Times> {
    if times.is_null() {
        return Ok((NewTime::Now, NewTime::Now));
    }
    let convert = |time: timeval| match time.tv_usec {
        0..=999_999 => Ok(NewTime::At(time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_usec * 1000))),
        _ => Err(Errno::INVAL),
    };
    let [accessed, modified] = user::get(times.cast::<[timeval; 2]>())?;
    Ok((convert(accessed)?, convert(modified)?))
}

fn times_of_seconds(times: *const libc::utimbuf) -> Result<Times> {
    if times.is_null() {
        return Ok((NewTime::Now, NewTime::Now));
    }
    let times = user::get(times)?;
    let convert = |seconds: i64| NewTime::At(seconds.saturating_mul(1_000_000_000));
    Ok((convert(times.actime), convert(times.modtime)))
}

/// Sets the times of what a path leads to; `times` is read only when the path is ours.
fn set_times(
    directory: c_int,
    name: *const c_char,
    last: LastLink,
    theirs: impl Fn(c_int, *const c_char) -> c_int,
    times: impl Fn() -> Result<Times>,
) -> c_int {
    path::on_inode(directory, name, last, theirs, |file_system, who, inode| {
        let (accessed, modified) = times()?;
        file_system.set_times(who, inode, accessed, modified)
    })
}

/// Sets the times of a FIFO in the mount by its descriptor, or asks the kernel.
fn set_times_of_fifo_or(descriptor: c_int, theirs: impl FnOnce() -> c_int, times: impl Fn() -> Result<Times>) -> c_int {
    on_fifo_or(descriptor, theirs, |file_system, who, inode| {
        let (accessed, modified) = times()?;
        file_system.set_times(who, inode, accessed, modified)
    })
}

fn set_times_open(file: OpenFile, times: Result<Times>) -> c_int {
    match times {
        Err(error) => fail(error),
        // The kernel does not look at the descriptor when there is nothing to set.
        Ok((NewTime::Keep, NewTime::Keep)) => 0,
        Ok((accessed, modified)) => {
            on_open_for_use(file, |file_system, who, inode| file_system.set_times(who, inode, accessed, modified))
        }
    }
}

hooks! {
    fn access(name: *const c_char, mode: c_int) -> c_int {
        path::on_inode(
            HERE,
            name,
            LastLink::Follow,
            |_, name| next(name, mode),
            |file_system, who, inode| may(file_system, who, inode, mode, false),
        )
    }

    fn eaccess(name: *const c_char, mode: c_int) -> c_int, also euidaccess {
        path::on_inode(
            HERE,
            name,
            LastLink::Follow,
            |_, name| next(name, mode),
            |file_system, who, inode| may(file_system, who, inode, mode, true),
        )
    }

    fn faccessat(directory: c_int, name: *const c_char, mode: c_int, flags: c_int) -> c_int {
        let effective = flags & libc::AT_EACCESS != 0;
        if let Some(file) = super::stat::meant_by_empty_path(directory, name, flags) {
            return on_open(file, |file_system, who, inode| may(file_system, who, inode, mode, effective));
        }
        path::on_inode(
            directory,
            name,
            last_link(flags),
            |directory, name| next(directory, name, mode, flags),
            |file_system, who, inode| may(file_system, who, inode, mode, effective),
        )
    }

    fn chmod(name: *const c_char, mode: mode_t) -> c_int {
        path::on_inode(
            HERE,
            name,
            LastLink::Follow,
            |_, name| next(name, mode),
            |file_system, who, inode| file_system.chmod(who, inode, mode & 0o7777),
        )
    }

    fn lchmod(name: *const c_char, mode: mode_t) -> c_int {
        path::on_inode(
            HERE,
            name,
            LastLink::Keep,
            |_, name| next(name, mode),
            |file_system, who, inode| change_mode_unless_link(file_system, who, inode, mode),
        )
    }

    fn fchmod(descriptor: c_int, mode: mode_t) -> c_int {
        match descriptors::find(descriptor) {
            None => on_fifo_or(
                descriptor,
                || next(descriptor, mode),
                |file_system, who, inode| file_system.chmod(who, inode, mode & 0o7777),
            ),
            Some(file) => {
                on_open_for_use(file, |file_system, who, inode| file_system.chmod(who, inode, mode & 0o7777))
            }
        }
    }

    fn fchmodat(directory: c_int, name: *const c_char, mode: mode_t, flags: c_int) -> c_int {
        path::on_inode(
            directory,
            name,
            last_link(flags),
            |directory, name| next(directory, name, mode, flags),
            |file_system, who, inode| change_mode_unless_link(file_system, who, inode, mode),
        )
    }

    fn chown(name: *const c_char, uid: uid_t, gid: gid_t) -> c_int {
        path::on_inode(
            HERE,
            name,
            LastLink::Follow,
            |_, name| next(name, uid, gid),
            |file_system, who, inode| file_system.chown(who, inode, wanted(uid), wanted(gid)),
        )
    }

    fn lchown(name: *const c_char, uid: uid_t, gid: gid_t) -> c_int {
        path::on_inode(
            HERE,
            name,
            LastLink::Keep,
            |_, name| next(name, uid, gid),
            |file_system, who, inode| file_system.chown(who, inode, wanted(uid), wanted(gid)),
        )
    }

    fn fchown(descriptor: c_int, uid: uid_t, gid: gid_t) -> c_int {
        match descriptors::find(descriptor) {
            None => on_fifo_or(
                descriptor,
                || next(descriptor, uid, gid),
                |file_system, who, inode| file_system.chown(who, inode, wanted(uid), wanted(gid)),
            ),
            Some(file) => {
                on_open_for_use(file, |file_system, who, inode| {
                    file_system.chown(who, inode, wanted(uid), wanted(gid))
                })
            }
        }
    }

    fn fchownat(directory: c_int, name: *const c_char, uid: uid_t, gid: gid_t, flags: c_int) -> c_int {
        if let Some(file) = super::stat::meant_by_empty_path(directory, name, flags) {
            return on_open(file, |file_system, who, inode| file_system.chown(who, inode, wanted(uid), wanted(gid)));
        }
        if let Some(inode) = super::stat::fifo_meant_by_empty_path(directory, name, flags) {
            return give(call::call(|file_system, who| file_system.chown(who, inode, wanted(uid), wanted(gid))));
        }
        path::on_inode(
            directory,
            name,
            last_link(flags),
            |directory, name| next(directory, name, uid, gid, flags),
            |file_system, who, inode| file_system.chown(who, inode, wanted(uid), wanted(gid)),
        )
    }

    fn utime(name: *const c_char, times: *const libc::utimbuf) -> c_int {
        set_times(HERE, name, LastLink::Follow, |_, name| next(name, times), || times_of_seconds(times))
    }

    fn utimes(name: *const c_char, times: *const timeval) -> c_int {
        set_times(HERE, name, LastLink::Follow, |_, name| next(name, times), || times_of_values(times))
    }

    fn lutimes(name: *const c_char, times: *const timeval) -> c_int {
        set_times(HERE, name, LastLink::Keep, |_, name| next(name, times), || times_of_values(times))
    }

    fn futimes(descriptor: c_int, times: *const timeval) -> c_int {
        match descriptors::find(descriptor) {
            None => set_times_of_fifo_or(descriptor, || next(descriptor, times), || times_of_values(times)),
            Some(file) => set_times_open(file, times_of_values(times)),
        }
    }

    fn futimesat(directory: c_int, name: *const c_char, times: *const timeval) -> c_int {
        if name.is_null()
            && let Some(file) = descriptors::find(directory)
        {
            return set_times_open(file, times_of_values(times));
        }
        set_times(
            directory,
            name,
            LastLink::Follow,
            |directory, name| next(directory, name, times),
            || times_of_values(times),
        )
    }

    fn utimensat(directory: c_int, name: *const c_char, times: *const timespec, flags: c_int) -> c_int {
        if keeps_both(times) {
            return 0;
        }
        // The kernel takes a null path for "the descriptor itself", though the C function refuses it.
        let open = super::stat::meant_by_empty_path(directory, name, flags);
        if let Some(file) = open {
            return set_times_open(file, times_of_specs(times));
        }
        if let Some(inode) = super::stat::fifo_meant_by_empty_path(directory, name, flags) {
            return give(call::call(|file_system, who| {
                let (accessed, modified) = times_of_specs(times)?;
                file_system.set_times(who, inode, accessed, modified)
            }));
        }
        set_times(
            directory,
            name,
            last_link(flags),
            |directory, name| next(directory, name, times, flags),
            || times_of_specs(times),
        )
    }

    fn futimens(descriptor: c_int, times: *const timespec) -> c_int {
        match descriptors::find(descriptor) {
            None => set_times_of_fifo_or(descriptor, || next(descriptor, times), || times_of_specs(times)),
            Some(file) => set_times_open(file, times_of_specs(times)),
        }
    }
}

hooks! {
    fn inotify_add_watch(instance: c_int, name: *const c_char, mask: u32) -> c_int {
        // "No room for another watch" makes programs look from time to time instead.
        path::on_inode(
            HERE,
            name,
            LastLink::Follow,
            |_, name| next(instance, name, mask),
            |_, _, _| Err::<(), _>(Errno::NOSPC),
        )
    }
}

/// A symbolic link has no permissions of its own to change.
fn change_mode_unless_link(file_system: &FileSystem, who: &Caller<'_>, inode: InodeId, mode: mode_t) -> Result<()> {
    if file_system.stat(inode)?.mode & libc::S_IFMT == libc::S_IFLNK {
        return Err(Errno::OPNOTSUPP);
    }
    file_system.chmod(who, inode, mode & 0o7777)
}
