//! A region over the memory of a model: what `region.rs` and `mapping.rs` of the product answer, without a kernel.

use crate::layout::Geometry;
use crate::{DAMAGED, Errno, MustFence, Result, UserSource, UserTarget};
use core::sync::atomic::{AtomicU32, AtomicU64 as PrivateWord, AtomicUsize};

/// As the product's.
pub struct Superblock {
    /// As the product's.
    pub run: u16,
    /// As the product's.
    pub identity: u64,
}

/// As the product's.
pub struct Private {
    /// As the product's.
    pub image: PrivateWord,
    /// As the product's.
    pub taking: AtomicU32,
    /// As the product's.
    pub lock_file: AtomicU32,
    /// As the product's.
    pub witness: AtomicUsize,
    /// As the product's.
    pub kept: [PrivateWord; 4],
    /// As the product's.
    pub places: [crate::place_cache::Places; 4],
}

/// What every access of a dead process answers; no code of the product knows it.
pub const DEAD: Errno = Errno::NOTRECOVERABLE;

/// A region as one process of the model has it attached.
pub struct Region {
    /// Who that is.
    pub process: crate::memory::Process,
    geometry: Geometry,
    superblock: Superblock,
    /// As the product's.
    pub private: Private,
    /// As the product's.
    pub lane_cursor: AtomicU32,
    /// As the product's.
    pub cursors: [PrivateWord; 5],
    /// As the product's.
    pub chunk_cursor: AtomicU32,
    /// As the product's.
    pub(crate) freed: [crate::search::FreedLately; 5],
}

impl Region {
    /// The region of `chunks` chunks as `process` sees it.
    pub fn of(process: crate::memory::Process, chunks: u64) -> Region {
        Region {
            lane_cursor: AtomicU32::new(process.number as u32),
            process,
            geometry: Geometry::of(chunks),
            superblock: Superblock { run: 1, identity: 5 },
            private: Private { image: PrivateWord::new(0), taking: AtomicU32::new(0), lock_file: AtomicU32::new(0), witness: AtomicUsize::new(0), kept: [const { PrivateWord::new(0) }; 4], places: Default::default() },
            cursors: [const { PrivateWord::new(u64::MAX) }; 5],
            chunk_cursor: AtomicU32::new(u32::MAX),
            freed: [const { crate::search::FreedLately::new() }; 5],
        }
    }

    /// As the product's; an error from the process's death on.
    pub fn word(&self, offset: u64) -> Result<&crate::atomics::AtomicU64> {
        assert!(offset.is_multiple_of(8) && offset < 1 << 20, "offset {offset:#x}: the code is astray");
        self.process.word(offset).ok_or(DEAD)
    }

    /// As the product's.
    pub fn load(&self, offset: u64) -> Result<u64> {
        Ok(self.word(offset)?.load(core::sync::atomic::Ordering::Acquire))
    }

    /// As the product's, word by word.
    pub fn zero(&self, offset: u64, length: usize) -> Result<MustFence> {
        for at in (offset..offset + length as u64).step_by(8) {
            self.word(at)?.store(0, core::sync::atomic::Ordering::Relaxed);
        }
        Ok(MustFence::nothing())
    }

    /// Bytes of the region, a word at a time, relaxed: as a copy is.
    fn bytes_out(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        for (index, byte) in into.iter_mut().enumerate() {
            let at = offset + index as u64;
            *byte = self.word(at & !7)?.load(core::sync::atomic::Ordering::Relaxed).to_le_bytes()[(at & 7) as usize];
        }
        Ok(())
    }

    /// The other way round: whole words, or a part of one that nobody else writes at the time.
    fn bytes_in(&self, offset: u64, from: &[u8]) -> Result<MustFence> {
        let (mut at, end) = (offset, offset + from.len() as u64);
        while at < end {
            let here = (8 - at % 8).min(end - at);
            let word = self.word(at & !7)?;
            let mut bytes = if here == 8 { [0; 8] } else { word.load(core::sync::atomic::Ordering::Relaxed).to_le_bytes() };
            let done = (at - offset) as usize;
            bytes[(at % 8) as usize..][..here as usize].copy_from_slice(&from[done..][..here as usize]);
            word.store(u64::from_le_bytes(bytes), core::sync::atomic::Ordering::Relaxed);
            at += here;
        }
        Ok(MustFence::nothing())
    }

    /// As the product's.
    pub fn copy_in(&self, offset: u64, from: &UserSource<'_>, skip: usize, length: usize) -> Result<MustFence> {
        let mut bytes = vec![0; length];
        from.read(skip, &mut bytes)?;
        self.bytes_in(offset, &bytes)
    }

    /// As the product's.
    pub fn copy_in_checksum(
        &self,
        offset: u64,
        from: &UserSource<'_>,
        skip: usize,
        length: usize,
        checksum: u32,
    ) -> Result<(MustFence, u32)> {
        let mut bytes = vec![0; length];
        from.read(skip, &mut bytes)?;
        let sum = lifeboat_kernels::checksum_slice(checksum, &bytes);
        self.bytes_in(offset, &bytes).map(|fence| (fence, sum))
    }

    /// As the product's.
    pub fn copy_out(&self, offset: u64, into: &UserTarget<'_>, skip: usize, length: usize) -> Result<()> {
        let mut bytes = vec![0; length];
        self.bytes_out(offset, &mut bytes)?;
        into.write(skip, &bytes)
    }

    /// As the product's.
    pub fn copy_out_streamed(&self, offset: u64, into: &UserTarget<'_>, skip: usize, length: usize) -> Result<()> {
        self.copy_out(offset, into, skip, length)
    }

    /// As the product's.
    pub fn zero_out(&self, into: &UserTarget<'_>, skip: usize, length: usize) -> Result<()> {
        into.write(skip, &vec![0; length])
    }

    /// As the product's.
    pub fn copy_within(&self, from: u64, to: u64, length: usize) -> Result<MustFence> {
        if from.abs_diff(to) < length as u64 {
            return Err(DAMAGED);
        }
        let mut bytes = vec![0; length];
        self.bytes_out(from, &mut bytes)?;
        self.bytes_in(to, &bytes)
    }

    /// As the product's.
    pub fn checksum(&self, offset: u64, length: usize, checksum: u32) -> Result<u32> {
        let mut bytes = vec![0; length];
        self.bytes_out(offset, &mut bytes)?;
        Ok(lifeboat_kernels::checksum_slice(checksum, &bytes))
    }

    /// As the product's.
    pub fn read_bytes(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.bytes_out(offset, into)
    }

    /// As the product's.
    pub fn write_bytes(&self, offset: u64, from: &[u8]) -> Result<MustFence> {
        self.bytes_in(offset, from)
    }

    /// As in a region that no program under interception has used.
    pub fn tags(&self) -> Option<rustix::fd::BorrowedFd<'_>> {
        None
    }

    /// As in a region that no program under interception has used.
    pub fn is_tag_held(&self, _number: u32, _generation: u16) -> Result<Option<bool>> {
        Ok(None)
    }

    /// As the product's.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// As the product's.
    pub fn load_all<const N: usize>(&self, start: u64, behind: [u64; N]) -> Result<[u64; N]> {
        let mut values = [0; N];
        for (value, behind) in values.iter_mut().zip(behind) {
            *value = self.load(start + behind)?;
        }
        Ok(values)
    }

    /// As the product's, but that it looks.
    ///
    /// # Safety
    /// None is needed here.
    pub unsafe fn load_known(&self, offset: u64) -> Result<u64> {
        self.load(offset)
    }

    /// As the product's, word by word.
    pub fn words_at<const N: usize>(
        &self,
        start: u64,
        behind: [u64; N],
    ) -> Result<[&crate::atomics::AtomicU64; N]> {
        let words: Result<Vec<_>> = behind.into_iter().map(|behind| self.word(start + behind)).collect();
        Ok(words?.try_into().expect("as many"))
    }

    /// As the product's, word by word.
    pub fn store_all<const N: usize>(&self, start: u64, values: [(u64, u64); N]) -> Result<()> {
        for (behind, value) in values {
            self.word(start + behind)?.store(value, core::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    }

    /// As the product's, on a machine with one memory node.
    pub(crate) fn near_chunks(&self) -> std::ops::Range<u32> {
        0..self.geometry.chunks as u32
    }

    /// None: what a process keeps for itself is modelled alone.
    pub fn private_cache(&self) -> &[crate::private_cache::CacheLine] {
        &[]
    }

    /// None: what a process keeps for itself is modelled alone.
    pub fn known_walk(&self, _: &crate::walk_cache::Walk<'_>) -> Option<crate::walk_cache::WalkEnd> {
        None
    }

    /// Never.
    pub fn is_walk_missed_again(&self, _: &crate::walk_cache::Walk<'_>) -> bool {
        false
    }

    /// Nothing.
    pub fn remember_walk(&self, _: &crate::walk_cache::Walk<'_>, _: u64, _: u64, _: &crate::walk_cache::WalkWitness<'_, Region>) {}

    /// There are none.
    pub fn forget_walks(&self) {}

    /// As the product's.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }
}
