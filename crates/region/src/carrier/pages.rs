//! Windows onto a region's file while it is made, and the page sizes that mappings of it get.

use core::ffi::c_void;
use core::ops::Range;
use core::ptr::{NonNull, null_mut};

use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::hugetlb::is_hugetlb;
use crate::budget::for_each_line;
use crate::system_call::{MADVISE, call};

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;
/// How often a huge page is tried for.
const COLLAPSE_TRIES: usize = 8;
/// Bytes looked at in one mapping.
const WINDOW: u64 = 64 << 20;

/// How much of a region is mapped by 2 MiB pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageReport {
    /// Bytes in 2 MiB pages.
    pub huge: u64,
    /// Bytes looked at.
    pub total: u64,
}

impl PageReport {
    /// The page size that all of the region has: 2 MiB, or 4 KiB if any part is small.
    pub const fn page_size(&self) -> u64 {
        if self.total > 0 && self.huge == self.total { HUGE as u64 } else { 4096 }
    }
}

/// Maps the file piece by piece and asks the kernel which pages it uses.
///
/// `None` where the kernel does not say (no /proc, no address space left). Changes nothing in the region.
pub fn examine_pages(file: BorrowedFd<'_>, size: u64) -> Option<PageReport> {
    if is_hugetlb(file) {
        return Some(PageReport { huge: size, total: size });
    }
    let mut report = PageReport::default();
    let mut offset = 0;
    while offset < size {
        let length = WINDOW.min(size - offset);
        let window = Window::new(file, offset, length as usize, ProtFlags::READ).ok()?;
        window.touch_each_huge_page();
        report.huge += window.huge_bytes()?;
        report.total += length;
        offset += length;
    }
    Some(report)
}

/// A mapping of a piece of a file at an address that huge pages can have; unmapped when dropped.
pub(super) struct Window {
    start: NonNull<u8>,
    length: usize,
    reserved: *mut c_void,
    reserved_length: usize,
}

// SAFETY: the mapping belongs to the value, wherever that is; only addresses of it are passed to the kernel, and stored to are only pages of
// a new file by whoever fills that part.
unsafe impl Sync for Window {}

impl Window {
    /// Maps `length` bytes at `offset` of `file`, both multiples of 2 MiB, which the file must have.
    pub(super) fn new(file: impl AsFd, offset: u64, length: usize, protection: ProtFlags) -> Result<Window, Errno> {
        let reserved_length = length + HUGE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let reserved =
            unsafe { rustix::mm::mmap_anonymous(null_mut(), reserved_length, ProtFlags::empty(), MapFlags::PRIVATE) }?;
        let shift = reserved.addr().wrapping_neg() % HUGE;
        let start = reserved.wrapping_byte_add(shift);
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: `start..start + length` lies inside the reservation made above, which nobody else knows of.
        let mapped = unsafe { rustix::mm::mmap(start, length, protection, flags, file, offset) };
        let window = |start| Window { start, length, reserved, reserved_length };
        match (mapped, NonNull::new(start.cast::<u8>())) {
            (Ok(_), Some(start)) => Ok(window(start)),
            (Ok(_), None) => Err(Errno::NOMEM),
            (Err(errno), _) => {
                // The reservation goes with a window that was never used.
                drop(window(NonNull::dangling()));
                Err(errno)
            }
        }
    }

    /// Replaces small pages of a part by huge ones where the kernel can; the rest stays as it is.
    pub(super) fn collapse(&self, part: Range<usize>) {
        assert!(part.end <= self.length && part.start.is_multiple_of(HUGE));
        for offset in part.step_by(HUGE) {
            // The kernel gives up at once on a page that another processor still has in its batch.
            for _ in 0..COLLAPSE_TRIES {
                // SAFETY: the range is part of this mapping; the advice changes no content.
                match unsafe { collapse(self.start.as_ptr().wrapping_add(offset), HUGE) } {
                    // Before 6.1 the kernel has no such advice, or it is not for this kind of file.
                    Err(Errno::INVAL | Errno::NOSYS) => return,
                    Err(Errno::AGAIN | Errno::BUSY | Errno::INTR) => {}
                    Ok(()) | Err(_) => break,
                }
            }
        }
    }

    /// Gives every page of a part its zeros now rather than at somebody's first touch. The mapping must be writable and the
    /// pages reserved.
    pub(super) fn fill(&self, part: Range<usize>) -> Result<(), Errno> {
        assert!(part.end <= self.length);
        let start = self.start.as_ptr().wrapping_add(part.start).cast::<c_void>();
        loop {
            // SAFETY: the range is part of this mapping, by the assertion; the advice changes no content.
            match unsafe { rustix::mm::madvise(start, part.len(), Advice::LinuxPopulateWrite) } {
                Ok(()) => return Ok(()),
                Err(Errno::INTR | Errno::AGAIN) => {}
                // Before 5.14: by hand.
                Err(Errno::INVAL) => return self.fill_by_hand(part),
                Err(errno) => return Err(errno),
            }
        }
    }

    fn fill_by_hand(&self, part: Range<usize>) -> Result<(), Errno> {
        for offset in part.step_by(4096) {
            // SAFETY: inside this mapping, which is writable and whose pages are reserved, so that the store cannot
            // fault for lack of memory; the file is new and still zero, and nobody else has it.
            unsafe { self.start.as_ptr().wrapping_add(offset).write_volatile(0) };
        }
        Ok(())
    }

    /// Reads one byte of every huge page, so that the kernel maps it.
    fn touch_each_huge_page(&self) {
        for offset in (0..self.length).step_by(HUGE) {
            let page = self.start.as_ptr().wrapping_add(offset).cast::<c_void>();
            // Asking the kernel rather than loading: a file cut short by somebody else then gives an error, not a
            // SIGBUS. Without the advice (before 5.14) the answer is "small pages".
            // SAFETY: the range is part of this mapping; the advice changes no content.
            let _ = unsafe { rustix::mm::madvise(page, 4096, Advice::LinuxPopulateRead) };
        }
    }

    /// Bytes of this mapping that the kernel maps by 2 MiB pages, by /proc/self/smaps.
    pub(super) fn huge_bytes(&self) -> Option<u64> {
        let start = self.start.addr().get();
        let mut inside = false;
        let mut found = None;
        for_each_line(c"/proc/self/smaps", &mut |line| {
            if let Some(address) = mapping_start(line) {
                inside = address == start;
            } else if inside && let Some(rest) = line.strip_prefix(b"ShmemPmdMapped:") {
                let digits = rest.trim_ascii().split(|&byte| byte == b' ').next().unwrap_or(b"");
                found = core::str::from_utf8(digits).ok().and_then(|text| text.parse::<u64>().ok());
                return false;
            }
            true
        });
        found.map(|kib| kib * 1024)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the reservation, with the mapping inside it, was made by `new` and is used by nobody else.
        let _ = unsafe { rustix::mm::munmap(self.reserved, self.reserved_length) };
    }
}

/// The start address if `line` begins an entry of smaps: `start-end permissions ...`.
fn mapping_start(line: &[u8]) -> Option<usize> {
    let dash = line.iter().position(|&byte| byte == b'-')?;
    usize::from_str_radix(core::str::from_utf8(&line[..dash]).ok()?, 16).ok()
}

/// `madvise(MADV_COLLAPSE)`, which rustix does not offer.
///
/// # Safety
/// `start..start + length` must be a mapping of the caller's.
unsafe fn collapse(start: *mut u8, length: usize) -> Result<(), Errno> {
    const MADV_COLLAPSE: usize = 25;
    // SAFETY: this advice reads and writes no memory of the program; the range is a mapping by the caller's promise.
    unsafe { call(MADVISE, [start as usize, length, MADV_COLLAPSE, 0, 0]) }.map(|_| ())
}
