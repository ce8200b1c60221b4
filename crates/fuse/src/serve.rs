//! Mounting, answering, and cleaning up behind.

use crate::device::{self, Device};
use crate::error::MountError;
use crate::service::Service;
use crate::signals::EndingSignals;
use crate::table::{mounted_at, real_path};
use fuser::{Config, Session, SessionACL};
use lifeboat_fs::{Errno, FileSystem};
use lifeboat_region::place::{MountNote, Mounts, RegionDirectory, make_directory_at};
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Dead mounts over each other that are cleared away before one is put there.
const STALE_LARGEST: u32 = 16;
/// Threads that answer.
const THREADS: std::ops::RangeInclusive<usize> = 4..=16;
/// How long a server that was told to end waits for those who still use the mount.
const FAREWELL: Duration = Duration::from_secs(2);

/// Mounts the region at `prefix`, calls `ready`, and answers the kernel until the mount is undone or a signal ends this
/// process. To be called before there are other threads. The directory is made if there is none, and goes with the mount.
///
/// Errors: nothing is mounted, and nothing was changed.
pub fn serve(
    directory: &RegionDirectory,
    files: FileSystem,
    prefix: &[u8],
    ready: impl FnOnce(),
) -> Result<(), MountError> {
    let signals = EndingSignals::block();
    let at = Path::new(OsStr::from_bytes(prefix)).to_path_buf();
    let session = {
        let mounts = directory.lock_mounts()?;
        let place = prepare(&mounts, &at, prefix)?;
        establish(directory, files, &at, &place).inspect_err(|_| clean_up(&mounts, &at, prefix, place.made))?
    };
    let farewell = Farewell { region: directory.path().as_bytes().to_vec(), at, prefix: prefix.to_vec() };
    let on_signal = farewell.clone();
    let ending = std::thread::Builder::new().name("signals".into()).spawn(move || {
        signals.wait();
        let _ = device::unmount(&real_path(&on_signal.at), true);
        // Who still uses the mount has this long to finish; the other thread says goodbye if that is enough.
        std::thread::sleep(FAREWELL);
        on_signal.say();
        std::process::exit(0);
    });
    if let Err(error) = ending {
        let _ = device::unmount(&real_path(&farewell.at), true);
        farewell.say();
        return Err(MountError::Protocol { at: farewell.at, error });
    }
    ready();
    let served = session.run();
    farewell.say();
    served.map_err(|error| MountError::Protocol { at: farewell.at, error })
}

/// Mounts, and comes to terms with the kernel. Nothing is mounted after an error.
fn establish(
    directory: &RegionDirectory,
    files: FileSystem,
    at: &Path,
    place: &MountPoint,
) -> Result<Session<Service>, MountError> {
    let region = OsStr::from_bytes(directory.path().as_bytes());
    let device = place.opened_up(|| device::mount(at, region))?;
    // What a server that died had open would keep space.
    files.reap(None);
    start(files, device).map_err(|error| {
        let _ = device::unmount(&real_path(at), true);
        MountError::Protocol { at: at.to_path_buf(), error }
    })
}

fn start(files: FileSystem, device: Device) -> io::Result<Session<Service>> {
    let mut config = Config::default();
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    config.n_threads = Some(processors.clamp(*THREADS.start(), *THREADS.end()));
    let (device, for_all) = device.into_parts();
    let acl = if for_all { SessionACL::All } else { SessionACL::Owner };
    Session::from_fd(Service::new(files), device, acl, config)
}

/// The directory that is mounted over.
struct MountPoint {
    /// Made for the mount.
    made: bool,
    directory: OwnedFd,
    mode: Mode,
}

impl MountPoint {
    /// Runs `mount` while the directory is writable for its owner, as the helper for ordinary users wants it.
    fn opened_up<T>(&self, mount: impl FnOnce() -> Result<T, MountError>) -> Result<T, MountError> {
        let is_closed = !self.mode.contains(Mode::WUSR) && !rustix::process::geteuid().is_root();
        if is_closed {
            // If that is not permitted, the helper says why it matters.
            let _ = rustix::fs::fchmod(&self.directory, self.mode | Mode::WUSR);
        }
        let mounted = mount();
        if is_closed {
            let _ = rustix::fs::fchmod(&self.directory, self.mode);
        }
        mounted
    }
}

/// Finds or makes the directory to mount over; clears away what dead servers have left there.
fn prepare(mounts: &Mounts, at: &Path, prefix: &[u8]) -> Result<MountPoint, MountError> {
    let failed = |doing, errno| MountError::Failed { doing, at: at.to_path_buf(), errno };
    let mut made = false;
    mounts.for_each(&mut |note| {
        made |= note.prefix == prefix && note.made;
        true
    })?;
    for _ in 0..STALE_LARGEST {
        let Some(mounted) = mounted_at(at) else { break };
        match rustix::fs::statfs(bytes(at)) {
            Err(Errno::NOTCONN | Errno::CONNABORTED) => {
                device::unmount(&mounted.at, true).map_err(|_| failed("clear away the dead mount at", Errno::BUSY))?;
            }
            _ => return Err(MountError::Mounted { at: at.to_path_buf(), region: mounted.region }),
        }
    }
    let found = rustix::fs::lstat(bytes(at));
    made = match found {
        Ok(_) => made,
        Err(Errno::NOENT) => true,
        Err(errno) => return Err(failed("examine", errno)),
    };
    // Written down before the deed, so that a kill in between leaves nothing that nobody knows of.
    let note = MountNote::own(made, prefix).map_err(|errno| failed("mount at", errno))?;
    mounts.add(&note)?;
    let point = open_directory(at, found.is_err(), made);
    if point.is_err() {
        clean_up(mounts, at, prefix, made && found.is_err());
    }
    point
}

fn open_directory(at: &Path, missing: bool, made: bool) -> Result<MountPoint, MountError> {
    let failed = |doing, errno| MountError::Failed { doing, at: at.to_path_buf(), errno };
    if missing {
        let name = CString::new(bytes(at)).map_err(|_| failed("make the directory", Errno::INVAL))?;
        match make_directory_at(&name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("make the directory", errno)),
        }
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(CWD, bytes(at), flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(MountError::NotADirectory { at: at.to_path_buf() }),
        Err(errno) => return Err(failed("open", errno)),
    };
    let stat = rustix::fs::fstat(&directory).map_err(|errno| failed("examine", errno))?;
    debug_assert_eq!(FileType::from_raw_mode(stat.st_mode), FileType::Directory);
    let mut entries = std::fs::read_dir(at).map_err(|error| failed("list", errno_of(&error)))?;
    if entries.next().is_some() {
        return Err(MountError::NotEmpty { at: at.to_path_buf() });
    }
    Ok(MountPoint { made, directory, mode: Mode::from_raw_mode(stat.st_mode & 0o7777) })
}

/// For raw system calls.
fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Forgets the mount and removes its directory if it was made for it. Somebody's files there are never touched.
pub(crate) fn clean_up(mounts: &Mounts, at: &Path, prefix: &[u8], made: bool) {
    if made {
        let _ = rustix::fs::rmdir(bytes(at));
    }
    let _ = mounts.remove(prefix);
}

/// What is to be done when the mount is gone.
#[derive(Clone)]
struct Farewell {
    region: Vec<u8>,
    at: std::path::PathBuf,
    prefix: Vec<u8>,
}

impl Farewell {
    /// Cleans up unless another server has taken over, or the region is gone.
    fn say(&self) {
        let Ok(directory) = RegionDirectory::open(&self.region) else { return };
        let Ok(mounts) = directory.lock_mounts() else { return };
        let mut own = None;
        let _ = mounts.for_each(&mut |note| {
            if note.prefix == self.prefix && MountNote::own(note.made, note.prefix) == Ok(note) {
                own = Some(note.made);
            }
            own.is_none()
        });
        if let Some(made) = own {
            clean_up(&mounts, &self.at, &self.prefix, made);
        }
    }
}
