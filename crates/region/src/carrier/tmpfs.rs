//! A tmpfs of the region's own with huge pages: needs permission to mount.

use core::fmt::Write;

use rustix::fd::AsFd;
use rustix::io::Errno;

use super::error::CreateError;
use super::populate::{Finish, check_before, populate};
use super::{Carrier, Created, Crew, Survives, create_file, new_path};
use crate::budget;
use crate::place::{RegionDirectory, ShownPath, Text, mount_tmpfs_like};

/// The carrier `tmpfs`.
#[derive(Clone, Copy, Debug)]
pub struct Tmpfs;

impl Carrier for Tmpfs {
    fn name(&self) -> &'static str {
        "tmpfs"
    }

    fn survives(&self) -> Survives {
        Survives::JobStep
    }

    fn create(&self, region: &RegionDirectory, size: u64, crew: &mut dyn Crew) -> Result<Created, CreateError> {
        // The mount is exactly as large as the region: only memory itself can be short.
        check_before(size, None)?;
        region.make_memory().or_else(super::error::made_already)?;
        let no_swap = mount(region, size, self.name())?;
        let file = create_file(region)?;
        let pages = populate(file.as_fd(), &new_path(region), size, Finish::HugeAndFilled, None, crew)?;
        Ok(Created { file, carrier: self.name(), pages, swappable: !no_swap && budget::has_swap() })
    }
}

/// Mounts for `carrier` with the best options that this kernel takes; answers whether it stays out of swap.
pub(super) fn mount(region: &RegionDirectory, size: u64, carrier: &'static str) -> Result<bool, CreateError> {
    let path = region.path().joined(b"memory");
    // `noswap` is there since 6.4, not for users' own namespaces; `huge=` can be left out of the kernel.
    for (extra, no_swap) in [(",huge=always,noswap", true), (",huge=always", false), ("", false)] {
        let mut options = Text::<128>::new();
        // Writing into a buffer of our own cannot fail.
        let _ = write!(options, "size={size},nr_inodes=16,mode=0700{extra}");
        match mount_tmpfs_like(c"tmpfs", path.as_c_str(), options.as_c_str(), false) {
            Ok(()) => return Ok(no_swap),
            Err(Errno::INVAL) => {}
            Err(errno @ (Errno::PERM | Errno::ACCESS)) => {
                return Err(CreateError::CannotMount { carrier, errno });
            }
            Err(errno) => {
                return Err(CreateError::Failed { doing: "mount a tmpfs over", path: ShownPath::of(&path), errno });
            }
        }
    }
    Err(CreateError::Failed { doing: "mount a tmpfs over", path: ShownPath::of(&path), errno: Errno::INVAL })
}
