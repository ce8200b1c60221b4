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
use crate::witness::{GROUP, Witness, Words};
// Private words, not the region's: models run over these as they are.
use core::sync::atomic::AtomicU64 as PrivateWord;
use core::sync::atomic::Ordering;

/// A look-up that loads more words than this is not remembered.
const WORDS: usize = 12;

/// Lines of a kept lane: 4 MiB of a file's extents, if no two fall on one line.
const LINES: usize = 64;

/// The words of a look-up.
pub type PlaceWitness<'w, W> = Witness<'w, W, WORDS>;

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
    ///
    /// # Safety
    /// All look-ups that were remembered here must have loaded these very `words`.
    #[inline(always)]
    pub(crate) unsafe fn find(&self, words: &impl Words, what: What) -> Result<Option<Answer>> {
        let line = self.line(what);
        if load(&line.what) != what {
            return Ok(None);
        }
        let groups = line.count.load(Ordering::Relaxed) as usize / GROUP;
        for group in line.words.chunks_exact(GROUP).take(groups) {
            for word in group {
                let [at, value] = load(word);
                // SAFETY: `remember` noted only words that the witness had loaded, and nobody else writes lines.
                if unsafe { words.load_again(at) }? != value {
                    return Ok(None);
                }
            }
        }
        Ok(Some(load(&line.answer)))
    }

    /// Remembers the answer of a look-up, in place of another.
    pub(crate) fn remember<W>(&self, what: What, answer: Answer, witness: &PlaceWitness<'_, W>) {
        let line = self.line(what);
        let Some(noted) = witness.noted() else { return store(&line.what, [0; 2]) };
        let mut count = 0;
        for (word, noted) in line.words.iter().zip(noted) {
            store(word, noted);
            count += 1;
        }
        line.count.store(count, Ordering::Relaxed);
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
    use crate::witness::tests::Kept;

    fn find(places: &Places, words: &Kept, what: What) -> Result<Option<Answer>> {
        // SAFETY: words of a test are not loaded from memory by their offsets.
        unsafe { places.find(words, what) }
    }

    fn look_up(words: &Kept, places: &Places, what: What, answer: Answer) {
        let witness = PlaceWitness::new(words);
        let all = words.offsets();
        for at in all.iter().chain(&all) {
            witness.load(*at).expect("a word");
        }
        places.remember(what, answer, &witness);
    }

    #[test]
    fn an_answer_is_good_while_all_of_its_words_are_as_they_were() {
        let (places, words) = (Places::default(), Kept::of(WORDS as u64));
        look_up(&words, &places, [1, 2], [3, 4]);
        assert_eq!(find(&places, &words, [1, 2]), Ok(Some([3, 4])));
        assert_eq!(find(&places, &words, [1, 3]), Ok(None));
        for at in words.offsets() {
            let before = words.put(at, 5);
            assert_eq!(find(&places, &words, [1, 2]), Ok(None), "an answer outlived the word at {at}");
            words.put(at, before);
            assert_eq!(find(&places, &words, [1, 2]), Ok(Some([3, 4])));
        }
    }

    #[test]
    fn a_look_up_of_too_many_words_is_not_remembered_and_not_taken_for_the_one_before() {
        let (places, few, many) = (Places::default(), Kept::of(3), Kept::of(WORDS as u64 + 1));
        look_up(&few, &places, [1, 2], [3, 4]);
        look_up(&many, &places, [1, 2], [5, 6]);
        assert_eq!(find(&places, &many, [1, 2]), Ok(None));
        assert_eq!(find(&places, &few, [1, 2]), Ok(None));
    }

    #[test]
    fn a_look_up_that_saw_two_values_of_a_word_is_not_remembered() {
        let places = Places::default();
        let changing = Kept::of(3);
        let witness = PlaceWitness::new(&changing);
        for value in [7, 8] {
            changing.put(8, value);
            witness.load(8).expect("a word");
        }
        places.remember([1, 2], [3, 4], &witness);
        assert_eq!(find(&places, &changing, [1, 2]), Ok(None));
    }

    #[test]
    fn more_look_ups_than_lines_never_get_each_others_answers() {
        let (places, words) = (Places::default(), Kept::of(2));
        for inode in 1..40 {
            for part in 0..40 {
                look_up(&words, &places, [inode, part], [inode * 100 + part, 1]);
                assert_eq!(find(&places, &words, [inode, part]), Ok(Some([inode * 100 + part, 1])));
            }
        }
        let known = |inode, part| find(&places, &words, [inode, part]).expect("no word is missing");
        let all = || (1..40).flat_map(|inode| (0..40).map(move |part| (inode, part)));
        assert!(all().all(|(inode, part)| known(inode, part).is_none_or(|found| found[0] == inode * 100 + part)));
        assert!(all().filter(|&(inode, part)| known(inode, part).is_some()).count() > LINES / 2);
    }
}
