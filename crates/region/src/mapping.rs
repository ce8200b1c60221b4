//! Checked access to the region's bytes. Nothing else in Lifeboat turns an offset into an address.

use crate::{DAMAGED, Errno, Result, UserSource, UserTarget};
use core::sync::atomic::{AtomicU64, Ordering};
use lifeboat_kernels::{self as kernels, Fault, MustFence};

/// The region as this process has it mapped. Invariant: `[base, base + length)` stays mapped, readable and writable
/// (but for runs that `guard` closed, whose stores a handler of faults sees to), for as long as the value lives, and the
/// carrier never shrinks.
pub struct Mapping {
    base: *mut u8,
    length: u64,
    /// Whole words of that, which nearly every access asks for: no fewer than those of [`ROW`].
    words: u64,
}

/// Words that are asked for together lie closer than this.
const ROW: u64 = 256;

// SAFETY: the mapping is shared memory anyway; every access goes through atomics or copy routines that tolerate
// concurrent change.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// # Panics
    /// If there are fewer than 256 bytes.
    ///
    /// # Safety
    /// `[base, base + length)` must be a shared mapping, aligned to 4 KiB, that is never unmapped while the value or a
    /// reference from it is in use, and to whose bytes no Rust reference exists.
    pub const unsafe fn new(base: *mut u8, length: u64) -> Mapping {
        assert!(length >= ROW);
        Mapping { base, length, words: length / 8 }
    }

    /// Bytes.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Address of the first byte, for telling apart whose fault a fault was.
    pub fn base(&self) -> usize {
        self.base as usize
    }

    /// The offset of this address of this process, if it is one of the region's.
    pub fn offset_of(&self, address: usize) -> Option<u64> {
        (address as u64).checked_sub(self.base as u64).filter(|&offset| offset < self.length)
    }

    /// The word at `offset`; [`DAMAGED`] when it lies outside or is not aligned (offsets come from the region itself).
    #[inline]
    pub fn word(&self, offset: u64) -> Result<&AtomicU64> {
        if offset.rotate_right(3) >= self.words {
            return Err(DAMAGED);
        }
        // SAFETY: in bounds and aligned by the check above; the bytes stay mapped (invariant of the type) and are only
        // ever accessed atomically or by copy routines, never through references.
        Ok(unsafe { AtomicU64::from_ptr(self.base.add(offset as usize).cast()) })
    }

    /// The value of the word at `offset`, with everything published before it.
    #[inline]
    pub fn load(&self, offset: u64) -> Result<u64> {
        Ok(self.word(offset)?.load(Ordering::Acquire))
    }

    /// As [`Mapping::load`], without looking whether the word is there.
    ///
    /// # Safety
    /// `load` must have answered for this offset of this mapping before.
    #[inline(always)]
    pub(crate) unsafe fn load_known(&self, offset: u64) -> Result<u64> {
        // SAFETY: inside the mapping and aligned, as it was then: the mapping never changes.
        Ok(unsafe { self.word_behind(offset, 0) }.load(Ordering::Acquire))
    }

    /// The values of the words that lie so many bytes behind `start`, each with everything published before it, in this order. One check for
    /// all of them; [`DAMAGED`] as in [`Mapping::word`].
    #[inline(always)]
    pub fn load_all<const N: usize>(&self, start: u64, behind: [u64; N]) -> Result<[u64; N]> {
        if !self.has_row(start, &behind) {
            return Err(DAMAGED);
        }
        // SAFETY: `has_row` said that they are there.
        Ok(behind.map(|behind| unsafe { self.word_behind(start, behind) }.load(Ordering::Acquire)))
    }

    /// Whether there are words so many bytes behind `start`, less than [`ROW`] each.
    #[inline(always)]
    fn has_row<const N: usize>(&self, start: u64, behind: &[u64; N]) -> bool {
        let last = behind.iter().fold(0, |last, &behind| last.max(behind));
        let is_row = last < ROW && behind.iter().fold(0, |bits, &behind| bits | behind).is_multiple_of(8);
        // No less than one word: there are as many as a row has. A start that is not aligned becomes a large number.
        is_row && start.rotate_right(3) < self.words - last / 8
    }

    /// # Safety
    /// [`Mapping::has_row`] must have said of this start and this distance that the word is there, or [`Mapping::word`] of where they lead.
    #[inline(always)]
    unsafe fn word_behind(&self, start: u64, behind: u64) -> &AtomicU64 {
        // SAFETY: inside the mapping and aligned, by the caller's promise; as in `word` for the rest.
        unsafe { AtomicU64::from_ptr(self.base.add((start + behind) as usize).cast()) }
    }

    /// The words that lie so many bytes behind `start`. One check for all of them; [`DAMAGED`] as in [`Mapping::word`].
    #[inline(always)]
    pub fn words_at<const N: usize>(&self, start: u64, behind: [u64; N]) -> Result<[&AtomicU64; N]> {
        if !self.has_row(start, &behind) {
            return Err(DAMAGED);
        }
        // SAFETY: `has_row` said that they are there.
        Ok(behind.map(|behind| unsafe { self.word_behind(start, behind) }))
    }

    /// Stores each value in the word that lies so many bytes behind `start`. One check for all of them; nobody may read them as published
    /// before a word is that leads there (`commit`, whose store comes after these for everybody). [`DAMAGED`] as in [`Mapping::word`].
    #[inline(always)]
    pub fn store_all<const N: usize>(&self, start: u64, values: [(u64, u64); N]) -> Result<()> {
        if !self.has_row(start, &values.map(|(behind, _)| behind)) {
            return Err(DAMAGED);
        }
        for (behind, value) in values {
            // SAFETY: `has_row` said that they are there.
            unsafe { self.word_behind(start, behind) }.store(value, Ordering::Relaxed);
        }
        Ok(())
    }

    fn range(&self, offset: u64, length: usize) -> Result<*mut u8> {
        if offset > self.length || self.length - offset < length as u64 {
            return Err(DAMAGED);
        }
        // SAFETY: the result is inside the mapping, or one past its end, by the check above.
        Ok(unsafe { self.base.add(offset as usize) })
    }

    fn blame(&self, fault: Fault) -> Errno {
        let inside = fault.address.wrapping_sub(self.base as usize) < self.length as usize;
        if inside { Errno::IO } else { Errno::FAULT }
    }

    /// Copies `length` bytes of `from`, after its first `skip`, to `offset`.
    #[inline(always)]
    pub fn copy_in(&self, offset: u64, from: &UserSource<'_>, skip: usize, length: usize) -> Result<MustFence> {
        let to = self.range(offset, length)?;
        let from = from.at(skip, length).ok_or(Errno::INVAL)?;
        // SAFETY: `to` is inside the mapping for `length` bytes; `from` is the caller's memory, which may fault and is
        // then reported; region memory and user memory do not overlap unless the program passes a pointer into its own
        // mapping of a file, where the order of bytes is the program's own race.
        unsafe { kernels::copy_in(to, from, length) }.map_err(|fault| self.blame(fault))
    }

    /// As [`Mapping::copy_in`], and continues the CRC-32C `checksum` over the bytes.
    #[inline(always)]
    pub fn copy_in_checksum(
        &self,
        offset: u64,
        from: &UserSource<'_>,
        skip: usize,
        length: usize,
        checksum: u32,
    ) -> Result<(MustFence, u32)> {
        let to = self.range(offset, length)?;
        let from = from.at(skip, length).ok_or(Errno::INVAL)?;
        // SAFETY: as in `copy_in`.
        unsafe { kernels::copy_in_checksum(to, from, length, checksum) }.map_err(|fault| self.blame(fault))
    }

    /// Copies `length` bytes at `offset` into `into`, after its first `skip`.
    pub fn copy_out(&self, offset: u64, into: &UserTarget<'_>, skip: usize, length: usize) -> Result<()> {
        let from = self.range(offset, length)?;
        let to = into.at(skip, length).ok_or(Errno::INVAL)?;
        // SAFETY: as in `copy_in`, the other way round.
        unsafe { kernels::copy_out(to, from, length) }.map_err(|fault| self.blame(fault))
    }

    /// As [`Mapping::copy_out`], past the caches: for much that is not looked at at once.
    pub fn copy_out_streamed(&self, offset: u64, into: &UserTarget<'_>, skip: usize, length: usize) -> Result<()> {
        let from = self.range(offset, length)?;
        let to = into.at(skip, length).ok_or(Errno::INVAL)?;
        // SAFETY: as in `copy_in`, the other way round.
        unsafe { kernels::copy_out_streamed(to, from, length) }.map_err(|fault| self.blame(fault))
    }

    /// Fills `length` bytes of `into` with zeros, after its first `skip` (what a hole reads as).
    pub fn zero_out(&self, into: &UserTarget<'_>, skip: usize, length: usize) -> Result<()> {
        let to = into.at(skip, length).ok_or(Errno::INVAL)?;
        // SAFETY: the caller's memory; a fault is reported.
        unsafe { kernels::zero(to, length) }.map(MustFence::fence).map_err(|fault| self.blame(fault))
    }

    /// Fills `length` bytes at `offset` with zeros.
    pub fn zero(&self, offset: u64, length: usize) -> Result<MustFence> {
        let to = self.range(offset, length)?;
        // SAFETY: inside the mapping by the check above.
        unsafe { kernels::zero(to, length) }.map_err(|fault| self.blame(fault))
    }

    /// Copies within the region; the ranges must not overlap.
    pub fn copy_within(&self, from: u64, to: u64, length: usize) -> Result<MustFence> {
        if from.abs_diff(to) < length as u64 {
            return Err(DAMAGED);
        }
        let source = self.range(from, length)?;
        let target = self.range(to, length)?;
        // SAFETY: both inside the mapping, not overlapping, by the checks above.
        unsafe { kernels::copy_in(target, source, length) }.map_err(|fault| self.blame(fault))
    }

    /// CRC-32C of `length` bytes at `offset`, continuing from `checksum`.
    pub fn checksum(&self, offset: u64, length: usize, checksum: u32) -> Result<u32> {
        let from = self.range(offset, length)?;
        // SAFETY: inside the mapping by the check above.
        unsafe { kernels::checksum(checksum, from, length) }.map_err(|fault| self.blame(fault))
    }

    /// Copies bytes at `offset` into private memory.
    pub fn read_bytes(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let length = into.len();
        self.copy_out(offset, &UserTarget::from_slice(into), 0, length)
    }

    /// Copies private bytes to `offset`.
    pub fn write_bytes(&self, offset: u64, from: &[u8]) -> Result<MustFence> {
        self.copy_in(offset, &UserSource::from_slice(from), 0, from.len())
    }
}

/// Private zeroed memory for a walk over the whole region, given back on drop. Only touched pages cost anything.
pub struct Scratch {
    base: *mut u64,
    words: usize,
}

impl Scratch {
    /// `words` words of zeros.
    pub fn new(words: u64) -> Result<Scratch> {
        let words = usize::try_from(words).map_err(|_| Errno::NOMEM)?;
        // SAFETY: a new private mapping at an address that the kernel chooses overlaps nothing.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                core::ptr::null_mut(),
                words.max(1) * 8,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::PRIVATE,
            )
        }?;
        Ok(Scratch { base: base.cast(), words: words.max(1) })
    }

    fn read(&self) -> &[u64] {
        // SAFETY: our own private mapping of this many words, changed only through `&mut self`.
        unsafe { core::slice::from_raw_parts(self.base, self.words) }
    }

    fn words(&mut self) -> &mut [u64] {
        // SAFETY: our own private mapping of this many words, borrowed uniquely through `self`.
        unsafe { core::slice::from_raw_parts_mut(self.base, self.words) }
    }

    /// Sets bit `index`; tells whether it was set before. Bits outside do not exist and count as set.
    pub fn set_bit(&mut self, index: u64) -> bool {
        let Some(word) = self.words().get_mut((index / 64) as usize) else { return true };
        let before = *word;
        *word |= 1 << (index % 64);
        before & 1 << (index % 64) != 0
    }

    /// Whether bit `index` is set.
    pub fn has_bit(&self, index: u64) -> bool {
        self.read().get((index / 64) as usize).is_some_and(|word| word & 1 << (index % 64) != 0)
    }

    /// Adds one to the 32-bit counter `index`; counters outside do not exist.
    pub fn add(&mut self, index: u64) {
        if let Some(word) = self.words().get_mut((index / 2) as usize) {
            *word = word.wrapping_add(1 << (32 * (index % 2)));
        }
    }

    /// The 32-bit counter `index`.
    pub fn count(&self, index: u64) -> u32 {
        self.read().get((index / 2) as usize).map_or(0, |word| (word >> (32 * (index % 2))) as u32)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and nothing borrows it any more.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.words * 8) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_outside_is_loaded_and_none_that_lies_across() {
        let mut bytes: [u64; 33] = core::array::from_fn(|index| index as u64);
        // SAFETY: these 264 bytes outlive the mapping, and are reached through nothing else meanwhile.
        let mapping = unsafe { Mapping::new(bytes.as_mut_ptr().cast(), 264) };
        assert_eq!(mapping.load_all(0, [248, 0, 8]), Ok([31, 0, 1]));
        assert_eq!(mapping.load_all(8, [248]), Ok([32]));
        assert_eq!(mapping.load_all(256, [0]), Ok([32]));
        for (start, behind) in [
            (16, 248),
            (264, 0),
            (256, 8),
            (u64::MAX - 7, 8),
            (0, 256),
            (0, 264),
            (4, 0),
            (4, 4),
            (0, 4),
            (u64::MAX - 7, 0),
            (u64::MAX - 247, 248),
        ] {
            assert_eq!(mapping.load_all(start, [0, behind]), Err(DAMAGED), "{start} and {behind}");
            assert!(mapping.words_at(start, [0, behind]).is_err(), "{start} and {behind}");
            assert_eq!(mapping.store_all(start, [(0, 1), (behind, 1)]), Err(DAMAGED), "{start} and {behind}");
        }
        for offset in [264, 4, 1, 260, u64::MAX, u64::MAX - 7] {
            assert_eq!(mapping.load(offset), Err(DAMAGED), "{offset}");
        }
    }
}
