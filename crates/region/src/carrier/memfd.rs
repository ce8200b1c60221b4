//! Anonymous memory for tests inside one process: has no name, so nobody can find it again.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};

use super::error::{CreateError, OpenError};
use super::populate::{Finish, check_before, populate};
use super::{Carrier, Created, Crew, Survives};
use crate::budget;
use crate::place::{PathText, RegionDirectory, ShownPath};

/// The carrier `memfd`. Not offered by `--carrier`.
#[derive(Clone, Copy, Debug)]
pub struct Memfd;

impl Memfd {
    /// As [`Carrier::create`], without a place.
    pub fn create_anywhere(&self, size: u64, crew: &mut dyn Crew) -> Result<Created, CreateError> {
        let path = PathText::from_bytes(b"memfd:lifeboat");
        let failed = |errno| CreateError::Failed { doing: "create", path: ShownPath::of(&path), errno };
        check_before(size, None)?;
        let file =
            rustix::fs::memfd_create(c"lifeboat", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(failed)?;
        let pages = populate(file.as_fd(), &path, size, Finish::HugeAndFilled, None, crew)?;
        // Nobody can take memory away under a mapping any more.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).map_err(failed)?;
        Ok(Created { file, carrier: self.name(), pages, swappable: budget::has_swap() })
    }
}

impl Carrier for Memfd {
    fn name(&self) -> &'static str {
        "memfd"
    }

    fn survives(&self) -> Survives {
        Survives::Nothing
    }

    fn create(&self, _region: &RegionDirectory, size: u64, crew: &mut dyn Crew) -> Result<Created, CreateError> {
        self.create_anywhere(size, crew)
    }

    fn open(&self, region: &RegionDirectory) -> Result<OwnedFd, OpenError> {
        Err(OpenError::Missing { path: ShownPath::of(region.path()) })
    }
}
