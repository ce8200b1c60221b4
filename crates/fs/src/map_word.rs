//! Map words: one word that says where something is. A file's map and a directory's index are trees of them.
//!
//! | bits | field |
//! |---|---|
//! | 0..4 | kind |
//! | 4..8 | height of an index node |
//! | 8..12 | tier: memory, spilled, remote (only memory so far) |
//! | 12..24 | generation of a spilled or remote copy |
//! | 24..64 | offset in the region, in units of 64 bytes |

use crate::Result;
use lifeboat_region::DAMAGED;

/// What a map word points to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// Nothing: a hole, or no names.
    Hole,
    /// 64 KiB of file data.
    Extent(u64),
    /// The first 4 KiB of an extent; the rest is a hole.
    Block(u64),
    /// A cell with 16 words, one for each block of an extent.
    Blocks(u64),
    /// A cell with 16 pairs {map word, checksum word}.
    Extents(u64),
    /// A cell with 32 map words. In a file's map height 1 points to `Extents`; in a directory the height counts from
    /// the root down.
    Index(u64, u8),
    /// The first directory entry of a chain.
    Entry(u64),
    /// A cell of bytes (extended attributes).
    Cell(u64),
}

const RESERVED: u64 = 0xffff00;

impl Target {
    pub(crate) fn decode(word: u64) -> Result<Target> {
        let at = (word >> 24) << 6;
        // Other tiers and copies elsewhere do not exist yet, nor does a height of anything but an index node.
        if word & RESERVED != 0 || (word & 15 != 5 && word & 0xf0 != 0) {
            return Err(DAMAGED);
        }
        Ok(match word & 15 {
            0 if word == 0 => Target::Hole,
            1 => Target::Extent(at),
            2 => Target::Block(at),
            3 => Target::Blocks(at),
            4 => Target::Extents(at),
            5 => Target::Index(at, (word >> 4) as u8 & 15),
            6 => Target::Entry(at),
            7 => Target::Cell(at),
            _ => return Err(DAMAGED),
        })
    }

    pub(crate) fn encode(self) -> u64 {
        let word = |kind: u64, at: u64| kind | (at >> 6) << 24;
        match self {
            Target::Hole => 0,
            Target::Extent(at) => word(1, at),
            Target::Block(at) => word(2, at),
            Target::Blocks(at) => word(3, at),
            Target::Extents(at) => word(4, at),
            Target::Index(at, height) => word(5, at) | (height as u64) << 4,
            Target::Entry(at) => word(6, at),
            Target::Cell(at) => word(7, at),
        }
    }
}

/// Children of an index node.
pub(crate) const INDEX_WORDS: u64 = 32;
/// Extents of an extents node.
pub(crate) const EXTENTS_PER_NODE: u64 = 16;
/// Highest index node of a file: 16 * 32^6 extents are more than 48 bits of bytes.
pub(crate) const HEIGHT_LARGEST: u8 = 6;

/// Extents below one child of an index node of `height`.
pub(crate) const fn span(height: u8) -> u64 {
    EXTENTS_PER_NODE << (5 * (height as u64 - 1))
}
