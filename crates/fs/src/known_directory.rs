//! Directories that this process walked to lately: the next walk there looks at the words that led there, and at nothing else.
//!
//! Remembered are walks by names that [`crate::name_cache`] knows, through directories that the walker may search without a look at his
//! groups; no links, no dots. Their words, of each directory in this order: mode, owner where that matters, sequence (so the name
//! means what it did), the owner word of its cell (so it is still that directory). Of the last one everything but its
//! sequence, which is loaded before all others: if the walk ends there, the directory had that sequence when it was there.

use crate::Result;
use crate::file_system::FileSystem;
use crate::inode::{self, DIRECTORY, InodeId, TYPE_MASK};
use crate::types::Caller;
use crate::walk::EXECUTE;
use lifeboat_region::DAMAGED;
use lifeboat_region::walk_cache::{Walk, WalkWitness};
use lifeboat_region::witness::Words;

/// A directory that may be searched, and the sequence that it had.
#[derive(Clone, Copy)]
pub(crate) struct KnownDirectory {
    pub(crate) dir: InodeId,
    pub(crate) sequence: u64,
}

/// What lies before the last name of a path, with its slash, and the name; `None` for a path that ends otherwise.
#[inline]
pub(crate) fn split_last(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let (before, name) = path.split_at(start);
    (!matches!(name, b"" | b"." | b"..")).then_some((before, name))
}

#[inline]
fn walk<'p>(who: &Caller<'_>, start: InodeId, path: &'p [u8]) -> Option<Walk<'p>> {
    Walk::new(who.uid as u64 | (who.checked as u64) << 32, start.to_word(), path)
}

/// Whether what is there is a directory that `who` may search, whatever his groups.
fn may_search(words: &impl Words, who: &Caller<'_>, inode: InodeId) -> Result<bool> {
    let mode = words.load(inode.at() + inode::MODE)? as u32;
    if mode & TYPE_MASK != DIRECTORY {
        return Ok(false);
    }
    if who.is_privileged() {
        return Ok(true);
    }
    let owner = words.load(inode.at() + inode::IDS)? as u32;
    Ok(owner == who.uid && mode >> 6 & EXECUTE != 0)
}

impl FileSystem {
    /// The directory at the end of `path`, if this process walked there before and would get there now.
    #[inline(never)]
    pub(crate) fn known_directory(&self, who: &Caller<'_>, start: InodeId, path: &[u8]) -> Option<KnownDirectory> {
        let found = self.region().known_walk(&walk(who, start, path)?)?;
        Some(KnownDirectory { dir: InodeId::from_word(found.end), sequence: found.before })
    }

    /// Remembers the walk along `path`, which has no name behind its last slash, if it is one that is worth it.
    #[cold]
    #[inline(never)]
    pub(crate) fn note_directory(&self, who: &Caller<'_>, start: InodeId, path: &[u8]) {
        let region = self.region();
        let Some(walk) = walk(who, start, path).filter(|walk| region.is_walk_missed_again(walk)) else { return };
        let witness = WalkWitness::new(region);
        let Ok(end) = self.walk_known(&witness, who, start, path) else { return };
        region.remember_walk(&walk, end.to_word(), end.at() + inode::SEQUENCE, &witness);
    }

    /// Walks by known names; an error where that is not possible.
    fn walk_known(&self, words: &impl Words, who: &Caller<'_>, start: InodeId, path: &[u8]) -> Result<InodeId> {
        let mut dir = if path.first() == Some(&b'/') { self.root() } else { start };
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            if matches!(name, b"." | b"..") || !may_search(words, who, dir)? {
                return Err(DAMAGED);
            }
            let sequence = words.load(dir.at() + inode::SEQUENCE)?;
            let child = self.known_child_of(dir, sequence, name);
            inode::validate(words, dir)?;
            dir = child.ok_or(DAMAGED)?;
        }
        let permitted = may_search(words, who, dir)?;
        inode::validate(words, dir)?;
        if permitted { Ok(dir) } else { Err(DAMAGED) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_name_is_what_follows_the_last_slash() {
        for (path, expected) in [
            (b"name".as_slice(), Some((b"".as_slice(), b"name".as_slice()))),
            (b"/name", Some((b"/", b"name"))),
            (b"a/b//c", Some((b"a/b//", b"c"))),
            (b"a/..c", Some((b"a/", b"..c"))),
            (b"a/", None),
            (b"a/.", None),
            (b"..", None),
            (b"/", None),
            (b"", None),
        ] {
            assert_eq!(split_last(path), expected);
        }
    }
}
