//! Where regions live: one private directory per user, in it one directory per region.
//!
//! ```text
//! /dev/shm/lifeboat-UID/     0700, checked for owner and mode at every use
//!   NAME/                    made with mkdir: its existence is the claim of the name
//!     memory/region          the carrier's file; named region.new until it is initialised
//!     keeper, keeper.sock    of a region whose memory a keeper process holds: who it is, and where it answers
//!     tags/                  placeholders of open files
//!     images/                one lock file per process image
//!     covers                 mount prefixes that `lifeboat exec` covered
//!     mounts                 where `lifeboat mount` mounted the region, and the processes that serve it there
//!     ready                  made when the region was complete: tells a half-made one from one whose memory is mounted
//!                            elsewhere
//! ```
//!
//! /dev/shm is writable by everybody, so nothing found there is trusted: every component is opened without following
//! symbolic links, and what was opened must belong to the caller and be closed to all others. Names are resolved below
//! descriptors of directories that passed this check.

mod covers;
mod directory;
mod error;
mod make;
mod mount;
mod mounts;
mod name;
mod prefix;
mod remove;
mod text;

use core::ffi::CStr;
use core::mem::MaybeUninit;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;

pub use covers::{COVERS_MAX, Cover, CoverKind};
pub use directory::{RegionDirectory, Tags};
pub use error::{PlaceError, Refusal, RemoveError, ShownPath};
pub(crate) use make::open_or_make;
pub use make::{make_directory, make_directory_at};
pub(crate) use mount::{is_mount, mount_tmpfs_like};
pub use mounts::{MountNote, Mounts};
pub use name::{BadName, NAME_MAX, RegionName};
pub use prefix::{CoverError, Covered};
pub use remove::RemoveMode;
pub use text::{PathText, Text};

pub(crate) use error::Reason;
use error::failed;

/// The directory in which every user has a base directory.
pub const SHARED_MEMORY: &str = "/dev/shm";

/// The longest path of a base directory, in bytes: what stands below it must fit into a [`PathText`].
const BASE_MAX: usize = 320;

/// How long a short critical section of another process is waited for, in steps of [`LOCK_STEP`].
const LOCK_STEPS: u32 = 3000;
const LOCK_STEP: rustix::thread::Timespec = rustix::thread::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// Which base directory is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Base<'a> {
    /// `/dev/shm/lifeboat-UID` of the effective user.
    #[default]
    Standard,
    /// This absolute path; its parent must exist.
    At(&'a [u8]),
}

/// What is found under a region's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Absent,
    /// A living process is creating or removing it at this moment.
    Busy,
    /// The process that created it died before the region was complete; nothing was ever stored in it.
    HalfMade,
    /// A complete region.
    Ready,
    /// A complete region whose memory is not here: it is mounted in another mount namespace, was unmounted, or its
    /// removal was cut short.
    NotVisible,
}

/// The user's base directory. It is opened and checked anew at every use: the removal of its last region takes it away,
/// and the next creation brings it back.
#[derive(Debug)]
pub struct Place {
    path: PathText,
}

impl Place {
    /// Finds the base directory.
    ///
    /// Errors: [`PlaceError::Missing`] when nobody made it yet, [`PlaceError::Refused`] when it is not a directory of
    /// the caller that is closed to all others.
    pub fn open(base: Base<'_>) -> Result<Place, PlaceError> {
        let path = base_path(base)?;
        let place = Place { path };
        place.directory().map(|_| place)
    }

    /// Finds the base directory and makes it first if nobody did.
    pub fn open_or_create(base: Base<'_>) -> Result<Place, PlaceError> {
        let place = Place { path: base_path(base)? };
        // Between the two steps the removal of the last region in it may take it away again.
        loop {
            place.make()?;
            match place.directory() {
                Ok(_) => return Ok(place),
                Err(PlaceError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn make(&self) -> Result<(), PlaceError> {
        match make_directory_at(self.path.as_c_str(), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(failed("make the directory", &self.path, errno)),
        }
    }

    fn directory(&self) -> Result<OwnedFd, PlaceError> {
        open_private_directory(CWD, self.path.as_c_str(), &self.path)
    }

    /// The absolute path of the base directory.
    pub fn path(&self) -> &PathText {
        &self.path
    }

    /// The absolute path that the region `name` has or would have.
    pub fn region_path(&self, name: &RegionName) -> PathText {
        self.path.joined(name.as_bytes())
    }

    /// Opens the directory of the region `name`.
    pub fn open_region(&self, name: &RegionName) -> Result<RegionDirectory, PlaceError> {
        RegionDirectory::open_in(self.directory()?.as_fd(), name, self.region_path(name))
    }

    /// Claims `name` by making its directory.
    ///
    /// The claim is held (see [`Standing::Busy`]) until the result is dropped or its process dies.
    /// Errors: [`PlaceError::Exists`] when the name is taken.
    pub fn create_region(&self, name: &RegionName) -> Result<RegionDirectory, PlaceError> {
        let path = self.region_path(name);
        // Nobody may look at the new directory before its claim is visible, nor take the base directory away.
        let short = loop {
            self.make()?;
            match self.lock() {
                Err(PlaceError::Missing { .. }) => {}
                locked => break locked?,
            }
        };
        match make_directory(&short.directory, name.as_c_str(), Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(PlaceError::Exists { path: ShownPath::of(&path) }),
            Err(errno) => return Err(failed("make the directory", &path, errno)),
        }
        let region = self.open_region(name)?;
        region.claim()?;
        Ok(region)
    }

    /// Says what is found under `name` without changing anything.
    pub fn standing(&self, name: &RegionName) -> Result<Standing, PlaceError> {
        let found = self.lock().and_then(|short| Ok((self.open_region(name)?, short)));
        let (region, _short) = match found {
            Ok(found) => found,
            Err(PlaceError::Missing { .. }) => return Ok(Standing::Absent),
            Err(error) => return Err(error),
        };
        match region.claim() {
            Ok(()) if region.is_published()? => Ok(Standing::Ready),
            Ok(()) if region.is_marked_ready()? => Ok(Standing::NotVisible),
            Ok(()) => Ok(Standing::HalfMade),
            // A published region is complete even while somebody holds it, be it to remove it.
            Err(PlaceError::Busy { .. }) if region.is_published()? => Ok(Standing::Ready),
            Err(PlaceError::Busy { .. }) => Ok(Standing::Busy),
            Err(error) => Err(error),
        }
    }

    /// Calls `each` with the name of every region directory, in no particular order, until it answers `false`.
    ///
    /// Entries that cannot be regions (wrong name, not a directory) are passed over.
    pub fn list(&self, each: &mut dyn FnMut(&RegionName) -> bool) -> Result<(), PlaceError> {
        let listing = match self.directory() {
            // Taken away with its last region.
            Err(PlaceError::Missing { .. }) => return Ok(()),
            listing => listing?,
        };
        for_each_entry(&listing, &self.path, &mut |name, _| {
            let Ok(name) = RegionName::new(name.to_bytes()) else {
                return Ok(true);
            };
            let is_directory = rustix::fs::statat(&listing, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
            Ok(!is_directory || each(&name))
        })
    }

    /// Excludes other processes from the short critical sections on this base directory.
    fn lock(&self) -> Result<PlaceLock, PlaceError> {
        let mut directory = self.directory()?;
        for _ in 0..LOCK_STEPS {
            match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if self.is_at_its_path(&directory)? => return Ok(PlaceLock { directory }),
                // Taken away while its lock was waited for.
                Ok(()) => {
                    directory = self.directory()?;
                    continue;
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(errno) => return Err(failed("lock", &self.path, errno)),
            }
            let _ = rustix::thread::nanosleep(&LOCK_STEP);
        }
        Err(PlaceError::Busy { path: ShownPath::of(&self.path) })
    }

    fn is_at_its_path(&self, directory: &OwnedFd) -> Result<bool, PlaceError> {
        let opened = rustix::fs::fstat(directory).map_err(|errno| failed("examine", &self.path, errno))?;
        match rustix::fs::lstat(self.path.as_c_str()) {
            Ok(found) => Ok((found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed("examine", &self.path, errno)),
        }
    }

    /// Takes the standard base directory away if no region is left in it; one that the user has chosen stays.
    fn remove_if_empty(&self) {
        if base_path(Base::Standard).is_ok_and(|standard| standard.as_bytes() == self.path.as_bytes()) {
            // Under the lock nobody creates a region. Not empty, or gone: nothing to do.
            if let Ok(_short) = self.lock() {
                let _ = rustix::fs::rmdir(self.path.as_c_str());
            }
        }
    }
}

/// Released when dropped, or when its process dies.
struct PlaceLock {
    /// The base directory, which stays while this is held.
    directory: OwnedFd,
}

fn base_path(base: Base<'_>) -> Result<PathText, PlaceError> {
    let mut path = PathText::new();
    match base {
        Base::Standard => {
            path.push(SHARED_MEMORY.as_bytes());
            path.push(b"/lifeboat-");
            path.push_number(u64::from(rustix::process::geteuid().as_raw()));
        }
        Base::At(given) => path.push(given),
    }
    let bytes = path.as_bytes();
    let unusable = path.is_cut()
        || bytes.len() > BASE_MAX
        || !bytes.starts_with(b"/")
        || bytes.ends_with(b"/")
        || bytes.contains(&0);
    if unusable { Err(PlaceError::BadBase { path: ShownPath::of(&path) }) } else { Ok(path) }
}

/// Opens a directory that must belong to the caller and be closed to all others.
fn open_private_directory(parent: impl AsFd, name: &CStr, path: &PathText) -> Result<OwnedFd, PlaceError> {
    open_own_directory(parent, name, path, refusal)
}

/// Opens a directory unless `refusal` says why not.
fn open_own_directory(
    parent: impl AsFd,
    name: &CStr,
    path: &PathText,
    refusal: impl FnOnce(&Stat) -> Option<Refusal>,
) -> Result<OwnedFd, PlaceError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Err(PlaceError::Missing { path: ShownPath::of(path) }),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            return Err(PlaceError::Refused { path: ShownPath::of(path), why: Refusal::NotADirectory });
        }
        Err(Errno::ACCESS | Errno::PERM) => {
            return Err(PlaceError::Refused { path: ShownPath::of(path), why: Refusal::Closed });
        }
        Err(errno) => return Err(failed("open", path, errno)),
    };
    let stat = rustix::fs::fstat(&directory).map_err(|errno| failed("examine", path, errno))?;
    match refusal(&stat) {
        None => Ok(directory),
        Some(why) => Err(PlaceError::Refused { path: ShownPath::of(path), why }),
    }
}

/// Whether somebody else owns this or can get at it.
pub(crate) fn refusal(stat: &Stat) -> Option<Refusal> {
    let expected = rustix::process::geteuid().as_raw();
    if stat.st_uid != expected {
        return Some(Refusal::Owner { found: stat.st_uid, expected });
    }
    let open_to_others = stat.st_mode & 0o077 != 0;
    open_to_others.then_some(Refusal::Mode(stat.st_mode & 0o7777))
}

/// Calls `each` with name and type of every entry but `.` and `..` until it answers `false`.
fn for_each_entry(
    directory: &OwnedFd,
    path: &PathText,
    each: &mut dyn FnMut(&CStr, FileType) -> Result<bool, PlaceError>,
) -> Result<(), PlaceError> {
    rustix::fs::seek(directory, rustix::fs::SeekFrom::Start(0)).map_err(|errno| failed("list", path, errno))?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|errno| failed("list", path, errno))?;
        let name = entry.file_name();
        if name != c"." && name != c".." && !each(name, entry.file_type())? {
            break;
        }
    }
    Ok(())
}

/// Device number of what `directory` shows under `name`; different from its own when something is mounted there.
fn device_of(directory: BorrowedFd<'_>, name: &CStr) -> Result<u64, Errno> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| stat.st_dev)
}
