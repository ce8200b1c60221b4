//! Directories that this process walked to lately, with the words that led there, in memory of its own.
//!
//! A walk is a function of who walks, where from, the bytes of the path, and the words of the region that it loads: as long as each of
//! these has the value that it had, it ends in the same place. So a line holds all of them, and its answer is good exactly
//! when the words have these values now, loaded in the same order. Nobody has to be told of a change.
//!
//! Threads share the lines ([`crate::version`]). A forked child finds zeros, which answer nothing.

use crate::version::Version;
use crate::witness::{GROUP, Witness, Words};
use core::sync::atomic::{AtomicU64, Ordering};

/// A walk that loads more words than this is not remembered: about five directories.
const WORDS: usize = 20;

/// Words of a path.
const PATH: usize = 8;

/// The longest path of a line, in bytes.
pub const LONGEST: usize = PATH * 8;

/// So many directories of a process are found without a walk, if no two fall on one line: 60 KiB of memory.
pub(crate) const LINES: usize = 128;

/// The words of a walk.
pub type WalkWitness<'w, W> = Witness<'w, W, WORDS>;

/// A walk: who, where from, and along which bytes.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'p> {
    /// Who walks: one word for all that may do the same.
    pub who: u64,
    /// Where from; never 0.
    pub start: u64,
    path: &'p [u8],
    mixed: u64,
}

/// Where a walk ends, and one more word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkEnd {
    /// Where it ends.
    pub end: u64,
    /// The word that was to be loaded before all others.
    pub before: u64,
}

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The bytes as words, the last one padded with zeros.
fn words_of(path: &[u8]) -> impl Iterator<Item = u64> {
    let (whole, rest) = path.as_chunks::<8>();
    let last = rest.iter().rev().fold(0, |word, &byte| word << 8 | byte as u64);
    whole.iter().map(|&bytes| u64::from_le_bytes(bytes)).chain((!rest.is_empty()).then_some(last))
}

impl<'p> Walk<'p> {
    /// `None` when the path is longer than a line's.
    #[inline]
    pub fn new(who: u64, start: u64, path: &'p [u8]) -> Option<Walk<'p>> {
        if path.len() > LONGEST {
            return None;
        }
        let first = who.rotate_left(32) ^ start ^ path.len() as u64;
        let mixed = words_of(path).fold(first, |mixed, word| (mixed.rotate_left(27) ^ word).wrapping_mul(MULTIPLIER));
        Some(Walk { who, start, path, mixed: mixed.wrapping_mul(MULTIPLIER) })
    }
}

/// One walk and its end; zeros are a line of none.
#[repr(align(64))]
#[derive(Default)]
pub struct WalkLine {
    version: Version,
    /// Of the last walk that was asked for in vain.
    missed: AtomicU64,
    who: AtomicU64,
    start: AtomicU64,
    /// Bytes of the path in 0..32, words in 32..64.
    counts: AtomicU64,
    path: [AtomicU64; PATH],
    end: AtomicU64,
    before_at: AtomicU64,
    words: [[AtomicU64; 2]; WORDS],
}

fn line<'l>(lines: &'l [WalkLine], walk: &Walk<'_>) -> Option<&'l WalkLine> {
    // As evenly as a remainder, without a division.
    lines.get((((walk.mixed >> 32) * lines.len() as u64) >> 32) as usize)
}

impl WalkLine {
    #[inline]
    fn is_about(&self, walk: &Walk<'_>) -> bool {
        self.counts.load(Ordering::Relaxed) as u32 as usize == walk.path.len()
            && self.start.load(Ordering::Relaxed) == walk.start
            && self.who.load(Ordering::Relaxed) == walk.who
            && self.path.iter().zip(words_of(walk.path)).all(|(word, wanted)| word.load(Ordering::Relaxed) == wanted)
    }

    /// # Safety
    /// As of [`find`].
    #[inline]
    unsafe fn find(&self, words: &impl Words, walk: &Walk<'_>) -> Option<WalkEnd> {
        if !self.is_about(walk) {
            return None;
        }
        let before = words.load(self.before_at.load(Ordering::Relaxed)).ok()?;
        let groups = (self.counts.load(Ordering::Relaxed) >> 32) as usize / GROUP;
        let mut differs = 0;
        for group in self.words.chunks_exact(GROUP).take(groups) {
            for [at, value] in group {
                // SAFETY: `remember` noted only words that the witness had loaded. Of a line that somebody writes at this moment, too, an
                // offset is that of such a word, or the zero of a new line, where the region's first word is.
                let now = unsafe { words.load_again(at.load(Ordering::Relaxed)) }.ok()?;
                differs |= now ^ value.load(Ordering::Relaxed);
            }
        }
        (differs == 0).then(|| WalkEnd { end: self.end.load(Ordering::Relaxed), before })
    }
}

/// Where the walk ends, if one now would end where the last one did.
///
/// # Safety
/// All walks that were remembered in these lines must have loaded these very `words`.
#[inline]
pub unsafe fn find(lines: &[WalkLine], words: &impl Words, walk: &Walk<'_>) -> Option<WalkEnd> {
    let line = line(lines, walk)?;
    // SAFETY: the caller's promise, handed on.
    line.version.read(|| unsafe { line.find(words, walk) }).flatten()
}

/// Whether the walk was the last one that was asked for in vain on its line, too: only such are worth remembering. Walks to
/// more directories than there are lines cost little more than without any.
pub fn is_missed_again(lines: &[WalkLine], walk: &Walk<'_>) -> bool {
    let Some(line) = line(lines, walk) else { return false };
    let before = line.missed.load(Ordering::Relaxed);
    if before != walk.mixed {
        line.missed.store(walk.mixed, Ordering::Relaxed);
    }
    before == walk.mixed
}

/// Remembers where a walk ends that loaded its words through `witness`; `before_at`: offset of the word that is loaded before them.
pub fn remember<W>(lines: &[WalkLine], walk: &Walk<'_>, end: u64, before_at: u64, witness: &WalkWitness<'_, W>) {
    let (Some(line), Some(noted)) = (line(lines, walk), witness.noted()) else { return };
    line.version.write(|| {
        let mut count = 0;
        for ([at, value], noted) in line.words.iter().zip(noted) {
            at.store(noted[0], Ordering::Relaxed);
            value.store(noted[1], Ordering::Relaxed);
            count += 1;
        }
        for (word, value) in line.path.iter().zip(words_of(walk.path)) {
            word.store(value, Ordering::Relaxed);
        }
        line.counts.store(count << 32 | walk.path.len() as u64, Ordering::Relaxed);
        line.who.store(walk.who, Ordering::Relaxed);
        line.end.store(end, Ordering::Relaxed);
        line.before_at.store(before_at, Ordering::Relaxed);
        line.start.store(walk.start, Ordering::Relaxed);
    });
}

/// Forgets everything.
pub fn clear(lines: &[WalkLine]) {
    let in_use = lines.iter().filter(|line| !line.version.is_new());
    in_use.for_each(|line| line.version.write(|| line.start.store(0, Ordering::Relaxed)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::witness::tests::Kept;

    fn lines(count: usize) -> Vec<WalkLine> {
        (0..count).map(|_| WalkLine::default()).collect()
    }

    fn find(lines: &[WalkLine], words: &Kept, walk: &Walk<'_>) -> Option<WalkEnd> {
        // SAFETY: words of a test are not loaded from memory by their offsets.
        unsafe { super::find(lines, words, walk) }
    }

    fn walk(path: &[u8]) -> Walk<'_> {
        Walk::new(1, 2, path).expect("short enough")
    }

    /// Remembers a walk that loaded all words.
    fn note(lines: &[WalkLine], words: &Kept, walk: &Walk<'_>, end: u64) {
        let witness = WalkWitness::new(words);
        words.offsets().into_iter().for_each(|at| {
            witness.load(at).expect("a word");
        });
        remember(lines, walk, end, 8, &witness);
    }

    #[test]
    fn a_walk_ends_there_while_all_of_its_words_are_as_they_were() {
        let (lines, words) = (lines(4), Kept::of(WORDS as u64));
        note(&lines, &words, &walk(b"a/path/"), 7);
        let known = Some(WalkEnd { end: 7, before: 101 });
        assert_eq!(find(&lines, &words, &walk(b"a/path/")), known);
        for at in words.offsets() {
            let before = words.put(at, 5);
            assert_eq!(find(&lines, &words, &walk(b"a/path/")), None, "an answer outlived the word at {at}");
            words.put(at, before);
            assert_eq!(find(&lines, &words, &walk(b"a/path/")), known);
        }
        clear(&lines);
        assert_eq!(find(&lines, &words, &walk(b"a/path/")), None, "it was to be forgotten");
    }

    #[test]
    fn who_where_from_and_every_byte_of_the_path_count() {
        let (lines, words) = (lines(1), Kept::of(3));
        let text: Vec<u8> = (1..=LONGEST as u8).collect();
        for length in 0..=LONGEST {
            note(&lines, &words, &walk(&text[..length]), length as u64);
            let end = |walk: &Walk<'_>| find(&lines, &words, walk).map(|found| found.end);
            for other in 0..=LONGEST {
                let wanted = (other == length).then_some(length as u64);
                assert_eq!(end(&walk(&text[..other])), wanted, "{other} bytes, of {length}");
            }
            for place in 0..length {
                let mut other = text[..length].to_vec();
                other[place] ^= 1;
                assert_eq!(end(&walk(&other)), None, "byte {place} of {length}");
            }
            assert_eq!(end(&Walk::new(3, 2, &text[..length]).expect("short enough")), None, "another's");
            assert_eq!(end(&Walk::new(1, 3, &text[..length]).expect("short enough")), None, "from elsewhere");
        }
        assert!(Walk::new(1, 2, &[1; LONGEST + 1]).is_none());
    }

    #[test]
    fn a_walk_of_too_many_words_is_not_remembered() {
        let (lines, many) = (lines(1), Kept::of(WORDS as u64 + 1));
        note(&lines, &many, &walk(b"a"), 7);
        assert_eq!(find(&lines, &many, &walk(b"a")), None);
    }

    #[test]
    fn only_what_is_asked_for_twice_is_worth_remembering() {
        let lines = lines(1);
        for path in [b"a", b"b", b"a", b"b"] {
            assert!(!is_missed_again(&lines, &walk(path)));
        }
        assert!(is_missed_again(&lines, &walk(b"b")));
        assert!(!is_missed_again(&[], &walk(b"b")));
    }
}
