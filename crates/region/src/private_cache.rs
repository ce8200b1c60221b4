//! What this process looked up lately, in memory of its own.
//!
//! A line holds one look-up, the state of affairs in which it was made, and its answer. An answer belongs to its state for
//! ever, so nothing is ever taken back: whoever asks names the state of now, and a line of another state does not answer.
//!
//! Threads share the lines ([`crate::version`]). A forked child finds zeros, which answer nothing.

use crate::version::Version;
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
    version: Version,
    answer: AtomicU64,
    state: AtomicU64,
    what: [AtomicU64; WHAT],
}

impl Default for CacheLine {
    fn default() -> CacheLine {
        let zero = |()| AtomicU64::new(0);
        CacheLine { version: Version::default(), answer: zero(()), state: zero(()), what: [(); WHAT].map(zero) }
    }
}

impl CacheLine {
    /// The answer for `key`, if this line has it.
    #[inline]
    fn answer(&self, key: &Key) -> Option<u64> {
        let found = self.version.read(|| {
            let same = self.state.load(Ordering::Relaxed) == key.state && self.is_about(key);
            same.then(|| self.answer.load(Ordering::Relaxed))
        });
        found.flatten()
    }

    fn is_about(&self, key: &Key) -> bool {
        self.what.iter().zip(key.what).all(|(word, wanted)| word.load(Ordering::Relaxed) == wanted)
    }

    fn is_empty(&self) -> bool {
        self.version.is_new()
    }

    fn write(&self, key: &Key, answer: u64) {
        self.version.write(|| {
            self.answer.store(answer, Ordering::Relaxed);
            self.state.store(key.state, Ordering::Relaxed);
            for (word, value) in self.what.iter().zip(key.what) {
                word.store(value, Ordering::Relaxed);
            }
        });
    }
}

/// Odd numbers without a pattern, one for each word of a look-up.
const MULTIPLIERS: [u64; WHAT] =
    [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f, 0x1656_67b1_9e37_79f9, 0x85eb_ca77_c2b2_ae63, 0xff51_afd7_ed55_8ccd];

/// The two pairs of lines that a look-up may be in: so a table that is mostly full has room for nearly all. Its state has no part in
/// that: a new answer takes the place of an old one.
#[inline]
fn places<'l>(lines: &'l [CacheLine], key: &Key) -> Option<[&'l [CacheLine; 2]; 2]> {
    // Side by side, not one after the other.
    let products = key.what.iter().zip(MULTIPLIERS).map(|(word, multiplier)| word.wrapping_mul(multiplier));
    let sum = products.fold(0, u64::wrapping_add);
    let mixed = (sum ^ sum >> 32).wrapping_mul(MULTIPLIERS[0]);
    let pairs = lines.as_chunks::<2>().0;
    // As evenly as a remainder, without a division.
    let pair = |number: u64| pairs.get(((number * pairs.len() as u64) >> 32) as usize);
    Some([pair(mixed >> 32)?, pair(mixed & 0xffff_ffff)?])
}

/// The answer for `key`, if one of the lines has it.
#[inline]
pub fn answer(lines: &[CacheLine], key: &Key) -> Option<u64> {
    places(lines, key)?.into_iter().flatten().find_map(|line| line.answer(key))
}

/// Keeps an answer, in place of another.
pub fn keep(lines: &[CacheLine], key: &Key, answer: u64) {
    let Some([first, second]) = places(lines, key) else { return };
    let all = [&first[0], &first[1], &second[0], &second[1]];
    let same = all.into_iter().find(|line| line.is_about(key));
    let line = same.or_else(|| all.into_iter().find(|line| line.is_empty())).unwrap_or_else(|| {
        // In turns, but not a line whose writer may never come back.
        let written = all.into_iter().map(|line| line.version.now() / 2).fold(0, u64::wrapping_add);
        let turn = |offset| all[(written.wrapping_add(offset) % 4) as usize];
        (0..4).map(turn).find(|line| line.version.now() & 1 == 0).unwrap_or(all[0])
    });
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
    fn a_table_that_is_half_full_has_nearly_all() {
        let lines: [CacheLine; 256] = core::array::from_fn(|_| CacheLine::default());
        // Also when it was full of others before.
        for from in [1000, 2000, 1] {
            for _ in 0..20 {
                let missing = (from..from + 128).filter(|&what| answer(&lines, &key(what, 0)).is_none());
                missing.for_each(|what| keep(&lines, &key(what, 0), what));
            }
            let there = (from..from + 128).filter(|&what| answer(&lines, &key(what, 0)) == Some(what)).count();
            assert!(there >= 120, "{there} of 128");
        }
    }

    #[test]
    fn a_writer_that_never_came_back_costs_a_line_and_nothing_else() {
        let lines = [CacheLine::default(), CacheLine::default()];
        let _never_ends = lines[0].version.begin();
        for what in 1..9 {
            keep(&lines, &key(what, 0), what);
            assert!(answer(&lines, &key(what, 0)).is_none_or(|answer| answer == what));
        }
        assert_eq!(lines[0].version.now(), 1);
        assert!((1..9).any(|what| answer(&lines, &key(what, 0)).is_some()), "the other line is not used");
    }

    #[test]
    fn without_lines_nothing_is_kept() {
        keep(&[], &key(1, 0), 1);
        assert_eq!(answer(&[], &key(1, 0)), None);
    }
}
