//! How many places of a table, from the first, were ever used: looking through all of it would take too long.
//!
//! A word: the number in 32..64, its complement in 0..32; zero is none. A damaged word hides nothing: then all places count.

use crate::Result;
use crate::region::Region;
use core::sync::atomic::Ordering;

const fn word_of(count: u64) -> u64 {
    count << 32 | !(count as u32) as u64
}

/// What the word at `offset` says, at most `all`; `None` when it is damaged.
pub fn decode(word: u64, all: u64) -> Option<u64> {
    match word >> 32 {
        0 if word == 0 => Some(0),
        count if word == word_of(count) && count <= all => Some(count),
        _ => None,
    }
}

/// How many of `all` places may have been used.
pub fn read(region: &Region, offset: u64, all: u64) -> Result<u64> {
    Ok(decode(region.load(offset)?, all).unwrap_or(all))
}

/// Says that places below `count` may have been used.
pub fn raise(region: &Region, offset: u64, count: u64) -> Result<()> {
    let word = region.word(offset)?;
    // The number is in the upper half, so the larger word is that of the larger number.
    if word.load(Ordering::Acquire) < word_of(count) {
        word.fetch_max(word_of(count), Ordering::SeqCst);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_hides_no_place() {
        for count in 0..64 {
            let word = if count == 0 { 0 } else { word_of(count) };
            assert_eq!(decode(word, 64), Some(count));
            for bit in 0..64 {
                assert_eq!(decode(word ^ 1 << bit, 64), None, "bit {bit} of {count}");
            }
        }
    }
}
