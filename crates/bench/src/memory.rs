//! Memory to copy from and to: cold, larger than the caches, in pages of 2 MiB where the kernel gives them.

use std::io::{Error, Result};
use std::ptr::null_mut;
use std::slice;

const HUGE: usize = 2 << 20;

/// Private memory of this process.
#[derive(Debug)]
pub struct Memory {
    start: *mut u8,
    length: usize,
    reserved: (*mut u8, usize),
}

impl Memory {
    /// `length` bytes, a multiple of 2 MiB, all of them written, no two pages alike.
    pub fn new(length: usize) -> Result<Memory> {
        let reserved = length + HUGE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of its own, wherever the kernel likes.
        let at =
            unsafe { libc::mmap(null_mut(), reserved, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        let at = at.cast::<u8>();
        // SAFETY: at most `HUGE - 1` bytes further, in the mapping.
        let start = unsafe { at.add(at.align_offset(HUGE)) };
        // SAFETY: the range lies in the mapping. What the kernel answers is only advice not taken.
        unsafe { libc::madvise(start.cast(), length, libc::MADV_HUGEPAGE) };
        let mut memory = Memory { start, length, reserved: (at, reserved) };
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for word in memory.bytes_mut().chunks_exact_mut(8) {
            // Xorshift (Marsaglia 2003).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        Ok(memory)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping lives as long as `self`, is initialised, and nobody else knows of it.
        unsafe { slice::from_raw_parts(self.start, self.length) }
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed alone. New mappings are zeros, which are bytes.
        unsafe { slice::from_raw_parts_mut(self.start, self.length) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`, and no slice of it outlives `self`.
        unsafe { libc::munmap(self.reserved.0.cast(), self.reserved.1) };
    }
}
