//! Where a process found data lately, with the words that said so, in memory of its own.
//!
//! A look-up is a function of the words of the region that it loads: as long as each of them has the value that it had, it
//! leads to the same place. So a line holds the offsets of these words and their values, and its answer is good exactly when
//! all of them have these values now. Nobody has to be told of a change, and what the words mean does not matter here.
//!
//! Each kept lane has lines of its own, and whoever has announced something in the lane ([`crate::kept_lane::InPlace`]) is alone
//! with them until he withdraws: so a line is written and read as if nobody else could. A forked child finds zeros, which
//! answer nothing.

use crate::Result;
use crate::region::Region;
use core::cell::Cell;
// Private words, not the region's: models run over these as they are.
use core::sync::atomic::AtomicU64 as PrivateWord;
use core::sync::atomic::Ordering;

/// A look-up that loads more words than this is not remembered.
pub const WORDS: usize = 12;

/// Lines of a kept lane: 4 MiB of a file's extents, if no two fall on one line.
const LINES: usize = 64;

/// Words of a region as a look-up loads them.
pub trait Words {
    /// The region.
    fn region(&self) -> &Region;

    /// The value of the word at this offset, with everything published before it.
    fn load(&self, at: u64) -> Result<u64>;
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
}

/// A look-up's words, noted while it loads them.
pub struct Witness<'w, W> {
    words: &'w W,
    noted: [Cell<(u64, u64)>; WORDS],
    /// More than [`WORDS`] when it cannot be remembered.
    count: Cell<usize>,
}

impl<'w, W> Witness<'w, W> {
    /// Before the first word.
    pub fn new(words: &'w W) -> Witness<'w, W> {
        Witness { words, noted: [const { Cell::new((0, 0)) }; WORDS], count: Cell::new(0) }
    }

    fn note(&self, at: u64, value: u64) {
        let noted = self.noted.iter().take(self.count.get()).map(Cell::get);
        match { noted }.find(|(known, _)| *known == at) {
            Some((_, before)) if before == value => {}
            // It changed in the middle: no moment is known at which all words had their values.
            Some(_) => self.count.set(WORDS + 1),
            None => {
                if let Some(place) = self.noted.get(self.count.get()) {
                    place.set((at, value));
                }
                self.count.set((self.count.get() + 1).min(WORDS + 1));
            }
        }
    }
}

impl<W: Words> Words for Witness<'_, W> {
    fn region(&self) -> &Region {
        self.words.region()
    }

    fn load(&self, at: u64) -> Result<u64> {
        let value = self.words.load(at)?;
        self.note(at, value);
        Ok(value)
    }
}

/// What was looked up: an inode, and which part of it. Never zeros.
pub type What = [u64; 2];

/// Where its bytes are, and where its checksum word is.
pub type Answer = [u64; 2];

/// A look-up, its answer, and the words that it loaded.
#[repr(align(64))]
struct PlaceLine {
    what: [PrivateWord; 2],
    answer: [PrivateWord; 2],
    count: PrivateWord,
    words: [[PrivateWord; 2]; WORDS],
}

/// The lines of one kept lane.
pub struct Places {
    lines: [PlaceLine; LINES],
}

impl Default for Places {
    fn default() -> Places {
        let zeros = || [const { PrivateWord::new(0) }; 2];
        let line = |_| PlaceLine {
            what: zeros(),
            answer: zeros(),
            count: PrivateWord::new(0),
            words: core::array::from_fn(|_| zeros()),
        };
        Places { lines: core::array::from_fn(line) }
    }
}

impl Places {
    #[inline(always)]
    fn line(&self, [inode, part]: What) -> &PlaceLine {
        let mixed = (inode ^ part.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.lines[(mixed >> 58) as usize % LINES]
    }

    /// The answer for `what`, if a look-up now would give it.
    #[inline]
    pub(crate) fn find(&self, words: &impl Words, what: What) -> Result<Option<Answer>> {
        let line = self.line(what);
        if load(&line.what) != what {
            return Ok(None);
        }
        for word in line.words.iter().take(line.count.load(Ordering::Relaxed) as usize) {
            let [at, value] = load(word);
            if words.load(at)? != value {
                return Ok(None);
            }
        }
        Ok(Some(load(&line.answer)))
    }

    /// Remembers the answer of a look-up, in place of another.
    pub(crate) fn remember<W>(&self, what: What, answer: Answer, witness: &Witness<'_, W>) {
        let line = self.line(what);
        let count = witness.count.get();
        if count > WORDS {
            return store(&line.what, [0; 2]);
        }
        for (word, noted) in line.words.iter().zip(&witness.noted) {
            let (at, value) = noted.get();
            store(word, [at, value]);
        }
        line.count.store(count as u64, Ordering::Relaxed);
        store(&line.answer, answer);
        store(&line.what, what);
    }
}

#[inline(always)]
fn load(words: &[PrivateWord; 2]) -> [u64; 2] {
    [words[0].load(Ordering::Relaxed), words[1].load(Ordering::Relaxed)]
}

fn store(words: &[PrivateWord; 2], values: [u64; 2]) {
    words[0].store(values[0], Ordering::Relaxed);
    words[1].store(values[1], Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::RefCell;
    use std::collections::BTreeMap;

    /// Words that have no region.
    struct Kept(RefCell<BTreeMap<u64, u64>>);

    impl Words for Kept {
        fn region(&self) -> &Region {
            panic!("no look-up of these tests asks for it")
        }

        fn load(&self, at: u64) -> Result<u64> {
            Ok(self.0.borrow().get(&at).copied().unwrap_or(0))
        }
    }

    fn words(count: u64) -> Kept {
        Kept(RefCell::new((0..count).map(|index| (index * 8, index + 100)).collect()))
    }

    fn look_up(words: &Kept, places: &Places, what: What, answer: Answer) {
        let witness = Witness::new(words);
        let all: Vec<u64> = words.0.borrow().keys().copied().collect();
        for at in all.iter().chain(&all) {
            witness.load(*at).expect("a word");
        }
        places.remember(what, answer, &witness);
    }

    #[test]
    fn an_answer_is_good_while_all_of_its_words_are_as_they_were() {
        let (places, words) = (Places::default(), words(WORDS as u64));
        look_up(&words, &places, [1, 2], [3, 4]);
        assert_eq!(places.find(&words, [1, 2]), Ok(Some([3, 4])));
        assert_eq!(places.find(&words, [1, 3]), Ok(None));
        for at in (0..WORDS as u64).map(|index| index * 8) {
            let before = words.0.borrow_mut().insert(at, 5).expect("a word");
            assert_eq!(places.find(&words, [1, 2]), Ok(None), "an answer outlived the word at {at}");
            words.0.borrow_mut().insert(at, before);
            assert_eq!(places.find(&words, [1, 2]), Ok(Some([3, 4])));
        }
    }

    #[test]
    fn a_look_up_of_too_many_words_is_not_remembered_and_not_taken_for_the_one_before() {
        let (places, few, many) = (Places::default(), words(3), words(WORDS as u64 + 1));
        look_up(&few, &places, [1, 2], [3, 4]);
        look_up(&many, &places, [1, 2], [5, 6]);
        assert_eq!(places.find(&many, [1, 2]), Ok(None));
        assert_eq!(places.find(&few, [1, 2]), Ok(None));
    }

    #[test]
    fn a_look_up_that_saw_two_values_of_a_word_is_not_remembered() {
        let places = Places::default();
        let changing = words(3);
        let witness = Witness::new(&changing);
        for value in [7, 8] {
            changing.0.borrow_mut().insert(8, value);
            witness.load(8).expect("a word");
        }
        places.remember([1, 2], [3, 4], &witness);
        assert_eq!(places.find(&changing, [1, 2]), Ok(None));
    }

    #[test]
    fn more_look_ups_than_lines_never_get_each_others_answers() {
        let (places, words) = (Places::default(), words(2));
        for inode in 1..40 {
            for part in 0..40 {
                look_up(&words, &places, [inode, part], [inode * 100 + part, 1]);
                assert_eq!(places.find(&words, [inode, part]), Ok(Some([inode * 100 + part, 1])));
            }
        }
        let known = |inode, part| places.find(&words, [inode, part]).expect("no word is missing");
        let all = || (1..40).flat_map(|inode| (0..40).map(move |part| (inode, part)));
        assert!(all().all(|(inode, part)| known(inode, part).is_none_or(|found| found[0] == inode * 100 + part)));
        assert!(all().filter(|&(inode, part)| known(inode, part).is_some()).count() > LINES / 2);
    }
}
