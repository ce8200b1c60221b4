//! Names that this process looked up lately: the next look-up of one walks no directory.
//!
//! What is kept says: while directory `dir` had sequence `s`, `name` meant `child`. Every change of a directory's names changes its
//! sequence word, which only goes up, so that stays true for ever; and it is the answer of now if the directory has
//! that sequence now. The cell may be another's by now: so whether it is still the directory is asked after the sequence was read.

use crate::file_system::FileSystem;
use crate::inode::{self, InodeId};
use lifeboat_region::private_cache::{self, Key, WHAT};

/// Longer names are not kept.
const NAME_LONGEST: usize = (WHAT - 1) * 8;

/// Sequences from here on leave no room for a name's length.
const SEQUENCE_LARGEST: u64 = 1 << 56;

/// Up to seven bytes as a word, the others zero. Not through memory: to read eight bytes of what was written in pieces takes longer.
#[inline]
pub(crate) fn few_bytes(bytes: &[u8]) -> u64 {
    match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        (Some(&first), Some(&last)) => {
            let shift = 8 * (bytes.len() as u32 & 7) - 32;
            u32::from_le_bytes(first) as u64 | (u32::from_le_bytes(last) as u64) << shift
        }
        _ => bytes.iter().rev().fold(0, |word, &byte| word << 8 | byte as u64),
    }
}

/// `None` for what is not kept: long names, and a directory that is being changed.
#[inline]
fn key(dir: InodeId, sequence: u64, name: &[u8]) -> Option<Key> {
    if sequence & 1 != 0 || sequence >= SEQUENCE_LARGEST || name.len() > NAME_LONGEST {
        return None;
    }
    let mut what = [0; WHAT];
    what[0] = dir.to_word();
    let (whole, rest) = name.as_chunks::<8>();
    for (word, &bytes) in what[1..].iter_mut().zip(whole) {
        *word = u64::from_le_bytes(bytes);
    }
    if !rest.is_empty() {
        *what.get_mut(1 + whole.len())? = few_bytes(rest);
    }
    Some(Key { what, state: sequence << 8 | name.len() as u64 })
}

impl FileSystem {
    /// What `name` means in `dir`, if this process looked it up since the directory was changed last.
    #[inline]
    pub(crate) fn known_child(&self, dir: InodeId, name: &[u8]) -> Option<InodeId> {
        if self.region().private_cache().is_empty() {
            return None;
        }
        let sequence = self.field(dir, inode::SEQUENCE).ok()?;
        let child = self.known_child_of(dir, sequence, name)?;
        self.validate(dir).ok()?;
        Some(child)
    }

    /// What `name` means in `dir` while it has this sequence.
    #[inline]
    pub(crate) fn known_child_of(&self, dir: InodeId, sequence: u64, name: &[u8]) -> Option<InodeId> {
        private_cache::answer(self.region().private_cache(), &key(dir, sequence, name)?).map(InodeId::from_word)
    }

    /// Forgets all names. For who puts a region's bytes back to an earlier state under an attached process, as a harness does: sequences
    /// go up as long as nobody does that.
    pub fn forget_names(&self) {
        private_cache::clear(self.region().private_cache());
        self.region().forget_walks();
    }

    /// Keeps that `name` meant `child` while `dir` had this sequence.
    pub(crate) fn note_child(&self, dir: InodeId, sequence: u64, name: &[u8], child: InodeId) {
        if let Some(key) = key(dir, sequence, name) {
            private_cache::keep(self.region().private_cache(), &key, child.to_word());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_every_byte_of_the_name_and_nothing_else() {
        let text: [u8; NAME_LONGEST + 1] = core::array::from_fn(|index| index as u8 + 1);
        let dir = InodeId::from_word(77);
        for length in 0..=NAME_LONGEST {
            let key = key(dir, 6, &text[..length]).expect("short enough");
            let mut bytes = [0; NAME_LONGEST];
            bytes[..length].copy_from_slice(&text[..length]);
            let words = bytes.as_chunks::<8>().0.iter().map(|&bytes| u64::from_le_bytes(bytes));
            assert!(words.eq(key.what[1..].iter().copied()), "{length}: {key:x?}");
            assert_eq!((key.what[0], key.state), (77, 6 << 8 | length as u64));
        }
        assert_eq!(key(dir, 6, &text), None);
        assert_eq!(key(dir, 7, &text[..1]), None, "a directory that is being changed");
        assert_eq!(key(dir, SEQUENCE_LARGEST, &text[..1]), None);
    }
}
