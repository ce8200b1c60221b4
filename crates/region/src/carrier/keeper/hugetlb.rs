//! Anonymous memory in huge pages that the administrator set aside, held by a keeper: for users who may not mount.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, SealFlags};
use rustix::io::Errno;

use crate::carrier::error::{CreateError, made_already};
use crate::carrier::{Carrier, Created, Crew, Survives, hugetlb};
use crate::place::{PathText, RegionDirectory, ShownPath};

/// The carrier `keeper-hugetlb`.
///
/// Needs no user namespace. No file in the region can be mapped: the kernel maps 2 MiB pieces of it only.
#[derive(Clone, Copy, Debug)]
pub struct KeeperHugetlb;

impl Carrier for KeeperHugetlb {
    fn name(&self) -> &'static str {
        "keeper-hugetlb"
    }

    fn survives(&self) -> Survives {
        Survives::WhileKept
    }

    fn maps_files(&self) -> bool {
        false
    }

    /// For the keeper process alone (see [`super::Keeping::prepare`]): the memory lives as long as the returned file is
    /// open somewhere.
    fn create(&self, region: &RegionDirectory, size: u64, crew: &mut dyn Crew) -> Result<Created, CreateError> {
        hugetlb::check_before(size)?;
        region.make_memory().or_else(made_already)?;
        let path = PathText::from_bytes(b"memfd:lifeboat");
        let failed = |errno| CreateError::Failed { doing: "create", path: ShownPath::of(&path), errno };
        let file = make_file().map_err(failed)?;
        rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        let pages = hugetlb::reserve(file.as_fd(), &path, size, crew)?;
        // Nobody who got the file can take memory away under another's mapping.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).map_err(failed)?;
        Ok(Created { file, carrier: self.name(), pages, swappable: false })
    }
}

fn make_file() -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    match rustix::fs::memfd_create(c"lifeboat", flags | MemfdFlags::NOEXEC_SEAL) {
        // Before 6.3 nobody asked whether it will be executed.
        Err(Errno::INVAL) => rustix::fs::memfd_create(c"lifeboat", flags),
        made => made,
    }
}
