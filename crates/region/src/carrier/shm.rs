//! A file in the user's directory on /dev/shm: needs no permission.

use rustix::fd::AsFd;

use super::error::CreateError;
use super::populate::{Finish, check_before, free_space, populate};
use super::{Carrier, Created, Crew, Survives, create_file, new_path};
use crate::budget;
use crate::place::{RegionDirectory, ShownPath};

/// The carrier `shm`.
#[derive(Clone, Copy, Debug)]
pub struct Shm;

impl Carrier for Shm {
    fn name(&self) -> &'static str {
        "shm"
    }

    fn survives(&self) -> Survives {
        Survives::JobStep
    }

    fn create(&self, region: &RegionDirectory, size: u64, crew: &mut dyn Crew) -> Result<Created, CreateError> {
        const TMPFS_MAGIC: u32 = 0x0102_1994;
        let shown = ShownPath::of(region.path());
        let failed = |errno| CreateError::Failed { doing: "examine", path: shown, errno };
        let kind = rustix::fs::fstatfs(region.directory()).map_err(failed)?.f_type;
        if kind as u32 != TMPFS_MAGIC {
            return Err(CreateError::NotMemory { path: shown });
        }
        let free = || free_space(region.directory());
        check_before(size, Some(&free))?;
        region.make_memory().or_else(super::error::made_already)?;
        let file = create_file(region)?;
        let pages = populate(file.as_fd(), &new_path(region), size, Finish::HugeAndFilled, Some(&free), crew)?;
        Ok(Created { file, carrier: self.name(), pages, swappable: budget::has_swap() })
    }
}
