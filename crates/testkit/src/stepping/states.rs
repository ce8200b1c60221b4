//! Copies of a region, as pages that differ from a common base.

use lifeboat_region::layout::{CHUNK, Geometry};
use lifeboat_region::space::Class;
use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

/// Bytes compared and kept together.
pub const PAGE: usize = 4096;

type Page = [u8; PAGE];

/// A region's file, mapped by the tracer: it reads what the tracee wrote and writes what the next one finds.
pub struct Image {
    bytes: *mut u8,
    length: usize,
    file: File,
}

impl Image {
    /// Maps the file.
    pub fn open(file: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(file).expect("the region's file");
        let length = file.metadata().expect("its length").len() as usize;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of a file of this length, where the kernel finds room for it.
        let bytes =
            unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert!(bytes != libc::MAP_FAILED, "map a region's file: {}", std::io::Error::last_os_error());
        // A forked victim that had this file mapped would not count as dead.
        // SAFETY: advice on the mapping made just now, which takes effect in children only.
        unsafe { libc::madvise(bytes, length, libc::MADV_DONTFORK) };
        Self { bytes: bytes.cast(), length, file }
    }

    /// The bytes of a page, while nobody writes them.
    fn page(&self, number: u32) -> &Page {
        assert!((number as usize + 1) * PAGE <= self.length, "page {number} of a region");
        // SAFETY: inside the mapping; whoever else has it mapped is stopped or idle.
        unsafe { &*self.bytes.add(number as usize * PAGE).cast() }
    }

    fn set_page(&self, number: u32, page: &Page) {
        assert!((number as usize + 1) * PAGE <= self.length, "page {number} of a region");
        // SAFETY: inside the mapping; whoever else has it mapped is idle.
        unsafe { self.bytes.add(number as usize * PAGE).copy_from_nonoverlapping(page.as_ptr(), PAGE) };
    }

    /// Numbers of the pages that exist: all others are zero, and reading them here would make them exist.
    fn existing(&self) -> Vec<u32> {
        let mut found = Vec::new();
        let mut at = 0;
        // SAFETY: asks about our own file.
        let seek = |at: i64, whence| unsafe { libc::lseek(self.file.as_raw_fd(), at, whence) };
        loop {
            let start = seek(at, libc::SEEK_DATA);
            if start < 0 {
                return found;
            }
            at = seek(start, libc::SEEK_HOLE);
            found.extend((start as usize / PAGE) as u32..(at as usize).div_ceil(PAGE) as u32);
        }
    }

    /// All bytes as they are now.
    pub fn copy(&self) -> Base {
        let existing = self.existing().into_iter().map(|number| (number, *self.page(number)));
        let pages = existing.filter(|(_, page)| *page != ZEROS).collect();
        Base(Arc::new(pages), Geometry::of(self.length as u64).expect("the length of a region"))
    }

    /// Makes the file what `state` over `base` is.
    pub fn write(&self, base: &Base, state: &State) {
        let mut concerned = self.existing();
        concerned.extend(base.0.keys());
        concerned.extend(state.0.iter().map(|(number, _)| number));
        concerned.sort_unstable();
        concerned.dedup();
        let mut changed = state.0.iter().peekable();
        for number in concerned {
            let wanted: &Page = match changed.next_if(|(page, _)| *page == number) {
                Some((_, page)) => page,
                None => base.page(number),
            };
            if self.page(number) != wanted {
                self.set_page(number, wanted);
            }
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no reference is left.
        unsafe { libc::munmap(self.bytes.cast(), self.length) };
    }
}

/// A whole region: its pages that are not zero.
#[derive(Clone)]
pub struct Base(Arc<BTreeMap<u32, Page>>, Geometry);

const ZEROS: Page = [0; PAGE];

impl Base {
    fn page(&self, number: u32) -> &Page {
        self.0.get(&number).unwrap_or(&ZEROS)
    }

    fn word(&self, offset: u64) -> u64 {
        let (page, within) = ((offset as usize / PAGE) as u32, offset as usize % PAGE);
        u64::from_le_bytes(self.page(page)[within..within + 8].try_into().expect("eight bytes"))
    }

    /// Whether there lie bytes of files, and not what the file system knows of them.
    pub fn is_data(&self, offset: u64) -> bool {
        let Some(inside) = offset.checked_sub(self.1.data_at) else { return false };
        let class = self.word(self.1.chunk_words_at + inside / CHUNK * 8) >> 4 & 15;
        class == Class::Block as u64 || class == Class::Extent as u64
    }
}

/// A region that differs from a base in these pages, in order of their numbers.
#[derive(Clone, Default)]
pub struct State(Vec<(u32, Arc<Page>)>);

/// Follows one run of a tracee and keeps each state that it had not seen before.
pub struct Recorder<'i> {
    image: &'i Image,
    base: Base,
    now: BTreeMap<u32, Arc<Page>>,
    sum: u128,
}

/// Sums of states that were seen, in this run or before.
#[derive(Default)]
pub struct Seen(HashSet<u128>);

impl Seen {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'i> Recorder<'i> {
    /// Over a region that is `base` with `state`, and is in `image` now.
    pub fn new(image: &'i Image, base: &Base, state: &State) -> Self {
        let now: BTreeMap<_, _> = state.0.iter().cloned().collect();
        let sum = now.iter().map(|(number, page)| sum_of(*number, page) ^ sum_of(*number, base.page(*number)));
        Self { image, base: base.clone(), sum: sum.fold(0, |all, one| all ^ one), now }
    }

    /// The tracee wrote to these pages. True when the region is now as it was never seen before.
    pub fn note(&mut self, pages: &[u32], seen: &mut Seen) -> bool {
        for &number in pages {
            let (found, old) = (self.image.page(number), self.now.get(&number));
            let old: &Page = old.map_or(self.base.page(number), |page| page);
            if found != old {
                self.sum ^= sum_of(number, old) ^ sum_of(number, found);
                self.now.insert(number, Arc::new(*found));
            }
        }
        seen.0.insert(self.sum)
    }

    /// Looks at every page: what others than the tracee wrote, too.
    pub fn note_all(&mut self, seen: &mut Seen) -> bool {
        self.note(&self.image.existing(), seen)
    }

    /// The region as it is now.
    pub fn state(&self) -> State {
        State(self.now.iter().map(|(number, page)| (*number, page.clone())).collect())
    }
}

/// Two equal pages at the same place have the same sum, different ones practically never.
fn sum_of(number: u32, page: &Page) -> u128 {
    let mut sum = [u64::from(number) ^ 0x9e37_79b9_7f4a_7c15, u64::from(number) ^ 0xc2b2_ae3d_27d4_eb4f];
    for word in page.chunks_exact(8) {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        sum[0] = (sum[0] ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
        sum[1] = (sum[1].rotate_left(23) ^ word).wrapping_mul(0x9fb2_1c65_1e98_df25);
        sum[1] ^= sum[1] >> 31;
    }
    u128::from(sum[0]) << 64 | u128::from(sum[1])
}
