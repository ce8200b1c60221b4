//! How much memory may be reserved without anybody being killed for it.
//!
//! Reserving pages over the limit of a memory cgroup does not fail: the kernel kills a process of the group. So before
//! the first page, and again between the steps of reserving, the least of these is compared with what is still needed:
//! what every memory cgroup above this process has left (version 1 and version 2), `MemAvailable`, and the free space of
//! the file system that takes the pages. A margin stays free for the program itself.
//!
//! Huge pages that the administrator has set aside are counted elsewhere: by the hugetlb cgroups, and by memory cgroups
//! only where the hierarchy was mounted with `memory_hugetlb_accounting`.

mod cgroup;
mod reader;

use core::fmt;

use crate::place::Text;
use cgroup::CountedBy;
pub(crate) use reader::for_each_line;
use reader::{field, read_file};
pub(crate) use reader::{number, read_file as read_small_file};

/// One mebibyte.
pub const MIB: u64 = 1 << 20;

/// What stays free at the least.
pub const MARGIN_MIN: u64 = 64 * MIB;

/// Which limit is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The memory cgroup at this place below the controller's mount (the end of its path).
    Cgroup(Text<48>),
    /// The hugetlb cgroup at this place.
    HugePageCgroup(Text<48>),
    /// The machine's memory: `MemAvailable` of /proc/meminfo.
    Machine,
    /// The free space of the file system that takes the pages.
    FileSystem,
}

/// What the limits allow at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Available {
    /// The limit that is reached first.
    pub limit: Limit,
    /// Bytes that it has left, the margin not yet taken off.
    pub bytes: u64,
    /// Bytes that must stay free.
    pub margin: u64,
}

/// There is not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// What there is.
    pub available: Available,
    /// Bytes that were asked for.
    pub needed: u64,
}

impl Available {
    /// What may be reserved.
    pub const fn usable(&self) -> u64 {
        self.bytes.saturating_sub(self.margin)
    }

    /// Fails if `needed` bytes more are too many.
    pub const fn check(&self, needed: u64) -> Result<(), Shortage> {
        if needed <= self.usable() { Ok(()) } else { Err(Shortage { available: *self, needed }) }
    }

    /// The stricter of the two, margins taken off.
    fn least(self, limit: Limit, bytes: u64, total: u64) -> Available {
        let other = Available { limit, bytes, margin: margin_of(total) };
        if other.usable() < self.usable() { other } else { self }
    }
}

/// Looks at the machine and at all memory cgroups of this process.
///
/// A figure that cannot be read does not limit: there is no memory cgroup where none is mounted.
pub fn available() -> Available {
    let mut buffer = [0u8; 4096];
    let memory = read_file(c"/proc/meminfo", &mut buffer).unwrap_or(b"");
    let kib = |name: &[u8]| field(memory, name).map(|kib| kib.saturating_mul(1024));
    let bytes = kib(b"MemAvailable:").unwrap_or(u64::MAX);
    let total = kib(b"MemTotal:").unwrap_or(0);
    let machine = Available { limit: Limit::Machine, bytes, margin: margin_of(total) };
    let mut least = machine;
    cgroup::for_each_limit(&mut |path, left, limit| least = least.least(Limit::Cgroup(shown(path)), left, limit));
    least
}

/// What the control groups of this process leave of the huge pages that were set aside; `None` where none limits.
pub fn available_in_huge_pages() -> Option<Available> {
    let mut least: Option<Available> = None;
    cgroup::for_each_huge_page_limit(&mut |counted_by, path, left, limit| {
        let found = match counted_by {
            CountedBy::Hugetlb => Available { limit: Limit::HugePageCgroup(shown(path)), bytes: left, margin: 0 },
            CountedBy::Memory => Available { limit: Limit::Cgroup(shown(path)), bytes: left, margin: margin_of(limit) },
        };
        if least.is_none_or(|least| found.usable() < least.usable()) {
            least = Some(found);
        }
    });
    least
}

/// As [`available`], and the free space `free` of `total` bytes of a file system.
pub fn available_on(free: u64, total: u64) -> Available {
    let least = available();
    // A file system has no program of its own to leave a margin for.
    let full = Available { limit: Limit::FileSystem, bytes: free.min(total), margin: 0 };
    if full.usable() < least.usable() { full } else { least }
}

/// All memory of the machine in bytes, if the kernel says it.
pub fn machine_total() -> Option<u64> {
    let mut buffer = [0u8; 4096];
    field(read_file(c"/proc/meminfo", &mut buffer)?, b"MemTotal:").map(|kib| kib.saturating_mul(1024))
}

/// Whether the machine has swap, so that a region without `noswap` may leave memory.
pub fn has_swap() -> bool {
    let mut buffer = [0u8; 4096];
    read_file(c"/proc/meminfo", &mut buffer).and_then(|text| field(text, b"SwapTotal:")).is_some_and(|kib| kib > 0)
}

/// A twentieth, but neither so little that nothing helps nor gigabytes on a large machine.
fn margin_of(total: u64) -> u64 {
    (total / 20).clamp(MARGIN_MIN, 1024 * MIB)
}

fn shown(path: &[u8]) -> Text<48> {
    if path.len() < 48 {
        return Text::from_bytes(path);
    }
    let mut text = Text::from_bytes(b"...");
    text.push(&path[path.len() - 44..]);
    text
}

/// Bytes in the largest binary unit that shows them with at most two decimals' loss.
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        let Some((unit, size)) = UNITS.into_iter().find(|&(_, size)| self.0 >= size) else {
            return write!(out, "{} bytes", self.0);
        };
        if self.0.is_multiple_of(size) {
            write!(out, "{} {unit}", self.0 / size)
        } else {
            let hundredths = (self.0 as u128 * 100 / size as u128) as u64;
            write!(out, "{}.{:02} {unit}", hundredths / 100, hundredths % 100)
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Cgroup(path) => write!(out, "the memory cgroup {path}"),
            Limit::HugePageCgroup(path) => write!(out, "the cgroup {path} (hugetlb.2MB)"),
            Limit::Machine => out.write_str("the machine"),
            Limit::FileSystem => out.write_str("the file system that would hold it"),
        }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let available = &self.available;
        write!(out, "{} are needed, but {} has {} left", Bytes(self.needed), available.limit, Bytes(available.bytes))?;
        if available.margin > 0 {
            write!(out, " and {} of that must stay free", Bytes(available.margin))?;
        }
        match available.usable() / MIB {
            0 => out.write_str("; free some memory or raise the limit"),
            most => write!(out, "; ask for at most {most}MiB, or raise the limit"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_into_the_margin_is_refused() {
        let available = Available { limit: Limit::Machine, bytes: 512 * MIB, margin: 64 * MIB };
        assert_eq!(available.check(448 * MIB), Ok(()));
        let shortage = available.check(448 * MIB + 1).unwrap_err();
        assert!(std::format!("{shortage}").contains("at most 448MiB"), "{shortage}");
    }

    #[test]
    fn nothing_left_does_not_wrap_round() {
        let available = Available { limit: Limit::Machine, bytes: 3, margin: 64 * MIB };
        assert_eq!(available.usable(), 0);
        assert!(available.check(1).is_err());
    }

    #[test]
    fn the_file_system_limits_when_it_is_the_smallest() {
        assert_eq!(available_on(5, 10).limit, Limit::FileSystem);
        assert_ne!(available_on(u64::MAX, u64::MAX).limit, Limit::FileSystem);
    }

    #[test]
    fn this_machine_has_some_memory() {
        assert!(machine_total().is_some_and(|total| total > 64 * MIB));
        assert!(available().bytes > 0);
    }

    #[test]
    fn sizes_read_like_sizes() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1 << 20, "1 MiB"),
            (3 << 29, "1.50 GiB"),
            (u64::MAX, "16777215.99 TiB"),
        ] {
            assert_eq!(std::format!("{}", Bytes(bytes)), text);
        }
    }
}
