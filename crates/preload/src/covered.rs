//! The directory that the mount covers, as the kernel has it, and paths of the kernel's that lead to it.
//!
//! A path can come to the mount by ways that its text does not show: a symbolic link elsewhere, a descriptor of one of
//! the directories above, `..`. The covered directory is empty and cannot be written, so such a call fails, and only
//! then is the path followed as the kernel would ([`entered`]). A call that means the covered directory itself
//! succeeds, and is told by device and inode number ([`is`], [`is_number`]).

use crate::path::Buffer;
use crate::{answer, descriptors, environment, state, tags, user, working_directory};
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char, c_int};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use lifeboat_fs::{Errno, InodeId, LastLink};
use rustix::fs::{AtFlags, Mode, OFlags};

/// Links that one path may go through, as in the kernel.
const LINKS_MAX: usize = 40;

static DEVICE: AtomicU64 = AtomicU64::new(0);
/// 0: there is no such directory.
static INODE: AtomicU64 = AtomicU64::new(0);

/// The mount's path without links.
struct Physical {
    bytes: UnsafeCell<Buffer>,
    length: AtomicUsize,
}

// SAFETY: written before the length is published; threads that write at once write the same bytes.
unsafe impl Sync for Physical {}

static PHYSICAL: Physical = Physical { bytes: UnsafeCell::new([0; user::PATH_MAX]), length: AtomicUsize::new(0) };

/// Asks the kernel what lies at the mount's path.
pub fn note() {
    if let Ok(found) = rustix::fs::stat(environment::mount())
        && found.st_mode & libc::S_IFMT == libc::S_IFDIR
    {
        DEVICE.store(found.st_dev, Ordering::Relaxed);
        INODE.store(found.st_ino, Ordering::Release);
    }
}

/// Whether these numbers are those of the covered directory.
#[inline(always)]
pub fn is_number(device: u64, inode: u64) -> bool {
    inode == INODE.load(Ordering::Relaxed) && inode != 0 && device == DEVICE.load(Ordering::Relaxed)
}

/// Whether a descriptor of the kernel's is of the covered directory.
pub fn is(descriptor: c_int) -> bool {
    state::configured()
        && descriptors::borrow(descriptor)
            .and_then(rustix::fs::fstat)
            .is_ok_and(|found| is_number(found.st_dev, found.st_ino))
}

/// Whether a path of the kernel's leads to the covered directory itself.
pub fn is_at(directory: c_int, path: *const c_char) -> bool {
    let mut room = user::Room::new();
    let Ok(text) = user::path(path, &mut room) else { return false };
    base(directory).is_some_and(|base| leads_here(base, text))
}

fn leads_here(directory: rustix::fd::BorrowedFd<'_>, text: &[u8]) -> bool {
    rustix::fs::statat(directory, text, AtFlags::empty()).is_ok_and(|found| is_number(found.st_dev, found.st_ino))
}

/// The mount's path without links, asked for once.
pub fn path() -> &'static [u8] {
    let length = match PHYSICAL.length.load(Ordering::Acquire) {
        0 => find_path(),
        length => length,
    };
    // SAFETY: see the type.
    let bytes = unsafe { &*PHYSICAL.bytes.get() };
    bytes.get(..length).unwrap_or_default()
}

#[cold]
fn find_path() -> usize {
    let mut shown = [0; user::PATH_MAX];
    let opened = rustix::fs::open(environment::mount(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let found = opened.ok().and_then(|opened| tags::name_behind(rustix::fd::AsRawFd::as_raw_fd(&opened), &mut shown));
    let text = match found {
        Some(length) if shown[0] == b'/' => &shown[..length],
        _ => environment::mount(),
    };
    // SAFETY: see the type.
    unsafe { (&mut *PHYSICAL.bytes.get())[..text.len()].copy_from_slice(text) };
    PHYSICAL.length.store(text.len(), Ordering::Release);
    text.len()
}

/// Whether the mount lies somewhere below a path of the kernel's.
pub fn is_below(path: *const c_char) -> bool {
    let mut room = user::Room::new();
    let Ok(text) = user::path(path, &mut room) else { return false };
    let Ok(opened) = rustix::fs::open(text, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else { return false };
    let mut shown = [0; user::PATH_MAX];
    let Some(length) = tags::name_behind(rustix::fd::AsRawFd::as_raw_fd(&opened), &mut shown) else { return false };
    let above = if length == 1 { b"" } else { &shown[..length] };
    self::path().strip_prefix(above).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

/// Whether the error that the kernel has just answered can be that of a path which leads into the covered directory.
pub fn explains_error() -> bool {
    const ERRORS: [c_int; 6] = [libc::ENOENT, libc::EROFS, libc::ENOTDIR, libc::EACCES, libc::EXDEV, libc::EBUSY];
    state::configured() && ERRORS.contains(&answer::errno())
}

/// A directory of the kernel's for the calls below; `None` for one of ours, and for no descriptor.
fn base(directory: c_int) -> Option<rustix::fd::BorrowedFd<'static>> {
    if directory == libc::AT_FDCWD {
        return working_directory::current().is_none().then_some(rustix::fs::CWD);
    }
    if descriptors::find(directory).is_some() { None } else { descriptors::borrow(directory).ok() }
}

/// Follows a path that the kernel could not use. When it comes to the mount: the root and what remains of the path.
/// `errno` is left alone.
#[cold]
#[inline(never)]
pub fn entered(directory: c_int, path: *const c_char, last: LastLink, buffer: &mut Buffer) -> Option<(InodeId, &[u8])> {
    let mut given = user::Room::new();
    let text = user::path(path, &mut given).ok().filter(|text| !text.is_empty())?;
    let absolute = text.first() == Some(&b'/');
    let base = if absolute { rustix::fs::CWD } else { base(directory)? };
    if surely_not(base, text, last) {
        return None;
    }
    let mut walk = Walk::new();
    if !absolute && !walk.start_at(directory) {
        return None;
    }
    let length = walk.run(text, last, buffer)?;
    let root = state::file_system().ok()?.root();
    Some((root, if length == 0 { b"/" } else { buffer.get(..length)? }))
}

/// The common failure: a name that is not there, in a directory that is.
fn surely_not(base: rustix::fd::BorrowedFd<'_>, text: &[u8], last: LastLink) -> bool {
    let (parent, name): (&[u8], &[u8]) = match text.iter().rposition(|&byte| byte == b'/') {
        None => (b".", text),
        Some(0) => (b"/", &text[1..]),
        Some(at) => (&text[..at], &text[at + 1..]),
    };
    if matches!(name, b"" | b"." | b"..") {
        return false;
    }
    match rustix::fs::statat(base, parent, AtFlags::empty()) {
        Ok(found) if !is_number(found.st_dev, found.st_ino) => {}
        _ => return false,
    }
    let mut link = [0u8; 8];
    last == LastLink::Keep || rustix::fs::readlinkat_raw(base, text, &mut link[..]).is_err()
}

/// A path being followed: what is known without links, and what is still to come.
struct Walk {
    resolved: Buffer,
    length: usize,
    /// Filled from the end.
    pending: Buffer,
    from: usize,
}

impl Walk {
    fn new() -> Walk {
        Walk { resolved: [0; user::PATH_MAX], length: 0, pending: [0; user::PATH_MAX], from: user::PATH_MAX }
    }

    /// Begins at what the kernel shows for a directory. False when it shows none.
    fn start_at(&mut self, directory: c_int) -> bool {
        let shown = if directory == libc::AT_FDCWD {
            rustix::fs::readlinkat_raw(rustix::fs::CWD, c"/proc/self/cwd", &mut self.resolved[..]).ok()
        } else {
            tags::name_behind(directory, &mut self.resolved)
        };
        self.length = match shown {
            Some(1) => 0,
            Some(length) => length,
            None => return false,
        };
        self.resolved[0] == b'/'
    }

    /// Puts text in front of what is to come.
    fn push(&mut self, text: &[u8]) -> Option<()> {
        let from = self.from.checked_sub(text.len())?;
        self.pending.get_mut(from..self.from)?.copy_from_slice(text);
        self.from = from;
        Some(())
    }

    /// Takes the next component; its place in `pending`.
    fn next(&mut self) -> Option<(usize, usize)> {
        while self.pending.get(self.from) == Some(&b'/') {
            self.from += 1;
        }
        let start = self.from;
        let rest = self.pending.get(start..)?;
        let count = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
        self.from += count;
        (count > 0).then_some((start, self.from))
    }

    fn up(&mut self) {
        self.length = self.resolved[..self.length].iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    }

    fn down(&mut self, component: (usize, usize)) -> Option<()> {
        let count = component.1 - component.0;
        let end = self.length + 1 + count;
        // The last byte is kept for the NUL.
        if end >= user::PATH_MAX {
            return None;
        }
        self.resolved[self.length] = b'/';
        self.resolved[self.length + 1..end].copy_from_slice(self.pending.get(component.0..component.1)?);
        self.length = end;
        Some(())
    }

    /// Follows `text`; once at the mount, the length of the rest in `out`.
    fn run(&mut self, text: &[u8], last: LastLink, out: &mut Buffer) -> Option<usize> {
        self.push(text)?;
        let mut links = 0;
        loop {
            if self.resolved.get(..self.length)? == path() {
                let rest = self.pending.get(self.from..)?;
                // From the mount itself `..` leads out again.
                let rest = &rest[rest.iter().take_while(|&&byte| byte == b'/').count()..];
                if !(rest == b".." || rest.starts_with(b"../")) {
                    out.get_mut(..rest.len())?.copy_from_slice(rest);
                    return Some(rest.len());
                }
            }
            let component = self.next()?;
            match self.pending.get(component.0..component.1)? {
                b"." => continue,
                b".." => {
                    self.up();
                    continue;
                }
                _ => self.down(component)?,
            }
            if self.from == user::PATH_MAX && last == LastLink::Keep {
                if self.resolved.get(..self.length)? == path() {
                    return Some(0);
                }
                return None;
            }
            links += self.follow()? as usize;
            if links > LINKS_MAX {
                return None;
            }
        }
    }

    /// If what was come to is a link: puts its text in front of the rest. `None` when there is nothing.
    fn follow(&mut self) -> Option<bool> {
        let mut target = [0u8; user::PATH_MAX];
        self.resolved[self.length] = 0;
        let name = CStr::from_bytes_with_nul(self.resolved.get(..=self.length)?).ok()?;
        let count = match rustix::fs::readlinkat_raw(rustix::fs::CWD, name, &mut target[..]) {
            Ok(count) => count,
            Err(Errno::INVAL) => return Some(false),
            // The mount itself need not exist for the kernel.
            Err(_) if self.resolved.get(..self.length)? == path() => return Some(false),
            Err(_) => return None,
        };
        if self.from < user::PATH_MAX {
            self.push(b"/")?;
        }
        self.push(target.get(..count)?)?;
        if target[0] == b'/' {
            self.length = 0;
        } else {
            self.up();
        }
        Some(true)
    }
}
