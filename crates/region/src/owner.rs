//! The owner word: who has a unit of space.
//!
//! | bits | field |
//! |---|---|
//! | 0..3 | state |
//! | 3..7 | kind |
//! | 7 | mapped: some process may have the unit in its address space |
//! | 8..32 | generation, raised whenever the unit is freed |
//! | 32..64 | owned: lane (16), lane generation (16); live, limbo: number of the inode it belongs to |
//!
//! A word of all zeros is a free unit whose bytes are zero, so a fresh region needs no initialisation. What the fields say
//! must agree: a free unit holds nothing and belongs to nobody, an owned one holds nothing yet, a linked one holds
//! something of an inode. So no single flipped bit makes a linked unit look free, or a free one linked.

/// State of a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// Free, and all of its bytes are zero.
    Clean = 0,
    /// Free, with leftovers of an earlier owner.
    Dirty = 1,
    /// Taken by a lane, linked nowhere: reclaimed when the lane's image is proved dead.
    Owned = 2,
    /// Linked.
    Live = 3,
    /// Unlinked, but a writer or a mapping may still touch it.
    Limbo = 4,
}

/// What a unit holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Nothing yet.
    None = 0,
    /// An inode.
    Inode = 1,
    /// 32 words of an index: of a directory's names, or of a file's map.
    Index = 2,
    /// 16 extents of a file's map, each {map word, checksum word}.
    Extents = 3,
    /// 16 blocks of one extent.
    Blocks = 4,
    /// A name longer than an entry can hold.
    Name = 5,
    /// File data.
    Data = 6,
    /// A directory entry.
    Entry = 7,
    /// Extended attributes.
    Attributes = 8,
}

/// A decoded owner word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// Who may use the unit.
    pub state: State,
    /// What it holds.
    pub kind: Kind,
    /// Whether it was ever mapped since it was last free.
    pub mapped: bool,
    /// Raised at each release; 24 bits.
    pub generation: u32,
    /// Lane and its generation, or the inode's number.
    pub holder: u32,
}

const GENERATION_MASK: u64 = 0xff_ffff;
const MAPPED: u64 = 1 << 7;

impl Owner {
    /// Reads a word; `None` when no such state or kind exists, or the fields do not agree.
    pub const fn decode(word: u64) -> Option<Owner> {
        let state = match word & 7 {
            0 => State::Clean,
            1 => State::Dirty,
            2 => State::Owned,
            3 => State::Live,
            4 => State::Limbo,
            _ => return None,
        };
        let kind = match (word >> 3) & 15 {
            0 => Kind::None,
            1 => Kind::Inode,
            2 => Kind::Index,
            3 => Kind::Extents,
            4 => Kind::Blocks,
            5 => Kind::Name,
            6 => Kind::Data,
            7 => Kind::Entry,
            8 => Kind::Attributes,
            _ => return None,
        };
        let owner = Owner {
            state,
            kind,
            mapped: word & MAPPED != 0,
            generation: ((word >> 8) & GENERATION_MASK) as u32,
            holder: (word >> 32) as u32,
        };
        let agrees = match state {
            State::Clean => word == 0,
            State::Dirty => matches!(kind, Kind::None) && !owner.mapped && owner.holder == 0,
            State::Owned => matches!(kind, Kind::None) && !owner.mapped,
            State::Live | State::Limbo => !matches!(kind, Kind::None) && owner.holder != 0,
        };
        if agrees { Some(owner) } else { None }
    }

    /// Whether the word is that of a unit which is linked to the inode with this number and holds `kind`: what decoding it would say, for
    /// paths that ask for nothing else.
    #[inline(always)]
    pub const fn is_linked(word: u64, kind: Kind, inode: u64) -> bool {
        const ELSE: u64 = GENERATION_MASK << 8 | MAPPED;
        inode.wrapping_sub(1) < u32::MAX as u64 && word & !ELSE == State::Live as u64 | (kind as u64) << 3 | inode << 32
    }

    /// Whether the word is that of a free unit: what decoding it would say.
    #[inline(always)]
    pub const fn says_free(word: u64) -> bool {
        word == 0 || word & !(GENERATION_MASK << 8) == State::Dirty as u64
    }

    /// The word of a free unit, which has this one, when it is given to a lane.
    #[inline(always)]
    pub const fn taken_word(free: u64, lane: u32, lane_generation: u16) -> u64 {
        free & GENERATION_MASK << 8 | State::Owned as u64 | ((lane << 16 | lane_generation as u32) as u64) << 32
    }

    /// Whether the word is no other than that of a linked unit, or a damaged one.
    #[inline(always)]
    pub const fn says_linked(word: u64) -> bool {
        word & 7 == State::Live as u64
    }

    /// Whether the word is that of the inode with this number and generation.
    #[inline(always)]
    pub const fn is_inode(word: u64, inode: u64, generation: u32) -> bool {
        Owner::is_linked(word, Kind::Inode, inode) && word >> 8 & GENERATION_MASK == generation as u64
    }

    /// The word for this owner.
    pub const fn encode(self) -> u64 {
        self.state as u64
            | (self.kind as u64) << 3
            | (self.mapped as u64) << 7
            | (self.generation as u64 & GENERATION_MASK) << 8
            | (self.holder as u64) << 32
    }

    /// Whether the unit may be taken.
    pub fn is_free(&self) -> bool {
        matches!(self.state, State::Clean | State::Dirty)
    }

    /// The unit given to a lane.
    pub const fn taken_by(self, lane: u32, lane_generation: u16) -> Owner {
        Owner { state: State::Owned, kind: Kind::None, holder: lane << 16 | lane_generation as u32, ..self }
    }

    /// The unit linked to inode number `inode`.
    pub const fn linked(self, kind: Kind, inode: u32) -> Owner {
        Owner { state: State::Live, kind, holder: inode, ..self }
    }

    /// The unit given back.
    pub const fn freed(self) -> Owner {
        Owner {
            state: State::Dirty,
            kind: Kind::None,
            mapped: false,
            generation: (self.generation + 1) & GENERATION_MASK as u32,
            holder: 0,
        }
    }

    /// The unit unlinked while somebody may still touch it.
    pub const fn in_limbo(self) -> Owner {
        Owner { state: State::Limbo, ..self }
    }

    /// Lane and lane generation of an owned unit.
    pub const fn lane(self) -> (u32, u16) {
        (self.holder >> 16, self.holder as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flipped_bit_never_makes_a_linked_unit_free() {
        let live = Owner { state: State::Dirty, kind: Kind::None, mapped: false, generation: 77, holder: 0 };
        for kind in [Kind::Inode, Kind::Index, Kind::Extents, Kind::Blocks, Kind::Name, Kind::Data, Kind::Entry] {
            let word = live.linked(kind, 0x4321).encode();
            for bit in 0..64 {
                if let Some(found) = Owner::decode(word ^ 1 << bit) {
                    assert_eq!(found.state, State::Live, "bit {bit} of a unit that holds {kind:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_linked_is_what_decoding_says() {
        let mut seed = 5u64;
        for _ in 0..100_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let word = match seed >> 62 {
                0 => seed,
                1 => seed & !0x7f | State::Live as u64 | (Kind::Inode as u64) << 3,
                2 => seed & 0xffff_ff7f & !0x7f | State::Live as u64 | (Kind::Entry as u64) << 3 | 1 << 32,
                _ => seed & 0xffff_ffff,
            };
            for inode in [0, 1, word >> 32, 1 << 32 | word >> 32] {
                for kind in [Kind::None, Kind::Inode, Kind::Entry, Kind::Attributes] {
                    let said = Owner::decode(word).is_some_and(|owner| {
                        owner.state == State::Live && owner.kind == kind && owner.holder as u64 == inode
                    });
                    // Nothing asks for what holds nothing.
                    if kind != Kind::None {
                        assert_eq!(Owner::is_linked(word, kind, inode), said, "{word:#x}, {kind:?}, {inode}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_free_and_taken_is_what_decoding_says() {
        let mut seed = 9u64;
        for round in 0..100_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let word = match round % 4 {
                0 => seed,
                1 => seed & 0xffff_ffff,
                2 => seed & 0xffff_ff00 | State::Dirty as u64,
                _ => seed & 7,
            };
            let decoded = Owner::decode(word);
            assert_eq!(Owner::says_free(word), decoded.is_some_and(|owner| owner.is_free()), "{word:#x}");
            if let Some(owner) = decoded.filter(|owner| owner.is_free()) {
                let (lane, generation) = ((seed >> 48) as u32, seed as u16);
                assert_eq!(Owner::taken_word(word, lane, generation), owner.taken_by(lane, generation).encode());
            }
            if decoded.is_some_and(|owner| owner.state == State::Owned) {
                assert!(!Owner::says_linked(word), "{word:#x}");
            }
        }
    }

    #[test]
    fn every_word_that_decodes_encodes_to_itself() {
        let mut seed = 1u64;
        for _ in 0..100_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let word = if seed & 1 == 0 { seed } else { seed & 0xffff_ff07 };
            if let Some(owner) = Owner::decode(word) {
                assert_eq!(owner.encode(), word);
            }
        }
        assert_eq!(Owner::decode(0).unwrap().state, State::Clean);
    }
}
