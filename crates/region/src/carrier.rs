//! What a region's bytes lie in: carriers.
//!
//! A carrier makes a file of the wished size below the region's directory, with every page reserved and zero, and can
//! open it again. All of them pass one conformance suite (`tests/carrier_conformance.rs`).
//!
//! | carrier | what it is | needs | pages |
//! |---|---|---|---|
//! | `tmpfs` | a tmpfs of its own, `huge=always` | permission to mount | 2 MiB |
//! | `shm` | a file on /dev/shm | nothing | 2 MiB where the kernel collapses them, else 4 KiB |
//! | `hugetlbfs` | a hugetlbfs of its own | permission to mount, free huge pages | 2 MiB |
//! | `keeper` | a tmpfs, `huge=always`, in namespaces of a keeper process | user namespaces | 2 MiB |
//! | `keeper-hugetlb` | anonymous memory of a keeper process | free huge pages | 2 MiB |
//! | `memfd` | anonymous, for tests inside one process | nothing | as `shm` |

mod crew;
mod error;
mod hugetlb;
mod hugetlbfs;
pub mod keeper;
mod memfd;
mod pages;
mod populate;
mod shm;
mod tmpfs;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use self::keeper::KeeperError;
use crate::place::{PathText, PlaceError, Refusal, RegionDirectory, ShownPath, open_or_make, refusal};

pub use crew::Crew;
pub use error::{CreateError, OpenError};
pub use hugetlbfs::Hugetlbfs;
pub use keeper::{Keeper, KeeperHugetlb};
pub use memfd::Memfd;
pub use pages::{PageReport, examine_pages};
pub use shm::Shm;
pub use tmpfs::Tmpfs;

/// Regions are made of this many bytes at a time: the size of a huge page and of a chunk.
pub const SIZE_STEP: u64 = 2 << 20;

/// What a region lives longer than.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    /// Every process that uses it and the job step; not the end of the allocation if the site clears /dev/shm then, and
    /// not a reboot.
    JobStep,
    /// As [`Survives::JobStep`], as long as its keeper process lives.
    WhileKept,
    /// Nothing: it ends with the last process that has it open.
    Nothing,
}

impl Survives {
    /// One word for tables and JSON, as `lifeboat region list` shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Survives::JobStep => "process, job step",
            Survives::WhileKept => "process, job step while its keeper lives",
            Survives::Nothing => "nothing",
        }
    }
}

/// A new, zero-filled, fully reserved file that nobody else can see as a region yet.
#[derive(Debug)]
pub struct Created {
    /// Open for reading and writing.
    pub file: OwnedFd,
    /// Name of the carrier.
    pub carrier: &'static str,
    /// Which page sizes its mappings get.
    pub pages: PageReport,
    /// Whether the kernel may move it to swap.
    pub swappable: bool,
}

/// One way to hold a region's bytes.
pub trait Carrier: Sync {
    /// The name in `--carrier` and in reports.
    fn name(&self) -> &'static str;

    /// What a region on this carrier lives longer than.
    fn survives(&self) -> Survives;

    /// Whether files in the region can be mapped (`mmap`): not where the kernel maps 2 MiB at a time only.
    fn maps_files(&self) -> bool {
        true
    }

    /// Makes `memory/region.new` with `size` bytes (a multiple of [`SIZE_STEP`]), every page reserved and zero.
    ///
    /// `crew` fills it, and is told how far it is. On failure the caller removes the region's directory.
    fn create(&self, region: &RegionDirectory, size: u64, crew: &mut dyn Crew) -> Result<Created, CreateError>;

    /// Opens `memory/region` for reading and writing.
    fn open(&self, region: &RegionDirectory) -> Result<OwnedFd, OpenError> {
        open_checked(region, c"region")
    }
}

/// The carriers that a region can be created on by any process.
pub const CARRIERS: [&dyn Carrier; 3] = [&Tmpfs, &Shm, &Hugetlbfs];

/// The carriers that need a keeper process of their own (see [`keeper::Keeping`]).
pub const KEPT: [&dyn Carrier; 2] = [&Keeper, &KeeperHugetlb];

/// The carrier called `name`.
pub fn by_name(name: &[u8]) -> Option<&'static dyn Carrier> {
    CARRIERS.into_iter().chain(KEPT).find(|carrier| carrier.name().as_bytes() == name)
}

/// Whether this machine gives files on /dev/shm 2 MiB pages, tried with one below `memory/`.
pub fn collapses_pages(region: &RegionDirectory) -> Result<bool, CreateError> {
    let probed = Shm.create(region, SIZE_STEP, &mut |_: u64, _: u64| {})?;
    let memory = region.open_memory()?;
    rustix::fs::unlinkat(&memory, c"region.new", AtFlags::empty()).map_err(|errno| CreateError::Failed {
        doing: "delete",
        path: ShownPath::of(&new_path(region)),
        errno,
    })?;
    Ok(probed.pages.page_size() == SIZE_STEP)
}

/// Creates on the best carrier that the caller may use: `tmpfs` for root, else `shm`.
///
/// The second value says why the better one was not taken, if it was tried.
pub fn create_best(
    region: &RegionDirectory,
    size: u64,
    crew: &mut dyn Crew,
) -> Result<(Created, Option<CreateError>), CreateError> {
    if !rustix::process::geteuid().is_root() {
        return Ok((Shm.create(region, size, crew)?, None));
    }
    match Tmpfs.create(region, size, crew) {
        Ok(created) => Ok((created, None)),
        Err(why @ CreateError::CannotMount { .. }) => Ok((Shm.create(region, size, crew)?, Some(why))),
        Err(error) => Err(error),
    }
}

/// Which carrier holds an existing region, judged by what is there.
pub fn identify(region: &RegionDirectory) -> Result<&'static dyn Carrier, PlaceError> {
    if !region.is_mounted(c"memory")? {
        return Ok(keeper::carrier_of(region).unwrap_or(&Shm));
    }
    let memory = region.open_memory()?;
    Ok(if hugetlb::is_hugetlb(&memory) { &Hugetlbfs } else { &Tmpfs })
}

/// Opens the memory of a published region whatever its carrier is, for reading and writing.
///
/// Asks its keeper for it where there is one. Refuses what is not a regular file of the caller's with one name and closed to all others.
pub fn open(region: &RegionDirectory) -> Result<OwnedFd, OpenError> {
    open_checked(region, c"region")
}

/// `size` rounded up to what a region can have; `None` beyond what a file can have.
pub const fn round_size(size: u64) -> Option<u64> {
    match size.checked_next_multiple_of(SIZE_STEP) {
        Some(rounded) if rounded <= i64::MAX as u64 => Some(rounded),
        _ => None,
    }
}

fn open_checked(region: &RegionDirectory, name: &core::ffi::CStr) -> Result<OwnedFd, OpenError> {
    let mut path = region.path().joined(b"memory");
    path = path.joined(name.to_bytes());
    let shown = ShownPath::of(&path);
    let memory = match region.open_memory() {
        Ok(memory) => memory,
        Err(error) => return receive_checked(region).unwrap_or(Err(error.into())),
    };
    // NONBLOCK: a planted FIFO must not hang the open.
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::openat(&memory, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => {
            let missing = OpenError::Missing { path: ShownPath::of(region.path()) };
            return receive_checked(region).unwrap_or(Err(missing));
        }
        Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => {
            return Err(OpenError::Refused { path: shown, why: Refusal::NotAFile });
        }
        Err(errno) => return Err(OpenError::Failed { doing: "open", path: shown, errno }),
    };
    check(file, shown, 1)
}

/// The file that the region's keeper hands out; `None` when the region has no keeper.
fn receive_checked(region: &RegionDirectory) -> Option<Result<OwnedFd, OpenError>> {
    match keeper::receive_file(region.directory()) {
        Ok(file) => {
            // Huge pages of a keeper have no name anywhere.
            let names = if hugetlb::is_hugetlb(&file) { 0 } else { 1 };
            Some(check(file, ShownPath::of(&region.path().joined(b"memory/region")), names))
        }
        Err(KeeperError::None) => None,
        Err(why) => Some(Err(OpenError::Keeper { path: ShownPath::of(region.path()), why })),
    }
}

/// Refuses what is not a regular file of the caller's with this many names and closed to all others.
fn check(file: OwnedFd, shown: ShownPath, names: u32) -> Result<OwnedFd, OpenError> {
    let stat = rustix::fs::fstat(&file).map_err(|errno| OpenError::Failed { doing: "examine", path: shown, errno })?;
    let why = if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        Some(Refusal::NotAFile)
    } else if stat.st_nlink as u32 != names {
        Some(Refusal::Links(stat.st_nlink as u32))
    } else {
        refusal(&stat)
    };
    match why {
        Some(why) => Err(OpenError::Refused { path: shown, why }),
        None => Ok(file),
    }
}

/// Makes the empty file `memory/region.new`.
fn create_file(region: &RegionDirectory) -> Result<OwnedFd, CreateError> {
    let path = new_path(region);
    let memory = region.open_memory()?;
    open_or_make(memory.as_fd(), c"region.new", OFlags::RDWR | OFlags::EXCL).map_err(|errno| CreateError::Failed {
        doing: "create",
        path: ShownPath::of(&path),
        errno,
    })
}

fn new_path(region: &RegionDirectory) -> PathText {
    region.path().joined(b"memory/region.new")
}
