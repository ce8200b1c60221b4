//! What this process looked up lately, in memory of its own.
//!
//! A line holds one look-up, the state of affairs in which it was made, and its answer. An answer belongs to its state for
//! ever, so nothing is ever taken back: whoever asks names the state of now, and a line of another state does not answer.
//!
//! Threads share the lines. A line's version is odd while it is written; who cannot write at once does without, and who
//! reads looks at the version before and after. A forked child finds zeros, which answer nothing.

use core::sync::atomic::fence;
use core::sync::atomic::{AtomicU64, Ordering};

/// Words that say what was looked up.
pub const WHAT: usize = 5;

/// A look-up. Its first word is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// What was looked up.
    pub what: [u64; WHAT],
    /// In which state of affairs.
    pub state: u64,
}

/// One look-up and its answer; zeros are a line of none.
#[repr(align(64))]
pub struct CacheLine {
    version: AtomicU64,
    answer: AtomicU64,
    state: AtomicU64,
    what: [AtomicU64; WHAT],
}

impl Default for CacheLine {
    fn default() -> CacheLine {
        let zero = |()| AtomicU64::new(0);
        CacheLine { version: zero(()), answer: zero(()), state: zero(()), what: [(); WHAT].map(zero) }
    }
}

impl CacheLine {
    /// The answer for `key`, if this line has it.
    #[inline]
    fn answer(&self, key: &Key) -> Option<u64> {
        let version = self.version.load(Ordering::Acquire);
        let same = self.state.load(Ordering::Relaxed) == key.state && self.is_about(key);
        let answer = self.answer.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let undisturbed = version & 1 == 0 && self.version.load(Ordering::Relaxed) == version;
        (same && undisturbed).then_some(answer)
    }

    fn is_about(&self, key: &Key) -> bool {
        self.what.iter().zip(key.what).all(|(word, wanted)| word.load(Ordering::Relaxed) == wanted)
    }

    fn is_empty(&self) -> bool {
        self.version.load(Ordering::Relaxed) == 0
    }

    fn write(&self, key: &Key, answer: u64) {
        let version = self.version.load(Ordering::Relaxed) & !1;
        let taken = self.version.compare_exchange(version, version | 1, Ordering::Acquire, Ordering::Relaxed);
        if taken.is_err() {
            return;
        }
        // Who reads one of the words below sees the odd version, too.
        fence(Ordering::Release);
        self.answer.store(answer, Ordering::Relaxed);
        self.state.store(key.state, Ordering::Relaxed);
        for (word, value) in self.what.iter().zip(key.what) {
            word.store(value, Ordering::Relaxed);
        }
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }
}

/// Odd numbers without a pattern, one for each word of a look-up.
const MULTIPLIERS: [u64; WHAT] =
    [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f, 0x1656_67b1_9e37_79f9, 0x85eb_ca77_c2b2_ae63, 0xff51_afd7_ed55_8ccd];

/// The two lines that a look-up may be in. Its state has no part in that: a new answer takes the place of an old one.
#[inline]
fn places<'l>(lines: &'l [CacheLine], key: &Key) -> Option<[&'l CacheLine; 2]> {
    // Side by side, not one after the other.
    let products = key.what.iter().zip(MULTIPLIERS).map(|(word, multiplier)| word.wrapping_mul(multiplier));
    let sum = products.fold(0, u64::wrapping_add);
    let mixed = (sum ^ sum >> 32).wrapping_mul(MULTIPLIERS[0]) >> 32;
    // As evenly as a remainder, without a division.
    let pair = ((mixed * (lines.len() as u64 / 2)) >> 32) as usize * 2;
    Some([lines.get(pair)?, lines.get(pair + 1)?])
}

/// The answer for `key`, if one of the lines has it.
#[inline]
pub fn answer(lines: &[CacheLine], key: &Key) -> Option<u64> {
    places(lines, key)?.iter().find_map(|line| line.answer(key))
}

/// Keeps an answer, in place of another.
pub fn keep(lines: &[CacheLine], key: &Key, answer: u64) {
    let Some([first, second]) = places(lines, key) else { return };
    let line = if first.is_about(key) || first.is_empty() {
        first
    } else if second.is_about(key) || second.is_empty() {
        second
    } else {
        let [first_version, second_version] = [first, second].map(|line| line.version.load(Ordering::Relaxed));
        // In turns, but not a line whose writer may never come back.
        let is_first = first_version & 1 == 0 && ((first_version ^ second_version) & 2 == 0 || second_version & 1 == 1);
        if is_first { first } else { second }
    };
    line.write(key, answer);
}

/// Forgets everything.
pub fn clear(lines: &[CacheLine]) {
    let nothing = Key { what: [0; WHAT], state: 0 };
    lines.iter().filter(|line| !line.is_empty()).for_each(|line| line.write(&nothing, 0));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(what: u64, state: u64) -> Key {
        Key { what: [what; WHAT], state }
    }

    #[test]
    fn an_answer_belongs_to_its_state() {
        let lines: [CacheLine; 64] = core::array::from_fn(|_| CacheLine::default());
        keep(&lines, &key(1, 2), 3);
        assert_eq!(answer(&lines, &key(1, 2)), Some(3));
        assert_eq!(answer(&lines, &key(1, 4)), None, "an answer outlived its state");
        assert_eq!(answer(&lines, &key(2, 2)), None);
        keep(&lines, &key(1, 4), 5);
        assert_eq!(answer(&lines, &key(1, 2)), None, "one look-up takes two lines");
        assert_eq!(answer(&lines, &key(1, 4)), Some(5));
        clear(&lines);
        assert_eq!(answer(&lines, &key(1, 4)), None, "it was to be forgotten");
    }

    #[test]
    fn more_answers_than_lines_take_turns() {
        let lines: [CacheLine; 8] = core::array::from_fn(|_| CacheLine::default());
        for what in 1..1000 {
            keep(&lines, &key(what, 0), what);
            assert_eq!(answer(&lines, &key(what, 0)), Some(what));
            let wrong = (1..1000).filter(|&what| answer(&lines, &key(what, 0)).is_some_and(|answer| answer != what));
            assert_eq!(wrong.count(), 0);
        }
    }

    #[test]
    fn a_writer_that_never_came_back_costs_a_line_and_nothing_else() {
        let lines = [CacheLine::default(), CacheLine::default()];
        lines[0].version.store(1, Ordering::Relaxed);
        for what in 1..9 {
            keep(&lines, &key(what, 0), what);
            assert!(answer(&lines, &key(what, 0)).is_none_or(|answer| answer == what));
        }
        assert_eq!(lines[0].version.load(Ordering::Relaxed), 1);
        assert!((1..9).any(|what| answer(&lines, &key(what, 0)).is_some()), "the other line is not used");
    }

    #[test]
    fn without_lines_nothing_is_kept() {
        keep(&[], &key(1, 0), 1);
        assert_eq!(answer(&[], &key(1, 0)), None);
    }
}
