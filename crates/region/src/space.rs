//! Space: chunks of one class each, units taken by compare-exchange of their owner word. No free lists, no counters
//! that must agree: what is free is what its owner word says. (`search` takes them.)
//!
//! A chunk word: bits 0..4 state (free, claimed, in use), 4..8 class, 8 "was used before: contents not zero", 16..32 the
//! complement of bits 0..16, 32..64 lane and lane generation of the claimer. Zero is a free chunk that was never used. A word
//! whose halves do not agree is no chunk of any class: nothing is taken from it, and what is in it cannot be reached.

use crate::image::Image;
use crate::lane::{CLAIM, claim_of};
use crate::layout::{BLOCK, CELL, CHUNK, ENTRY, EXTENT, OWNER, OWNERS_PER_CHUNK};
use crate::owner::{Kind, Owner, State};
use crate::region::Region;
use crate::witness::Words;
use crate::{DAMAGED, Result};
use lifeboat_kernels::MustFence;

pub(crate) const FREE: u64 = 0;
pub(crate) const IN_CLAIM: u64 = 1;
pub(crate) const IN_USE: u64 = 2;
pub(crate) const DIRTY: u64 = 1 << 8;
/// The bits that the complement speaks for.
const FIELDS: u64 = 0xffff;

/// The word with these fields and this claimer (in bits 32..64).
pub(crate) const fn seal(fields: u64, claimer: u64) -> u64 {
    fields & FIELDS | (!fields & FIELDS) << 16 | claimer
}

/// State, class and flag of a chunk; `None` when the word is one that no chunk has.
const fn fields(word: u64) -> Option<u64> {
    let fields = word & FIELDS;
    if word == 0 || (word >> 16 & FIELDS) == !fields & FIELDS { Some(fields) } else { None }
}

/// Class of a chunk: the size of its units.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Class {
    /// 64 bytes.
    Entry = 1,
    /// 256 bytes.
    Cell = 2,
    /// 4 KiB.
    Block = 3,
    /// 64 KiB.
    Extent = 4,
}

impl Class {
    pub(crate) fn of_word(word: u64) -> Option<Class> {
        match (fields(word)? >> 4) & 15 {
            1 => Some(Class::Entry),
            2 => Some(Class::Cell),
            3 => Some(Class::Block),
            4 => Some(Class::Extent),
            _ => None,
        }
    }

    /// The word of a chunk that has units of this class; `dirty`: its flag, or 0.
    pub(crate) const fn word(self, dirty: u64) -> u64 {
        seal(IN_USE | (self as u64) << 4 | dirty, 0)
    }

    /// Whether the word is that of a chunk in use which has units of this class.
    #[inline(always)]
    pub(crate) fn has(self, word: u64) -> bool {
        let is_usual = word == self.word(0) || word == self.word(DIRTY);
        is_usual || (state(word) == Some(IN_USE) && Class::of_word(word) == Some(self))
    }

    /// Bytes of a unit.
    pub const fn size(self) -> u64 {
        match self {
            Class::Entry => ENTRY,
            Class::Cell => CELL,
            Class::Block => BLOCK,
            Class::Extent => EXTENT,
        }
    }

    #[inline]
    pub(crate) const fn units(self) -> u64 {
        CHUNK / self.size()
    }

    /// The first units of a chunk of small units hold the owner words of the others.
    /// Number of the first unit of a chunk that can hold something.
    pub const fn first_unit(self) -> u64 {
        match self {
            Class::Entry | Class::Cell => self.units() * 8 / self.size(),
            Class::Block | Class::Extent => 0,
        }
    }
}

/// A unit of space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its size class.
    pub class: Class,
    /// Offset of its owner word.
    pub owner_at: u64,
    /// Offset of its bytes.
    pub at: u64,
    /// Whether its bytes are known to be zero.
    pub clean: bool,
}

pub(crate) fn state(word: u64) -> Option<u64> {
    fields(word).map(|fields| fields & 15)
}

#[inline]
pub(crate) fn chunk_word_at(region: &Region, chunk: u32) -> Result<u64> {
    if chunk as u64 >= region.geometry().chunks {
        return Err(DAMAGED);
    }
    Ok(region.geometry().chunk_words_at + chunk as u64 * 8)
}

/// Where the owner words of a chunk's units are: that of unit 0, and from one to the next.
#[inline]
pub(crate) fn owner_words(region: &Region, chunk: u32, class: Class) -> (u64, u64) {
    let g = region.geometry();
    let records = g.owners_at + chunk as u64 * OWNERS_PER_CHUNK * OWNER;
    match class {
        Class::Entry | Class::Cell => (g.data_at + chunk as u64 * CHUNK, 8),
        Class::Block => (records, OWNER),
        Class::Extent => (records, OWNER * (EXTENT / BLOCK)),
    }
}

pub(crate) fn owner_at(region: &Region, chunk: u32, class: Class, unit: u64) -> u64 {
    let (first, step) = owner_words(region, chunk, class);
    first + unit * step
}

#[inline]
pub(crate) fn data_at(region: &Region, chunk: u32, class: Class, unit: u64) -> u64 {
    region.geometry().data_at + chunk as u64 * CHUNK + unit * class.size()
}

/// Where the owner word of the unit at `at` lies; [`DAMAGED`] when there is no unit of that class there. Inlined, because
/// callers know the class: then sizes are constants, and nothing is divided.
#[inline(always)]
pub fn find_owner(words: &impl Words, class: Class, at: u64) -> Result<u64> {
    let region = words.region();
    let g = region.geometry();
    let inside = at.checked_sub(g.data_at).ok_or(DAMAGED)?;
    let chunk = inside / CHUNK;
    if chunk >= g.chunks || !inside.is_multiple_of(class.size()) {
        return Err(DAMAGED);
    }
    let word = words.load(g.chunk_words_at + chunk * 8)?;
    let unit = inside % CHUNK / class.size();
    let is_of_class = word == class.word(0) || word == class.word(DIRTY) || Class::of_word(word) == Some(class);
    if !is_of_class || unit < class.first_unit() {
        return Err(DAMAGED);
    }
    Ok(owner_at(region, chunk as u32, class, unit))
}

/// Whether the unit of `class` at `at` is linked to the inode with this number and holds `kind`, or did so a moment ago (in
/// limbo). Its owner word's offset; [`DAMAGED`] otherwise: what refers to it there is wrong, or the owner word is.
#[inline(always)]
pub fn expect(words: &impl Words, class: Class, at: u64, kind: Kind, inode: u64) -> Result<u64> {
    let owner_at = find_owner(words, class, at)?;
    let word = words.load(owner_at)?;
    let is_in_limbo = || {
        let owner = Owner::decode(word).filter(|owner| owner.state == State::Limbo);
        owner.is_some_and(|owner| owner.kind == kind && owner.holder as u64 == inode)
    };
    if Owner::is_linked(word, kind, inode) || is_in_limbo() { Ok(owner_at) } else { Err(DAMAGED) }
}

/// What a chunk word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkState {
    /// Nobody uses it.
    Free,
    /// A lane is turning it from one class to another: lane and its generation.
    Claimed(u32, u16),
    /// It has units of this class.
    Used(Class),
    /// It is no word that a chunk can have.
    Damaged,
}

/// Offset of the word of chunk `chunk`, and what it says.
pub fn chunk(region: &Region, chunk: u32) -> Result<(u64, ChunkState)> {
    let at = chunk_word_at(region, chunk)?;
    let word = region.load(at)?;
    let said = match (state(word), Class::of_word(word)) {
        (Some(FREE), _) if word & 0xf0 == 0 => ChunkState::Free,
        (Some(IN_CLAIM), _) => ChunkState::Claimed((word >> 48) as u32, (word >> 32) as u16),
        (Some(IN_USE), Some(class)) => ChunkState::Used(class),
        _ => ChunkState::Damaged,
    };
    Ok((at, said))
}

/// The word of a chunk that was used before: free, or with units of a class.
pub const fn chunk_word(class: Option<Class>) -> u64 {
    match class {
        Some(class) => class.word(DIRTY),
        None => seal(FREE | DIRTY, 0),
    }
}

/// Number of the chunk that the byte at `at` lies in.
pub fn chunk_of(region: &Region, at: u64) -> Option<u32> {
    let chunk = at.checked_sub(region.geometry().data_at)? / CHUNK;
    (chunk < region.geometry().chunks).then_some(chunk as u32)
}

/// Calls `each` with every unit of chunk `chunk` that is not clean, as if it had units of `class`, and its owner word.
pub fn each_unit_of(
    region: &Region,
    chunk: u32,
    class: Class,
    mut each: impl FnMut(Unit, u64) -> Result<()>,
) -> Result<()> {
    let (first, step) = owner_words(region, chunk, class);
    for unit in class.first_unit()..class.units() {
        let owner_at = first + unit * step;
        // Most of a region is clean: such units are passed over before anything else is asked.
        match region.load(owner_at)? {
            0 => {}
            word => each(Unit { class, owner_at, at: data_at(region, chunk, class, unit), clean: false }, word)?,
        }
    }
    Ok(())
}

/// Calls `each` for every unit of every chunk in use that is not clean and whose owner word can be read.
pub fn each_unit(region: &Region, mut each: impl FnMut(Unit, Owner) -> Result<()>) -> Result<()> {
    (0..region.geometry().chunks as u32).try_for_each(|chunk| each_unit_of_chunk(region, chunk, &mut each))
}

/// As [`each_unit`], of one chunk.
pub fn each_unit_of_chunk(region: &Region, chunk: u32, mut each: impl FnMut(Unit, Owner) -> Result<()>) -> Result<()> {
    let Some(class) = Class::of_word(region.load(chunk_word_at(region, chunk)?)?) else { return Ok(()) };
    each_unit_of(region, chunk, class, |unit, word| match Owner::decode(word) {
        Some(owner) => each(unit, owner),
        None => Ok(()),
    })
}

/// Free and used bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpaceUse {
    /// Bytes in chunks that nobody opened.
    pub unopened: u64,
    /// Free bytes in opened chunks of data units.
    pub free_in_data: u64,
    /// Free cells.
    pub free_cells: u64,
    /// Bytes of all chunks.
    pub total: u64,
    /// Live inodes.
    pub inodes: u64,
}

/// Counts what is used and free by reading every owner word.
pub fn count(region: &Region) -> Result<SpaceUse> {
    let mut used = SpaceUse { total: region.geometry().chunks * CHUNK, ..SpaceUse::default() };
    for chunk in 0..region.geometry().chunks as u32 {
        let word = region.load(chunk_word_at(region, chunk)?)?;
        if state(word) == Some(FREE) {
            used.unopened += CHUNK;
        }
        let Some(class) = Class::of_word(word) else { continue };
        let mut free = class.units() - class.first_unit();
        each_unit_of(region, chunk, class, |_, word| {
            let owner = Owner::decode(word);
            free -= u64::from(!owner.is_some_and(|owner| owner.is_free()));
            used.inodes +=
                u64::from(owner.is_some_and(|owner| owner.state == State::Live && owner.kind == Kind::Inode));
            Ok(())
        })?;
        match class {
            Class::Block | Class::Extent => used.free_in_data += free * class.size(),
            Class::Cell => used.free_cells += free,
            Class::Entry => {}
        }
    }
    Ok(used)
}

/// Frees every unit and chunk that lanes of a dead image own.
pub(crate) fn reclaim_owned(region: &Region, dead: Image) -> Result<()> {
    let is_dead = |lane: u32, generation: u16| -> Result<bool> {
        let claim = claim_of(region.load(region.lane_at(lane)? + CLAIM)?);
        Ok(claim.is_some_and(|claim| claim.generation == generation && claim.image == dead))
    };
    for chunk in 0..region.geometry().chunks as u32 {
        let word_at = chunk_word_at(region, chunk)?;
        let word = region.load(word_at)?;
        if state(word) == Some(IN_CLAIM) && is_dead((word >> 48) as u32, (word >> 32) as u16)? {
            // A claimed chunk has no linked unit: it was free, or found empty. If the claimer died between its second
            // look and giving the chunk back, the class is still there and the units are examined below.
            let restored =
                if Class::of_word(word).is_some() { word & (15 << 4 | DIRTY) | IN_USE } else { FREE | DIRTY };
            region.commit(word_at, seal(restored, 0), MustFence::nothing())?;
        }
    }
    each_unit(region, |unit, owner| {
        let (lane, generation) = owner.lane();
        if owner.state == State::Owned && is_dead(lane, generation)? {
            region.commit(unit.owner_at, owner.freed().encode(), MustFence::nothing())?;
        }
        Ok(())
    })
}
