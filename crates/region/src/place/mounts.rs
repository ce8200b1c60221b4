//! The list of places where a region is mounted for the kernel, each with the process that serves it.
//!
//! One line each: `PID START NAMESPACE made|found PREFIX`. It is written before the deed and may so name a process that
//! never mounted, or has died since; whoever reads it looks.

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, Timespec};
use rustix::io::Errno;

use crate::process;

use super::directory::RegionDirectory;
use super::error::{PlaceError, Refusal, ShownPath, failed};
use super::make::open_or_make;
use super::refusal;
use super::text::{PathText, Text};

/// The most bytes that the list of one region can have.
const MOUNTS_MAX: usize = 8192;
/// How long another process may hold the list: mounting is done under its lock.
const LOCK_STEPS: u32 = 1500;
const LOCK_STEP: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// One place where a region is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountNote<'a> {
    /// The process that serves it.
    pub pid: u32,
    /// When that process started, in clock ticks since boot.
    pub start: u64,
    /// Its pid namespace.
    pub namespace: u64,
    /// Whether the directory was made for the mount.
    pub made: bool,
    /// Absolute path of the directory.
    pub prefix: &'a [u8],
}

impl<'a> MountNote<'a> {
    /// A mount at `prefix` that this process serves.
    pub fn own(made: bool, prefix: &'a [u8]) -> Result<MountNote<'a>, Errno> {
        let pid = rustix::process::getpid().as_raw_nonzero().get() as u32;
        let (start, namespace) = (process::own_start_time()?, process::pid_namespace()?);
        Ok(MountNote { pid, start, namespace, made, prefix })
    }

    /// Whether its process lives; one in another pid namespace counts as alive.
    pub fn is_alive(&self) -> bool {
        let is_same = || process::start_time(self.pid) == Ok(self.start) && !process::has_exited(self.pid);
        process::pid_namespace() != Ok(self.namespace) || is_same()
    }

    fn parse(line: &'a [u8]) -> Option<MountNote<'a>> {
        let mut fields = line.splitn(5, |&byte| byte == b' ');
        let mut number = || process::parse_decimal(fields.next()?);
        let (pid, start, namespace) = (number()?, number()?, number()?);
        let made = match fields.next()? {
            b"made" => true,
            b"found" => false,
            _ => return None,
        };
        let prefix = fields.next()?;
        let usable = prefix.starts_with(b"/") && !prefix.contains(&0);
        usable.then_some(MountNote { pid: u32::try_from(pid).ok()?, start, namespace, made, prefix })
    }

    fn write(&self, into: &mut Text<MOUNTS_MAX>) {
        for number in [u64::from(self.pid), self.start, self.namespace] {
            into.push_number(number);
            into.push(b" ");
        }
        into.push(if self.made { b"made " } else { b"found " });
        into.push(self.prefix);
        into.push(b"\n");
    }
}

/// The list of a region's mounts, held against other processes until dropped.
#[derive(Debug)]
pub struct Mounts {
    file: OwnedFd,
    path: PathText,
}

impl RegionDirectory {
    /// Opens the list of mounts and keeps others from it; makes it if there is none. [`PlaceError::Busy`] when another
    /// process holds it for half a minute.
    pub fn lock_mounts(&self) -> Result<Mounts, PlaceError> {
        let path = self.path().joined(b"mounts");
        let file = open_or_make(self.directory(), c"mounts", OFlags::RDWR | OFlags::NONBLOCK)
            .map_err(|errno| failed("open", &path, errno))?;
        check(&file, &path)?;
        for _ in 0..LOCK_STEPS {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Mounts { file, path }),
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(errno) => return Err(failed("lock", &path, errno)),
            }
            let _ = rustix::thread::nanosleep(&LOCK_STEP);
        }
        Err(PlaceError::Busy { path: ShownPath::of(&path) })
    }

    /// Calls `each` with the mounts of this region until it answers `false`.
    pub fn for_each_mount(&self, each: &mut dyn FnMut(MountNote<'_>) -> bool) -> Result<(), PlaceError> {
        let path = self.path().joined(b"mounts");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(self.directory(), c"mounts", flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(failed("open", &path, errno)),
        };
        check(&file, &path)?;
        let text = read(&file, &path)?;
        for note in notes(&text) {
            if !each(note) {
                break;
            }
        }
        Ok(())
    }
}

impl Mounts {
    /// Calls `each` with every mount until it answers `false`.
    pub fn for_each(&self, each: &mut dyn FnMut(MountNote<'_>) -> bool) -> Result<(), PlaceError> {
        for note in notes(&read(&self.file, &self.path)?) {
            if !each(note) {
                break;
            }
        }
        Ok(())
    }

    /// Writes down a mount, instead of an older one at the same place.
    pub fn add(&self, note: &MountNote<'_>) -> Result<(), PlaceError> {
        if !note.prefix.starts_with(b"/") || note.prefix.iter().any(|&byte| byte == b'\n' || byte == 0) {
            return Err(failed("write into", &self.path, Errno::INVAL));
        }
        self.rewrite(note.prefix, Some(note))
    }

    /// Forgets the mount at `prefix`.
    pub fn remove(&self, prefix: &[u8]) -> Result<(), PlaceError> {
        self.rewrite(prefix, None)
    }

    fn rewrite(&self, prefix: &[u8], note: Option<&MountNote<'_>>) -> Result<(), PlaceError> {
        let old = read(&self.file, &self.path)?;
        let mut new = Text::<MOUNTS_MAX>::new();
        for kept in notes(&old).filter(|kept| kept.prefix != prefix).chain(note.copied()) {
            kept.write(&mut new);
        }
        if new.is_cut() {
            return Err(failed("write into", &self.path, Errno::NOSPC));
        }
        // First longer, then cut: a kill in between leaves lines twice, never half a line that counts.
        let bytes = new.as_bytes();
        match rustix::io::pwrite(&self.file, bytes, 0) {
            Ok(written) if written == bytes.len() => {}
            Ok(_) => return Err(failed("write into", &self.path, Errno::NOSPC)),
            Err(errno) => return Err(failed("write into", &self.path, errno)),
        }
        rustix::fs::ftruncate(&self.file, bytes.len() as u64).map_err(|errno| failed("write into", &self.path, errno))
    }
}

fn check(file: &OwnedFd, path: &PathText) -> Result<(), PlaceError> {
    let stat = rustix::fs::fstat(file).map_err(|errno| failed("examine", path, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(PlaceError::Refused { path: ShownPath::of(path), why: Refusal::NotAFile });
    }
    match refusal(&stat) {
        Some(why) => Err(PlaceError::Refused { path: ShownPath::of(path), why }),
        None => Ok(()),
    }
}

fn read(file: &OwnedFd, path: &PathText) -> Result<Text<MOUNTS_MAX>, PlaceError> {
    let mut bytes = [0u8; MOUNTS_MAX];
    let mut length = 0;
    while length < bytes.len() {
        match rustix::io::pread(file, &mut bytes[length..], length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("read", path, errno)),
        }
    }
    Ok(Text::from_bytes(&bytes[..length]))
}

/// Lines that are no notes are none of ours, or were being written when their writer was killed.
fn notes(text: &Text<MOUNTS_MAX>) -> impl Iterator<Item = MountNote<'_>> {
    text.as_bytes()
        .split_inclusive(|&byte| byte == b'\n')
        .filter_map(|line| MountNote::parse(line.strip_suffix(b"\n")?))
}
