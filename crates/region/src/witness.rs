//! What a look-up loaded: as long as each of these words has the value that it had, the same look-up has the same answer.

use crate::Result;
use crate::region::Region;
use core::cell::Cell;
use core::sync::atomic::Ordering;

/// Words of a region as a look-up loads them.
pub trait Words {
    /// The region.
    fn region(&self) -> &Region;

    /// The value of the word at this offset, with everything published before it.
    fn load(&self, at: u64) -> Result<u64>;

    /// As `load`, faster where it need not look again whether there is such a word.
    ///
    /// # Safety
    /// `load` must have answered for this offset of these words before.
    #[inline(always)]
    unsafe fn load_again(&self, at: u64) -> Result<u64> {
        self.load(at)
    }
}

impl Words for Region {
    #[inline(always)]
    fn region(&self) -> &Region {
        self
    }

    #[inline(always)]
    fn load(&self, at: u64) -> Result<u64> {
        Ok(self.word(at)?.load(Ordering::Acquire))
    }

    #[inline(always)]
    unsafe fn load_again(&self, at: u64) -> Result<u64> {
        // SAFETY: the caller's promise, handed on.
        unsafe { self.load_known(at) }
    }
}

/// So many words are compared without a question in between.
pub(crate) const GROUP: usize = 4;

/// A look-up's words, noted while it loads them.
pub struct Witness<'w, W, const N: usize> {
    words: &'w W,
    noted: [Cell<[u64; 2]>; N],
    /// More than `N` when it cannot be remembered.
    count: Cell<usize>,
}

impl<'w, W, const N: usize> Witness<'w, W, N> {
    /// Before the first word.
    pub fn new(words: &'w W) -> Witness<'w, W, N> {
        Witness { words, noted: [const { Cell::new([0; 2]) }; N], count: Cell::new(0) }
    }

    fn note(&self, at: u64, value: u64) {
        let noted = self.noted.iter().take(self.count.get()).map(Cell::get);
        match { noted }.find(|[known, _]| *known == at) {
            Some([_, before]) if before == value => {}
            // It changed in the middle: no moment is known at which all words had their values.
            Some(_) => self.count.set(N + 1),
            None => {
                if let Some(place) = self.noted.get(self.count.get()) {
                    place.set([at, value]);
                }
                self.count.set((self.count.get() + 1).min(N + 1));
            }
        }
    }

    /// The words, each as {offset, value}, in the order in which they were loaded first, whole groups of [`GROUP`]: what is left of the last one
    /// says its last word again. `None` when there were too many, or one changed.
    pub(crate) fn noted(&self) -> Option<impl Iterator<Item = [u64; 2]>> {
        const { assert!(N.is_multiple_of(GROUP)) };
        let count = self.count.get();
        let word = move |index: usize| self.noted[index.min(count - 1)].get();
        (count <= N).then(|| (0..count.next_multiple_of(GROUP)).map(word))
    }
}

impl<W: Words, const N: usize> Words for Witness<'_, W, N> {
    fn region(&self) -> &Region {
        self.words.region()
    }

    fn load(&self, at: u64) -> Result<u64> {
        let value = self.words.load(at)?;
        self.note(at, value);
        Ok(value)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    /// Words that have no region: that at offset 8 i is 100 + i at first.
    pub(crate) struct Kept(RefCell<BTreeMap<u64, u64>>);

    impl Kept {
        pub(crate) fn of(count: u64) -> Kept {
            Kept(RefCell::new((0..count).map(|index| (index * 8, index + 100)).collect()))
        }

        pub(crate) fn offsets(&self) -> Vec<u64> {
            self.0.borrow().keys().copied().collect()
        }

        /// Changes a word; answers what it was.
        pub(crate) fn put(&self, at: u64, value: u64) -> u64 {
            self.0.borrow_mut().insert(at, value).expect("a word")
        }
    }

    impl Words for Kept {
        fn region(&self) -> &Region {
            panic!("no look-up of these tests asks for it")
        }

        fn load(&self, at: u64) -> Result<u64> {
            Ok(self.0.borrow().get(&at).copied().unwrap_or(0))
        }
    }
}
