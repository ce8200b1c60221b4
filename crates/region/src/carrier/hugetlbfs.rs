//! A hugetlbfs of the region's own: needs permission to mount and huge pages that the administrator set aside.
//!
//! Its files cannot be mapped at 4 KiB and cannot be written with `write()`; the number of huge pages of the machine is
//! never changed.

use core::fmt::Write;

use rustix::fd::AsFd;
use rustix::io::Errno;

use super::error::CreateError;
use super::{Carrier, Created, Crew, Survives, create_file, hugetlb, new_path};
use crate::place::{RegionDirectory, ShownPath, Text, mount_tmpfs_like};

/// The carrier `hugetlbfs`.
#[derive(Clone, Copy, Debug)]
pub struct Hugetlbfs;

impl Carrier for Hugetlbfs {
    fn name(&self) -> &'static str {
        "hugetlbfs"
    }

    fn survives(&self) -> Survives {
        Survives::JobStep
    }

    fn maps_files(&self) -> bool {
        false
    }

    fn create(&self, region: &RegionDirectory, size: u64, crew: &mut dyn Crew) -> Result<Created, CreateError> {
        hugetlb::check_before(size)?;
        region.make_memory().or_else(super::error::made_already)?;
        mount(region, size)?;
        let file = create_file(region)?;
        let pages = hugetlb::reserve(file.as_fd(), &new_path(region), size, crew)?;
        Ok(Created { file, carrier: self.name(), pages, swappable: false })
    }
}

fn mount(region: &RegionDirectory, size: u64) -> Result<(), CreateError> {
    let path = region.path().joined(b"memory");
    let mut options = Text::<128>::new();
    // Writing into a buffer of our own cannot fail.
    let _ = write!(options, "pagesize=2M,size={size},mode=0700");
    match mount_tmpfs_like(c"hugetlbfs", path.as_c_str(), options.as_c_str(), false) {
        Ok(()) => Ok(()),
        Err(errno @ (Errno::PERM | Errno::ACCESS)) => Err(CreateError::CannotMount { carrier: "hugetlbfs", errno }),
        Err(errno) => Err(CreateError::Failed { doing: "mount a hugetlbfs over", path: ShownPath::of(&path), errno }),
    }
}
