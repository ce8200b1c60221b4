//! Placeholders: small files in the region's `tags/`, one per open file, whose kernel descriptors stand for ours.
//!
//! Every open file description of a tag holds the open file (`lifeboat_region::tags`). The kernel ends that with the last
//! descriptor in any process, however that goes: so whether an open file is still in use is a question to the kernel.

use crate::{descriptors, kept_tags, message};
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use lifeboat_fs::{Errno, FileSystem, OpenFile, Result};
use lifeboat_region::Region;
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, SeekFrom, Stat};

/// The offset of every placeholder: a write past the library does not fit behind it.
pub const OFFSET: u64 = i64::MAX as u64;

static FOLDER: AtomicI32 = AtomicI32::new(-1);
/// Whether a write past the library into a placeholder can succeed.
static HAS_ROOM: AtomicBool = AtomicBool::new(true);

/// Name of the folder below the region's.
pub const FOLDER_NAME: &[u8] = b"tags";

/// Takes the folder of tags from the region, which keeps it open.
pub fn use_folder(region: &Region) -> Result<()> {
    let folder = region.tags().ok_or(Errno::NOENT)?;
    let full = rustix::fs::fstatfs(folder).is_ok_and(|about| about.f_blocks != 0 && about.f_bfree == 0);
    HAS_ROOM.store(!full, Ordering::Relaxed);
    FOLDER.store(folder.as_raw_fd(), Ordering::Release);
    Ok(())
}

/// Descriptor of the folder; -1 before attaching.
pub fn folder_number() -> i32 {
    FOLDER.load(Ordering::Acquire)
}

fn folder() -> BorrowedFd<'static> {
    // SAFETY: the folder's descriptor is never closed: the close hooks spare it.
    unsafe { BorrowedFd::borrow_raw(FOLDER.load(Ordering::Acquire).max(0)) }
}

/// Opens the placeholder of a new open file: same access mode as the program asked for, the offset at the end of the
/// number range, held.
pub fn open(file: OpenFile, generation: u16, flags: i32) -> Result<OwnedFd> {
    match open_new(file, generation, access(flags), flags) {
        Err(Errno::MFILE) => {
            kept_tags::forget_all();
            open_new(file, generation, access(flags), flags)
        }
        tag => tag,
    }
}

/// The access mode of the placeholder of an open file with these flags.
pub fn access(flags: i32) -> i32 {
    match flags & libc::O_ACCMODE {
        _ if flags & libc::O_PATH != 0 => libc::O_RDONLY,
        access @ (libc::O_WRONLY | libc::O_RDWR) => access,
        _ => libc::O_RDONLY,
    }
}

fn open_new(file: OpenFile, generation: u16, access: i32, flags: i32) -> Result<OwnedFd> {
    let asked = OFlags::from_bits_retain((access | flags & libc::O_CLOEXEC) as u32);
    let mut name = [0; 64];
    let length = lifeboat_region::process::decimal(b"", file.0 as u64, b"", &mut name);
    // Something else that lies there (a pipe, say) is not waited for.
    let flags = asked | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK;
    let tag = match rustix::fs::openat(folder(), &name[..length], flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            // For a process that gives up its user id, too: the folder's own parent keeps others out.
            let mode = Mode::from_raw_mode(0o666);
            let tag =
                rustix::fs::openat(folder(), &name[..length], flags | OFlags::CREATE, mode).map_err(tell_if_gone)?;
            // By its name: a program that closes what it does not know may have made the descriptor another's meanwhile.
            let _ = rustix::fs::chmodat(folder(), &name[..length], mode, AtFlags::empty());
            tag
        }
        tag => tag?,
    };
    rustix::fs::seek(&tag, SeekFrom::Start(OFFSET))?;
    lifeboat_region::tags::hold(&tag, generation, access == libc::O_WRONLY)?;
    Ok(tag)
}

/// Whether the folder was deleted, with the region's directory, behind the programs that use it.
fn is_gone() -> bool {
    rustix::fs::fstat(folder()).is_ok_and(|about| about.st_nlink == 0)
}

/// "No such file" would be said of the program's file, which is not what is missing.
fn tell_if_gone(error: Errno) -> Errno {
    if error == Errno::NOENT && is_gone() { tell_that_region_is_gone() } else { error }
}

/// Says once that the region's directory was deleted; the error for the call that found it.
pub fn tell_that_region_is_gone() -> Errno {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        message::say(format_args!(
            "{}: the region was deleted behind the programs that use it (RemoveIPC of systemd, a clean-up of /dev/shm?): who has a \
             file open can read and write on, but opens no other and has no children with files; copy what you need, then \
             create the region again",
            message::Shown(crate::environment::region())
        ));
    }
    Errno::NXIO
}

/// Closes `file` in the region if no descriptor of it is left in the system. `generation`: of the time when it was open here;
/// what has the number since then is left alone.
pub fn release_if_unheld(file_system: &FileSystem, file: OpenFile, generation: Result<u16>) {
    let tell = || {
        tell_of_strays(file, || {
            let mut name = [0; 64];
            let length = lifeboat_region::process::decimal(b"", file.0 as u64, b"", &mut name);
            rustix::fs::statat(folder(), &name[..length], AtFlags::SYMLINK_NOFOLLOW)
        })
    };
    // Somebody else may have closed it first.
    let _ = generation.and_then(|generation| file_system.close_if_unheld(file, generation, tell));
}

/// To be called before the last descriptor is closed. A placeholder is empty for ever, unless somebody wrote past the
/// library: says so, and empties it for its next use. `about`: asks the kernel about it.
pub fn tell_of_strays(file: OpenFile, about: impl FnOnce() -> Result<Stat>) {
    if !HAS_ROOM.load(Ordering::Relaxed) {
        return;
    }
    // With a second name it is somebody's file, planted here.
    let Some(strays) = about().ok().filter(|stat| stat.st_nlink == 1).map(|stat| stat.st_size).filter(|&size| size > 0)
    else {
        return;
    };
    message::say(format_args!(
        "up to {strays} bytes were written into an open file of {} past the library and are lost: a program makes system calls \
         of its own; 'lifeboat exec --trap-raw' serves them and says who makes them",
        message::Shown(crate::environment::mount())
    ));
    let mut name = [0; 64];
    let length = lifeboat_region::process::decimal(b"", file.0 as u64, b"", &mut name);
    let empty = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let _ = rustix::fs::openat(folder(), &name[..length], empty, Mode::empty());
}

/// The open file behind a path that the kernel shows for a descriptor, if it is a tag of this region.
pub fn number_of(shown: &[u8]) -> Option<OpenFile> {
    let number = lifeboat_region::process::parse_decimal(name_in_folder(shown)?)?;
    u32::try_from(number).ok().filter(|&number| number < descriptors::NUMBERS_MAX).map(OpenFile)
}

/// Of a path that the kernel shows, what follows the folder of tags of this region.
pub fn name_in_folder(shown: &[u8]) -> Option<&[u8]> {
    // So the kernel marks what was deleted behind us.
    let shown = shown.strip_suffix(b" (deleted)").unwrap_or(shown);
    let rest = shown.strip_prefix(crate::environment::region())?;
    rest.strip_prefix(b"/")?.strip_prefix(FOLDER_NAME)?.strip_prefix(b"/")
}

/// Whether this very descriptor, and not another of the same tag, holds the open file of this generation.
pub fn holds(descriptor: i32, file: OpenFile, generation: u16) -> bool {
    behind(descriptor) == Some(file) && has_lock(descriptor, generation) == Ok(true)
}

/// Whether the open file description has the lock on the generation's byte, as the kernel shows it among other things.
fn has_lock(descriptor: i32, generation: u16) -> Result<bool> {
    let mut path = [0; 64];
    let number = u64::try_from(descriptor).map_err(|_| Errno::BADF)?;
    let length = lifeboat_region::process::decimal(b"/proc/self/fdinfo/", number, b"", &mut path);
    let about = rustix::fs::open(&path[..length], OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut shown = [0; 1024];
    let length = rustix::io::read(about, &mut shown)?;
    Ok(shown[..length].split(|&byte| byte == b'\n').any(|line| is_lock_on(line, generation)))
}

/// A line such as `lock:  1: OFDLCK  ADVISORY  READ -1 00:1a:5 7 7`, with a tab after its first word.
fn is_lock_on(line: &[u8], generation: u16) -> bool {
    let mut words = line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
    let is_of_description = words.next() == Some(b"lock:") && words.any(|word| word == b"OFDLCK");
    let mut from_the_end = words.rev().map(lifeboat_region::process::parse_decimal);
    let (end, start) = (from_the_end.next().flatten(), from_the_end.next().flatten());
    is_of_description && start == Some(u64::from(generation)) && end == start
}

/// The open file behind any descriptor of this process, asked of the kernel.
pub fn behind(descriptor: i32) -> Option<OpenFile> {
    let mut shown = [0; crate::user::PATH_MAX];
    let length = name_behind(descriptor, &mut shown)?;
    number_of(&shown[..length])
}

/// The path that the kernel shows for a descriptor.
pub fn name_behind(descriptor: i32, shown: &mut [u8; crate::user::PATH_MAX]) -> Option<usize> {
    let mut link = [0; 64];
    let length =
        lifeboat_region::process::decimal(b"/proc/self/fd/", u64::try_from(descriptor).ok()?, b"\0", &mut link);
    let link = core::ffi::CStr::from_bytes_with_nul(&link[..length]).ok()?;
    rustix::fs::readlinkat_raw(rustix::fs::CWD, link, &mut shown[..]).ok()
}

/// Raw number of an owned descriptor that now belongs to the program.
pub fn hand_over(tag: OwnedFd) -> i32 {
    let number = tag.as_raw_fd();
    core::mem::forget(tag);
    number
}
