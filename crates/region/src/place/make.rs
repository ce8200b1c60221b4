//! Making directories and files that their owner can use and others cannot, whatever the program's umask is.

use core::ffi::CStr;

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::text::Text;

/// Makes a directory with exactly these permission bits. `EXIST` when something is there, which is left alone.
///
/// Between making it and opening it nobody else may take the name away: in a sticky directory, or one of our own.
pub fn make_directory(parent: impl AsFd, name: &CStr, mode: Mode) -> Result<(), Errno> {
    rustix::fs::mkdirat(parent.as_fd(), name, mode)?;
    // A directory without any right for its owner can only be opened like this.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(made) => made,
        // Taken away already: whoever goes on notices.
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let stat = rustix::fs::fstat(&made)?;
    let lacks = stat.st_mode & mode.as_raw_mode() != mode.as_raw_mode();
    if lacks && stat.st_uid == rustix::process::geteuid().as_raw() {
        rustix::fs::chmod(behind(&made).as_c_str(), mode)?;
    }
    Ok(())
}

/// Changes the permission bits of a directory of the caller's; `PERM` when it is another's, `NOTDIR` when it is a link.
pub(crate) fn change_own_directory(path: &CStr, mode: Mode) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    if rustix::fs::fstat(&directory)?.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Errno::PERM);
    }
    rustix::fs::chmod(behind(&directory).as_c_str(), mode)
}

/// As [`make_directory`] for an absolute path.
pub fn make_directory_at(path: &CStr, mode: Mode) -> Result<(), Errno> {
    make_directory(CWD, path, mode)
}

/// Opens a file, and makes it first if it is missing: its owner's alone (0600).
pub(crate) fn open_or_make(parent: impl AsFd, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = flags | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, mode)?;
    let stat = rustix::fs::fstat(&file)?;
    let lacks = stat.st_mode & mode.as_raw_mode() != mode.as_raw_mode();
    if lacks && stat.st_uid == rustix::process::geteuid().as_raw() {
        rustix::fs::fchmod(&file, mode)?;
    }
    Ok(file)
}

/// A path that leads to what a descriptor is of, whatever became of its name.
pub(crate) fn behind(file: impl AsFd) -> Text<64> {
    let mut path = Text::<64>::from_bytes(b"/proc/self/fd/");
    path.push_number(file.as_fd().as_raw_fd() as u64);
    path
}
