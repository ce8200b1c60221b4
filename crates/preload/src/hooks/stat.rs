//! Attributes of files and of the file system.

use crate::answer::{Answer, Failure, fail, give};
use crate::{call, covered, descriptors, environment, fifos, path, state, user};
use core::ffi::{c_char, c_int, c_uint};
use core::mem::zeroed;
use core::sync::atomic::{AtomicU64, Ordering};
use lifeboat_fs::{Errno, FileSystem, InodeId, LastLink, OpenFile, Result, Stat};

const NANOSECONDS: i64 = 1_000_000_000;

/// Preferred size of reads and writes: the unit of the region's checksums.
const BLOCK_SIZE: u32 = 65536;

/// What `statfs` calls a file system in memory; programs know it as local and without surprises.
const MAGIC: i64 = 0x0102_1994;

/// Major number of the device that files seem to be on: none that the kernel gives out, so that no file of ours is
/// taken for one of another file system that has the same inode number.
const MAJOR: u32 = 0xfeb;

/// What [`device`] answers; 0 until it was asked for.
static DEVICE: AtomicU64 = AtomicU64::new(0);

/// Device number, the same in every process that uses this region.
fn device() -> u64 {
    match DEVICE.load(Ordering::Relaxed) {
        0 => {
            let minor = lifeboat_kernels::checksum_slice(0, environment::region()) & 0xf_ffff;
            let device = libc::makedev(MAJOR, minor);
            DEVICE.store(device, Ordering::Relaxed);
            device
        }
        device => device,
    }
}

/// The C structure for attributes.
pub(crate) fn to_stat(from: &Stat) -> libc::stat {
    // SAFETY: a C structure of integers, for which zeros are valid.
    let mut to: libc::stat = unsafe { zeroed() };
    to.st_dev = device();
    to.st_ino = from.number;
    to.st_mode = from.mode;
    to.st_nlink = from.links as _;
    to.st_uid = from.uid;
    to.st_gid = from.gid;
    to.st_rdev = from.device;
    to.st_size = from.size as i64;
    to.st_blksize = BLOCK_SIZE as _;
    to.st_blocks = from.blocks as i64;
    (to.st_atime, to.st_atime_nsec) = split(from.accessed);
    (to.st_mtime, to.st_mtime_nsec) = split(from.modified);
    (to.st_ctime, to.st_ctime_nsec) = split(from.changed);
    to
}

fn split(time: i64) -> (i64, i64) {
    // What came after 1970 is divided in fewer steps.
    match u64::try_from(time) {
        Ok(time) => ((time / NANOSECONDS as u64) as i64, (time % NANOSECONDS as u64) as i64),
        Err(_) => (time.div_euclid(NANOSECONDS), time.rem_euclid(NANOSECONDS)),
    }
}

fn to_statx(from: &Stat) -> libc::statx {
    let time = |time| {
        // SAFETY: as in `to_stat`.
        let mut to: libc::statx_timestamp = unsafe { zeroed() };
        let (seconds, nanoseconds) = split(time);
        to.tv_sec = seconds;
        to.tv_nsec = nanoseconds as u32;
        to
    };
    // SAFETY: as in `to_stat`.
    let mut to: libc::statx = unsafe { zeroed() };
    to.stx_mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    to.stx_blksize = BLOCK_SIZE;
    to.stx_nlink = from.links;
    to.stx_uid = from.uid;
    to.stx_gid = from.gid;
    to.stx_mode = from.mode as u16;
    to.stx_ino = from.number;
    to.stx_size = from.size;
    to.stx_blocks = from.blocks;
    to.stx_atime = time(from.accessed);
    to.stx_btime = time(from.born);
    to.stx_ctime = time(from.changed);
    to.stx_mtime = time(from.modified);
    to.stx_rdev_major = libc::major(from.device);
    to.stx_rdev_minor = libc::minor(from.device);
    to.stx_dev_major = libc::major(device());
    to.stx_dev_minor = libc::minor(device());
    to
}

fn put_stat(file_system: &FileSystem, inode: InodeId, into: *mut libc::stat) -> Result<()> {
    let mut stat = Stat::default();
    file_system.stat_into(inode, &mut stat)?;
    user::put(into, &to_stat(&stat))
}

/// `fstat` of one of our files, for stdio as well.
pub(crate) fn stat_open(file: OpenFile, into: *mut libc::stat) -> c_int {
    give(call::data(|file_system| put_stat(file_system, file_system.inode_of(file)?, into)))
}

fn last_link(flags: c_int) -> LastLink {
    if flags & libc::AT_SYMLINK_NOFOLLOW != 0 { LastLink::Keep } else { LastLink::Follow }
}

/// Whether an empty path means the descriptor itself.
fn means_descriptor(name: *const c_char, flags: c_int) -> bool {
    flags & libc::AT_EMPTY_PATH != 0 && (name.is_null() || path::is_empty(name))
}

/// The open file that an empty path with `AT_EMPTY_PATH` means.
pub(super) fn meant_by_empty_path(directory: c_int, name: *const c_char, flags: c_int) -> Option<OpenFile> {
    if means_descriptor(name, flags) { descriptors::find(directory) } else { None }
}

/// The same for the inode of a FIFO in the mount, whose descriptors are the kernel's.
pub(super) fn fifo_meant_by_empty_path(directory: c_int, name: *const c_char, flags: c_int) -> Option<InodeId> {
    if means_descriptor(name, flags) { fifos::behind(directory) } else { None }
}

/// The working directory of ours that an empty path with `AT_EMPTY_PATH` means.
fn own_directory_meant(directory: c_int, name: *const c_char, flags: c_int) -> Option<InodeId> {
    let meant = flags & libc::AT_EMPTY_PATH != 0 && directory == libc::AT_FDCWD && path::is_empty(name);
    if meant { crate::working_directory::current() } else { None }
}

fn statistics() -> Result<libc::statfs> {
    let file_system = state::file_system()?;
    let usage = file_system.usage();
    // SAFETY: as in `to_stat`.
    let mut to: libc::statfs = unsafe { zeroed() };
    to.f_type = MAGIC as _;
    to.f_bsize = 4096;
    to.f_frsize = 4096;
    to.f_blocks = usage.bytes_total / 4096;
    to.f_bfree = usage.bytes_free / 4096;
    to.f_bavail = usage.bytes_free / 4096;
    to.f_files = usage.inodes_used + usage.inodes_free;
    to.f_ffree = usage.inodes_free;
    to.f_namelen = 255;
    // SAFETY: `fsid_t` is two integers; the device number is eight bytes of the same size.
    to.f_fsid = unsafe { core::mem::transmute::<u64, libc::fsid_t>(device()) };
    Ok(to)
}

fn statistics_for_posix() -> Result<libc::statvfs> {
    let from = statistics()?;
    // SAFETY: as in `to_stat`.
    let mut to: libc::statvfs = unsafe { zeroed() };
    to.f_bsize = 4096;
    to.f_frsize = 4096;
    to.f_blocks = from.f_blocks;
    to.f_bfree = from.f_bfree;
    to.f_bavail = from.f_bavail;
    to.f_files = from.f_files;
    to.f_ffree = from.f_ffree;
    to.f_favail = from.f_ffree;
    to.f_namemax = 255;
    to.f_fsid = device();
    Ok(to)
}

/// A variable of `pathconf`, to be answered in the form of C.
struct Configuration(c_int);

impl Answer<libc::c_long> for Configuration {
    fn answer(self) -> libc::c_long {
        configuration(self.0)
    }
}

/// Value of a `pathconf` variable; -1 without an error for "no limit".
fn configuration(name: c_int) -> libc::c_long {
    match name {
        libc::_PC_LINK_MAX => 0x7fff_ffff,
        libc::_PC_NAME_MAX => 255,
        libc::_PC_PATH_MAX | libc::_PC_PIPE_BUF => 4096,
        libc::_PC_CHOWN_RESTRICTED | libc::_PC_NO_TRUNC | libc::_PC_SYNC_IO => 1,
        libc::_PC_2_SYMLINKS => 1,
        libc::_PC_FILESIZEBITS => 64,
        libc::_PC_REC_INCR_XFER_SIZE
        | libc::_PC_REC_MIN_XFER_SIZE
        | libc::_PC_REC_XFER_ALIGN
        | libc::_PC_ALLOC_SIZE_MIN => 4096,
        libc::_PC_MAX_CANON | libc::_PC_MAX_INPUT | libc::_PC_VDISABLE => fail(Errno::INVAL),
        _ => libc::c_long::FAILED,
    }
}

/// After the kernel filled `into`: where that is the covered directory, the attributes of the mount's root instead.
#[inline(always)]
fn uncovered(answer: c_int, into: *mut libc::stat) -> c_int {
    // SAFETY: the kernel has just written there.
    if answer == 0 && unsafe { covered::is_number((*into).st_dev, (*into).st_ino) } {
        return give(state::file_system().and_then(|file_system| put_stat(&file_system, file_system.root(), into)));
    }
    answer
}

#[inline(always)]
fn uncovered_x(answer: c_int, into: *mut libc::statx) -> c_int {
    let found =
        |into: &libc::statx| covered::is_number(libc::makedev(into.stx_dev_major, into.stx_dev_minor), into.stx_ino);
    // SAFETY: the kernel has just written there.
    if answer == 0 && found(unsafe { &*into }) {
        return give(
            state::file_system()
                .and_then(|file_system| user::put(into, &to_statx(&file_system.stat(file_system.root())?))),
        );
    }
    answer
}

/// After the kernel filled `into` for a descriptor: that of a FIFO in the mount shows the region's inode. One whose last
/// name is gone has none any more: then what the kernel says stays, without a link.
#[inline(always)]
fn of_descriptor(answer: c_int, descriptor: c_int, into: *mut libc::stat) -> c_int {
    // SAFETY: the kernel has just written there.
    if answer == 0 && state::configured() && unsafe { (*into).st_mode } & libc::S_IFMT == libc::S_IFIFO {
        return of_fifo(descriptor, into);
    }
    uncovered(answer, into)
}

#[cold]
#[inline(never)]
fn of_fifo(descriptor: c_int, into: *mut libc::stat) -> c_int {
    let Some(inode) = fifos::named(descriptor) else { return 0 };
    match state::file_system().and_then(|file_system| file_system.stat(inode)) {
        Ok(found) => give(user::put(into, &to_stat(&found))),
        Err(_) => 0,
    }
}

/// As [`of_descriptor`], for a path of the kernel's, which may mean a descriptor.
#[inline(always)]
fn of_path(answer: c_int, name: *const c_char, into: *mut libc::stat) -> c_int {
    // SAFETY: the kernel has just written there.
    let is_fifo = || unsafe { (*into).st_mode & libc::S_IFMT == libc::S_IFIFO };
    if answer == 0
        && state::configured()
        && is_fifo()
        && let Some(descriptor) = path::descriptor_meant(name)
    {
        return of_fifo(descriptor, into);
    }
    uncovered(answer, into)
}

/// As [`of_descriptor`] and [`of_path`], for `statx`.
#[inline(always)]
fn of_any_x(answer: c_int, asked: (c_int, *const c_char, c_int), into: *mut libc::statx) -> c_int {
    // SAFETY: the kernel has just written there.
    if answer == 0 && state::configured() && unsafe { (*into).stx_mode as u32 } & libc::S_IFMT == libc::S_IFIFO {
        return of_fifo_x(asked, into);
    }
    uncovered_x(answer, into)
}

#[cold]
#[inline(never)]
fn of_fifo_x((directory, name, flags): (c_int, *const c_char, c_int), into: *mut libc::statx) -> c_int {
    let descriptor = if means_descriptor(name, flags) {
        Some(directory)
    } else if flags & libc::AT_SYMLINK_NOFOLLOW == 0 {
        path::descriptor_meant(name)
    } else {
        None
    };
    let Some(inode) = descriptor.and_then(fifos::named) else { return 0 };
    match state::file_system().and_then(|file_system| file_system.stat(inode)) {
        Ok(found) => give(user::put(into, &to_statx(&found))),
        Err(_) => 0,
    }
}

hooks! {
    fn stat(name: *const c_char, into: *mut libc::stat) -> c_int, also stat64 {
        path::on_inode(
            libc::AT_FDCWD,
            name,
            LastLink::Follow,
            |_, name| of_path(next(name, into), name, into),
            |file_system, _, inode| put_stat(file_system, inode, into),
        )
    }

    fn lstat(name: *const c_char, into: *mut libc::stat) -> c_int, also lstat64 {
        path::on_inode(
            libc::AT_FDCWD,
            name,
            LastLink::Keep,
            |_, name| uncovered(next(name, into), into),
            |file_system, _, inode| put_stat(file_system, inode, into),
        )
    }

    fn fstat(descriptor: c_int, into: *mut libc::stat) -> c_int, also fstat64 {
        match descriptors::find(descriptor) {
            None => of_descriptor(next(descriptor, into), descriptor, into),
            Some(file) => stat_open(file, into),
        }
    }

    fn fstatat(directory: c_int, name: *const c_char, into: *mut libc::stat, flags: c_int) -> c_int, also fstatat64 {
        if let Some(file) = meant_by_empty_path(directory, name, flags) {
            return stat_open(file, into);
        }
        if let Some(inode) = own_directory_meant(directory, name, flags) {
            return give(call::call(|file_system, _| put_stat(file_system, inode, into)));
        }
        path::on_inode(
            directory,
            name,
            last_link(flags),
            |directory, name| {
                let answer = next(directory, name, into, flags);
                if means_descriptor(name, flags) {
                    of_descriptor(answer, directory, into)
                } else if flags & libc::AT_SYMLINK_NOFOLLOW == 0 {
                    of_path(answer, name, into)
                } else {
                    uncovered(answer, into)
                }
            },
            |file_system, _, inode| put_stat(file_system, inode, into),
        )
    }

    fn statx(directory: c_int, name: *const c_char, flags: c_int, mask: c_uint, into: *mut libc::statx) -> c_int {
        let put = |file_system: &FileSystem, inode| user::put(into, &to_statx(&file_system.stat(inode)?));
        if let Some(file) = meant_by_empty_path(directory, name, flags) {
            return give(call::data(|file_system| put(file_system, file_system.inode_of(file)?)));
        }
        if let Some(inode) = own_directory_meant(directory, name, flags) {
            return give(call::call(|file_system, _| put(file_system, inode)));
        }
        path::on_inode(
            directory,
            name,
            last_link(flags),
            |directory, name| {
                of_any_x(next(directory, name, flags, mask, into), (directory, name, flags), into)
            },
            |file_system, _, inode| put(file_system, inode),
        )
    }

    fn statfs(name: *const c_char, into: *mut libc::statfs) -> c_int, also statfs64 {
        path::on_inode(
            libc::AT_FDCWD,
            name,
            LastLink::Follow,
            |_, name| next(name, into),
            |_, _, _| user::put(into, &statistics()?),
        )
    }

    fn fstatfs(descriptor: c_int, into: *mut libc::statfs) -> c_int, also fstatfs64 {
        match descriptors::find(descriptor) {
            None => next(descriptor, into),
            Some(_) => give(statistics().and_then(|found| user::put(into, &found))),
        }
    }

    fn statvfs(name: *const c_char, into: *mut libc::statvfs) -> c_int, also statvfs64 {
        path::on_inode(
            libc::AT_FDCWD,
            name,
            LastLink::Follow,
            |_, name| next(name, into),
            |_, _, _| user::put(into, &statistics_for_posix()?),
        )
    }

    fn fstatvfs(descriptor: c_int, into: *mut libc::statvfs) -> c_int, also fstatvfs64 {
        match descriptors::find(descriptor) {
            None => next(descriptor, into),
            Some(_) => give(statistics_for_posix().and_then(|found| user::put(into, &found))),
        }
    }

    fn pathconf(name: *const c_char, variable: c_int) -> libc::c_long {
        path::on_inode(
            libc::AT_FDCWD,
            name,
            LastLink::Follow,
            |_, name| next(name, variable),
            // What is asked of the file is only that it exists; the answer is the same for all.
            |_, _, _| Ok(Configuration(variable)),
        )
    }

    fn fpathconf(descriptor: c_int, variable: c_int) -> libc::c_long {
        match descriptors::find(descriptor) {
            None => next(descriptor, variable),
            Some(_) => configuration(variable),
        }
    }
}

/// The calls of programs linked before glibc 2.33, which pass a version of the structure first.
mod old {
    use super::*;

    hooks! {
        fn __xstat(_version: c_int, name: *const c_char, into: *mut libc::stat) -> c_int, also __xstat64 {
            super::stat(name, into)
        }

        fn __lxstat(_version: c_int, name: *const c_char, into: *mut libc::stat) -> c_int, also __lxstat64 {
            super::lstat(name, into)
        }

        fn __fxstat(_version: c_int, descriptor: c_int, into: *mut libc::stat) -> c_int, also __fxstat64 {
            super::fstat(descriptor, into)
        }

        fn __fxstatat(
            _version: c_int,
            directory: c_int,
            name: *const c_char,
            into: *mut libc::stat,
            flags: c_int,
        ) -> c_int, also __fxstatat64 {
            super::fstatat(directory, name, into, flags)
        }
    }
}
