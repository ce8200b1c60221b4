//! What a writer may do: one call that changes something, with the calls that it takes to get there.

use crate::random::Random;

/// Kinds of actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // The calls that they are named after.
pub enum Deed {
    Create,
    Write,
    Append,
    Truncate,
    /// `open` with `O_TRUNC`.
    Empty,
    Rename,
    Exchange,
    Link,
    Symlink,
    Unlink,
    /// Opened, unlinked, written to, closed.
    UnlinkOpen,
    Mkdir,
    Rmdir,
    Chmod,
    Seal,
    SetAttribute,
    RemoveAttribute,
    /// `fallocate` that leaves the size.
    Reserve,
    /// `fallocate` that makes a hole.
    Punch,
    /// Stores through a mapping.
    Map,
    /// Reads a file of its own and compares.
    Look,
    /// A record at the end of the common log.
    Record,
    /// Creates a name that others try to create, too.
    Prize,
    /// Renames one of the names that everybody renames.
    Move,
    /// Renames a file of its own over one that everybody replaces.
    Publish,
    /// Counts up a number in a file under a lock on it.
    Locked,
    /// Writes to its part of a file that all write to.
    Stripe,
    /// Recovers whoever is dead.
    Sweep,
}

/// All kinds, in the order of their numbers.
const DEEDS: [Deed; 28] = [
    Deed::Create,
    Deed::Write,
    Deed::Append,
    Deed::Truncate,
    Deed::Empty,
    Deed::Rename,
    Deed::Exchange,
    Deed::Link,
    Deed::Symlink,
    Deed::Unlink,
    Deed::UnlinkOpen,
    Deed::Mkdir,
    Deed::Rmdir,
    Deed::Chmod,
    Deed::Seal,
    Deed::SetAttribute,
    Deed::RemoveAttribute,
    Deed::Reserve,
    Deed::Punch,
    Deed::Map,
    Deed::Look,
    Deed::Record,
    Deed::Prize,
    Deed::Move,
    Deed::Publish,
    Deed::Locked,
    Deed::Stripe,
    Deed::Sweep,
];

/// An action, all of it: the same values do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// What kind.
    pub deed: Deed,
    /// Which of the paths, or which token.
    pub path: u8,
    /// Another path, for what takes two.
    pub other: u8,
    /// Where in the file; the mode for `chmod`.
    pub offset: u32,
    /// How many bytes; the new size for `truncate`.
    pub length: u32,
    /// Gives the bytes; a place or a number for what is done in common.
    pub tag: u64,
}

impl Action {
    /// One without arguments.
    pub const fn bare(deed: Deed) -> Self {
        Self { deed, path: 0, other: 0, offset: 0, length: 0, tag: 0 }
    }

    /// As words of the board.
    pub fn encode(&self) -> [u64; 4] {
        let kind = u64::from(self.deed as u8) | u64::from(self.path) << 8 | u64::from(self.other) << 16;
        [kind, u64::from(self.offset), u64::from(self.length), self.tag]
    }

    /// Out of words of the board.
    pub fn decode(words: [u64; 4]) -> Self {
        Self {
            deed: DEEDS[(words[0] as u8) as usize % DEEDS.len()],
            path: (words[0] >> 8) as u8,
            other: (words[0] >> 16) as u8,
            offset: words[1] as u32,
            length: words[2] as u32,
            tag: words[3],
        }
    }

    /// Whether it changes only what belongs to the one writer.
    pub fn is_private(&self) -> bool {
        (self.deed as u8) < Deed::Look as u8
    }

    /// Whether it opens its file for writing, which takes a seal off before anything else changes.
    pub fn opens_for_writing(&self) -> bool {
        use Deed::{Append, Empty, Map, Punch, Reserve, Truncate, UnlinkOpen, Write};
        matches!(self.deed, Write | Append | Truncate | Empty | Reserve | Punch | Map | UnlinkOpen)
    }
}

/// Sizes of writes: inside a block, whole blocks, over edges of blocks and of extents.
const LENGTHS: &[u32] = &[1, 40, 300, 700, 3000, 4096, 5000, 9000, 65_536, 70_000];
/// No file of a writer grows beyond this.
pub const LONGEST: u32 = 150_000;

/// A length that is worth writing.
pub fn some_length(random: &mut Random) -> u32 {
    // Mostly short, so that there are many.
    let limit = if random.chance(15) { LENGTHS.len() } else { LENGTHS.len() - 3 };
    LENGTHS[random.below(limit as u64) as usize]
}
