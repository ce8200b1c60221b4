//! The directory of one region.

use core::ffi::CStr;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::carrier::keeper;

use super::error::{PlaceError, ShownPath, failed};
use super::make::{make_directory, open_or_make};
use super::mount::mount_tmpfs_like;
use super::name::RegionName;
use super::text::PathText;
use super::{Base, Refusal, base_path, open_own_directory, open_private_directory};

/// What holds the placeholders of open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// A file system of their own that has no page to give: a write that reaches a placeholder fails with ENOSPC.
    Full,
    /// An ordinary directory, because mounting failed for this reason: a write at an explicit offset that bypasses
    /// the interception library succeeds and is lost.
    Plain(Errno),
}

/// The opened and checked directory of one region.
#[derive(Debug)]
pub struct RegionDirectory {
    directory: OwnedFd,
    name: RegionName,
    path: PathText,
}

impl RegionDirectory {
    /// Opens the region directory with this absolute path (see [`super::Place::region_path`]).
    ///
    /// Base directory and region directory must both belong to the caller and be closed to all others.
    pub fn open(path: &[u8]) -> Result<RegionDirectory, PlaceError> {
        let slash = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        let base_path = base_path(Base::At(&path[..slash]))?;
        let name = path.get(slash + 1..).unwrap_or(b"");
        let name = RegionName::new(name).map_err(|why| PlaceError::bad_name(name, why))?;
        let base = open_private_directory(CWD, base_path.as_c_str(), &base_path)?;
        RegionDirectory::open_in(base.as_fd(), &name, base_path.joined(name.as_bytes()))
    }

    pub(super) fn open_in(
        base: BorrowedFd<'_>,
        name: &RegionName,
        path: PathText,
    ) -> Result<RegionDirectory, PlaceError> {
        let directory = open_private_directory(base, name.as_c_str(), &path)?;
        Ok(RegionDirectory { directory, name: *name, path })
    }

    /// The region's name.
    pub fn name(&self) -> &RegionName {
        &self.name
    }

    /// The directory's absolute path, as `LIFEBOAT_REGION` carries it.
    pub fn path(&self) -> &PathText {
        &self.path
    }

    /// A descriptor of the directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Makes `memory/`, over which a carrier may mount.
    pub fn make_memory(&self) -> Result<(), PlaceError> {
        self.make(c"memory")
    }

    /// Makes `images/`.
    pub fn make_images(&self) -> Result<(), PlaceError> {
        self.make(c"images")?;
        self.share(c"images")
    }

    /// Makes `tags/` and, where mounting is permitted, a full file system of one page over it.
    pub fn make_tags(&self) -> Result<Tags, PlaceError> {
        self.make(c"tags")?;
        self.share(c"tags")?;
        let path = self.path.joined(b"tags");
        // One byte is rounded up to one page, whatever a page is here; inodes are not limited.
        match mount_tmpfs_like(c"tmpfs", path.as_c_str(), c"size=1,mode=0777,nr_inodes=0", false) {
            Ok(()) => {}
            Err(errno) => return Ok(Tags::Plain(errno)),
        }
        let tags = self.open_tags()?;
        let filler = open_or_make(&tags, c"filler", OFlags::WRONLY).map_err(|errno| failed("fill", &path, errno))?;
        match rustix::io::pwrite(&filler, b"\n", 0) {
            Ok(_) => Ok(Tags::Full),
            Err(errno) => Err(failed("fill", &path, errno)),
        }
    }

    /// Opens `memory/`.
    pub fn open_memory(&self) -> Result<OwnedFd, PlaceError> {
        self.open_inner(c"memory")
    }

    /// Opens `images/`.
    pub fn open_images(&self) -> Result<OwnedFd, PlaceError> {
        self.open_shared(c"images")
    }

    /// Opens `tags/`.
    pub fn open_tags(&self) -> Result<OwnedFd, PlaceError> {
        self.open_shared(c"tags")
    }

    /// Deletes what a keeper that could not start has written.
    pub fn forget_keeper(&self) -> Result<(), PlaceError> {
        match rustix::fs::unlinkat(&self.directory, keeper::NOTE, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("delete", &self.path.joined(keeper::NOTE.to_bytes()), errno)),
        }
    }

    /// Whether something is mounted over the inner directory `name`.
    pub(crate) fn is_mounted(&self, name: &CStr) -> Result<bool, PlaceError> {
        let path = self.path.joined(name.to_bytes());
        super::is_mount(self.directory(), name).map_err(|errno| failed("examine", &path, errno))
    }

    /// Makes the region visible: renames `memory/region.new` to `memory/region` (or its keeper's socket), never over
    /// another, and marks it.
    pub fn publish(&self) -> Result<(), PlaceError> {
        self.rename_new()?;
        open_or_make(&self.directory, c"ready", OFlags::WRONLY | OFlags::NONBLOCK)
            .map(drop)
            .map_err(|errno| failed("make", &self.path.joined(b"ready"), errno))
    }

    fn rename_new(&self) -> Result<(), PlaceError> {
        if self.exists(keeper::SOCKET_NEW)? {
            let directory = self.directory();
            return rustix::fs::renameat_with(
                directory,
                keeper::SOCKET_NEW,
                directory,
                keeper::SOCKET,
                RenameFlags::NOREPLACE,
            )
            .map_err(|errno| failed("publish", &self.path.joined(keeper::SOCKET_NEW.to_bytes()), errno));
        }
        let path = self.path.joined(b"memory/region.new");
        let memory = self.open_memory()?;
        let rename = |flags| rustix::fs::renameat_with(&memory, c"region.new", &memory, c"region", flags);
        match rename(RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            // hugetlbfs has no flags; the claim of the name keeps others away.
            Err(Errno::INVAL) if !self.is_published()? => {
                rename(RenameFlags::empty()).map_err(|errno| failed("publish", &path, errno))
            }
            Err(errno) => Err(failed("publish", &path, errno)),
        }
    }

    /// Whether `memory/region` exists, or the socket of the region's keeper, which may have died.
    pub fn is_published(&self) -> Result<bool, PlaceError> {
        Ok(self.exists(c"memory/region")? || self.exists(keeper::SOCKET)?)
    }

    /// Whether the region was complete once, wherever its memory is now.
    pub fn is_marked_ready(&self) -> Result<bool, PlaceError> {
        self.exists(c"ready")
    }

    fn exists(&self, name: &CStr) -> Result<bool, PlaceError> {
        match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed("examine", &self.path.joined(name.to_bytes()), errno)),
        }
    }

    /// Tells other processes that this one creates or removes the region, until the descriptor is closed.
    pub(super) fn claim(&self) -> Result<(), PlaceError> {
        match rustix::fs::flock(&self.directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(()),
            Err(Errno::WOULDBLOCK) => Err(PlaceError::Busy { path: ShownPath::of(&self.path) }),
            Err(errno) => Err(failed("lock", &self.path, errno)),
        }
    }

    fn make(&self, name: &CStr) -> Result<(), PlaceError> {
        make_directory(&self.directory, name, Mode::RWXU)
            .map_err(|errno| failed("make the directory", &self.path.joined(name.to_bytes()), errno))
    }

    /// Lets a program that holds the inner directory `name` open go on using it after it has given up its user id. The
    /// directory above stays closed to others.
    fn share(&self, name: &CStr) -> Result<(), PlaceError> {
        let mode = Mode::from_raw_mode(0o777);
        rustix::fs::chmodat(&self.directory, name, mode, AtFlags::empty())
            .map_err(|errno| failed("open up", &self.path.joined(name.to_bytes()), errno))
    }

    /// Opens an inner directory of either kind.
    pub(super) fn open_any(&self, name: &CStr) -> Result<OwnedFd, PlaceError> {
        if name == c"memory" { self.open_inner(name) } else { self.open_shared(name) }
    }

    fn open_shared(&self, name: &CStr) -> Result<OwnedFd, PlaceError> {
        open_own_directory(self.directory(), name, &self.path.joined(name.to_bytes()), |stat| {
            let expected = rustix::process::geteuid().as_raw();
            (stat.st_uid != expected).then_some(Refusal::Owner { found: stat.st_uid, expected })
        })
    }

    fn open_inner(&self, name: &CStr) -> Result<OwnedFd, PlaceError> {
        open_private_directory(self.directory(), name, &self.path.joined(name.to_bytes()))
    }
}
