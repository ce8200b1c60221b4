//! Huge pages that the administrator has set aside: what the carriers made of them have in common.
//!
//! They are nobody's memory budget any more: `MemAvailable` does not count them, memory cgroups only where the machine was
//! told so. What limits is how many are free and unpromised, and the hugetlb cgroups above this process.

use core::ffi::CStr;

use rustix::fd::{AsFd, BorrowedFd};

use super::SIZE_STEP;
use super::crew::Crew;
use super::error::CreateError;
use super::pages::PageReport;
use super::populate::{Finish, check_file_size, populate};
use crate::budget::{self, number, read_small_file};
use crate::place::PathText;

/// The file system that files of huge pages are on, be they anonymous.
const HUGETLBFS_MAGIC: u32 = 0x9584_58f6;

/// The machine's 2 MiB pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HugePages {
    /// Set aside, in use or not.
    set_aside: u64,
    /// Neither in use nor promised to a mapping.
    free: u64,
    /// What the kernel may make besides when somebody asks, out of ordinary memory.
    extra: u64,
}

impl HugePages {
    /// As the kernel counts them now; none where it has no such pages.
    fn of_machine() -> HugePages {
        let read = |path: &CStr| {
            let mut buffer = [0u8; 32];
            read_small_file(path, &mut buffer).and_then(number).unwrap_or(0)
        };
        let promised = read(c"/sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages");
        let surplus = read(c"/sys/kernel/mm/hugepages/hugepages-2048kB/surplus_hugepages");
        let overcommit = read(c"/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages");
        HugePages {
            set_aside: read(c"/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"),
            free: read(c"/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").saturating_sub(promised),
            extra: overcommit.saturating_sub(surplus),
        }
    }

    /// Fails when fewer than `needed` can be had; else answers how many of them the kernel has yet to make.
    fn check(&self, needed: u64) -> Result<u64, CreateError> {
        let missing = needed.saturating_sub(self.free);
        if missing <= self.extra {
            return Ok(missing);
        }
        Err(CreateError::HugePages { free: self.free, needed, set_aside: self.set_aside.saturating_add(missing) })
    }
}

/// Checks everything that can be known before the first page of a file of `size` bytes.
pub(super) fn check_before(size: u64) -> Result<(), CreateError> {
    if size == 0 || !size.is_multiple_of(SIZE_STEP) {
        return Err(CreateError::Size(size));
    }
    check_file_size(size)?;
    let to_be_made = HugePages::of_machine().check(size / SIZE_STEP)?;
    budget::available_in_huge_pages().map_or(Ok(()), |available| available.check(size))?;
    if to_be_made > 0 {
        budget::available().check(to_be_made.saturating_mul(SIZE_STEP))?;
    }
    Ok(())
}

/// Reserves all `size` bytes of `file`, zero.
pub(super) fn reserve(
    file: BorrowedFd<'_>,
    path: &PathText,
    size: u64,
    crew: &mut dyn Crew,
) -> Result<PageReport, CreateError> {
    populate(file, path, size, Finish::AsReserved, None, crew).map_err(|error| match error {
        CreateError::NoSpace { done, needed, .. } => CreateError::HugePagesGone { done, needed },
        error => error,
    })
}

/// Whether `file` lies in huge pages that were set aside, so that no piece smaller than 2 MiB of it can be mapped.
pub(super) fn is_hugetlb(file: impl AsFd) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|found| found.f_type as u32 == HUGETLBFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_pages_say_how_many_there_must_be_for_this_region() {
        // 20 are set aside, 17 of them in use.
        let pages = HugePages { set_aside: 20, free: 3, extra: 0 };
        assert_eq!(pages.check(3), Ok(0));
        let error = pages.check(8).unwrap_err();
        assert_eq!(error, CreateError::HugePages { free: 3, needed: 8, set_aside: 25 });
        let line = std::format!("{error}");
        for part in ["8 huge pages", "3 are free", "echo 25", "hugepages-2048kB/nr_hugepages"] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        assert!(!line.contains('\n'));
    }

    #[test]
    fn pages_that_the_kernel_may_make_on_demand_count_up_to_their_limit() {
        let pages = HugePages { set_aside: 0, free: 0, extra: 4 };
        assert_eq!(pages.check(4), Ok(4));
        assert!(pages.check(5).is_err());
    }
}
