//! A hugetlbfs of the region's own: needs permission to mount and huge pages that the administrator set aside.
//!
//! Its files cannot be mapped at 4 KiB and cannot be written with `write()`; the number of huge pages of the machine is
//! never changed.

use core::ffi::CStr;
use core::fmt::Write;

use rustix::fd::AsFd;
use rustix::io::Errno;

use super::error::CreateError;
use super::populate::{Finish, populate};
use super::{Carrier, Created, SIZE_STEP, Survives, create_file, new_path};
use crate::budget::{number, read_small_file};
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

    fn create(
        &self,
        region: &RegionDirectory,
        size: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Created, CreateError> {
        if size == 0 || !size.is_multiple_of(SIZE_STEP) {
            return Err(CreateError::Size(size));
        }
        let free = free_huge_pages().saturating_mul(SIZE_STEP);
        if free < size {
            return Err(CreateError::HugePages { free, needed: size });
        }
        region.make_memory().or_else(super::error::made_already)?;
        mount(region, size)?;
        let file = create_file(region)?;
        // The pages were set aside before: they are in nobody's memory budget any more.
        let pages = populate(file.as_fd(), &new_path(region), size, Finish::AsReserved, None, progress)?;
        Ok(Created { file, carrier: self.name(), pages, swappable: false })
    }
}

/// Free 2 MiB pages that are not promised to other mappings.
fn free_huge_pages() -> u64 {
    let read = |path: &CStr| {
        let mut buffer = [0u8; 32];
        read_small_file(path, &mut buffer).and_then(number).unwrap_or(0)
    };
    let free = read(c"/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    free.saturating_sub(read(c"/sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages"))
}

fn mount(region: &RegionDirectory, size: u64) -> Result<(), CreateError> {
    let path = region.path().joined(b"memory");
    let mut options = Text::<128>::new();
    // Writing into a buffer of our own cannot fail.
    let _ = write!(options, "pagesize=2M,size={size},mode=0700");
    match mount_tmpfs_like(c"hugetlbfs", &path, options.as_c_str(), false) {
        Ok(()) => Ok(()),
        Err(errno @ (Errno::PERM | Errno::ACCESS)) => Err(CreateError::CannotMount { carrier: "hugetlbfs", errno }),
        Err(errno) => Err(CreateError::Failed { doing: "mount a hugetlbfs over", path: ShownPath::of(&path), errno }),
    }
}
