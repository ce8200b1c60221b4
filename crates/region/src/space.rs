//! Space: chunks of one class each, units taken by compare-exchange of their owner word. No free lists, no counters
//! that must agree: what is free is what its owner word says.
//!
//! A chunk word: bits 0..4 state (free, claimed, in use), 4..8 class, 8 "was used before: contents not zero", 16..32 the
//! complement of bits 0..16, 32..64 lane and lane generation of the claimer. Zero is a free chunk that was never used. A word
//! whose halves do not agree is no chunk of any class: nothing is taken from it, and what is in it cannot be reached.

use crate::image::Image;
use crate::lane::{CLAIM, Lane, OWNS_UNITS, claim_of};
use crate::layout::{BLOCK, CELL, CHUNK, ENTRY, EXTENT, OWNER, OWNERS_PER_CHUNK};
use crate::owner::{Kind, Owner, State};
use crate::region::Region;
use crate::witness::Words;
use crate::{DAMAGED, Errno, Result};
use core::sync::atomic::Ordering;
use lifeboat_kernels::MustFence;

const FREE: u64 = 0;
const IN_CLAIM: u64 = 1;
const IN_USE: u64 = 2;
const DIRTY: u64 = 1 << 8;
/// The bits that the complement speaks for.
const FIELDS: u64 = 0xffff;

/// The word with these fields and this claimer (in bits 32..64).
const fn seal(fields: u64, claimer: u64) -> u64 {
    fields & FIELDS | (!fields & FIELDS) << 16 | claimer
}

/// State, class and flag of a chunk; `None` when the word is one that no chunk has.
const fn fields(word: u64) -> Option<u64> {
    let fields = word & FIELDS;
    if word == 0 || (word >> 16 & FIELDS) == !fields & FIELDS { Some(fields) } else { None }
}

/// How many chunks of the wanted class are searched before a fresh one is opened. The search goes on where the last one
/// found something, so a unit that is in use is looked at once a round; opening fresh chunks sooner would spread a class over
/// all of them, and leave none for the others.
const SEARCHED_FIRST: u32 = 64;

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
    fn of_word(word: u64) -> Option<Class> {
        match (fields(word)? >> 4) & 15 {
            1 => Some(Class::Entry),
            2 => Some(Class::Cell),
            3 => Some(Class::Block),
            4 => Some(Class::Extent),
            _ => None,
        }
    }

    /// The word of a chunk that has units of this class; `dirty`: its flag, or 0.
    const fn word(self, dirty: u64) -> u64 {
        seal(IN_USE | (self as u64) << 4 | dirty, 0)
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

    const fn units(self) -> u64 {
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

fn state(word: u64) -> Option<u64> {
    fields(word).map(|fields| fields & 15)
}

fn chunk_word_at(region: &Region, chunk: u32) -> Result<u64> {
    if chunk as u64 >= region.geometry().chunks {
        return Err(DAMAGED);
    }
    Ok(region.geometry().chunk_words_at + chunk as u64 * 8)
}

/// Where the owner words of a chunk's units are: that of unit 0, and from one to the next.
fn owner_words(region: &Region, chunk: u32, class: Class) -> (u64, u64) {
    let g = region.geometry();
    let records = g.owners_at + chunk as u64 * OWNERS_PER_CHUNK * OWNER;
    match class {
        Class::Entry | Class::Cell => (g.data_at + chunk as u64 * CHUNK, 8),
        Class::Block => (records, OWNER),
        Class::Extent => (records, OWNER * (EXTENT / BLOCK)),
    }
}

fn owner_at(region: &Region, chunk: u32, class: Class, unit: u64) -> u64 {
    let (first, step) = owner_words(region, chunk, class);
    first + unit * step
}

fn data_at(region: &Region, chunk: u32, class: Class, unit: u64) -> u64 {
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

impl Lane<'_> {
    /// Takes a unit of `class`, owned by this lane until a transaction links it or [`Lane::release`] gives it back.
    /// `after` asks for the unit that follows the one at that offset, so that large files lie in runs. `NOSPC` when
    /// there is none.
    pub fn allocate(&self, class: Class, after: Option<u64>) -> Result<Unit> {
        self.note(OWNS_UNITS, 1)?;
        let search = Search { lane: self, region: self.region, class };
        if let Some(at) = after
            && let Some(unit) = search.exactly(at + class.size())?
        {
            return Ok(unit);
        }
        search.anywhere()
    }

    /// As [`Lane::allocate`], at the start of a chunk that nobody uses, if there is one.
    pub fn allocate_run(&self, class: Class) -> Result<Unit> {
        self.note(OWNS_UNITS, 1)?;
        let search = Search { lane: self, region: self.region, class };
        match search.in_fresh_chunk()? {
            Some(unit) => Ok(unit),
            None => search.anywhere(),
        }
    }

    /// Gives back a unit that this lane owns and never linked.
    pub fn release(&self, unit: Unit) -> Result<()> {
        let owner = Owner::decode(self.region.load(unit.owner_at)?).ok_or(DAMAGED)?;
        if owner.state != State::Owned || owner.lane() != (self.index, self.generation) {
            return Err(DAMAGED);
        }
        self.region.commit(unit.owner_at, owner.freed().encode(), MustFence::nothing())
    }
}

struct Search<'s, 'r> {
    lane: &'s Lane<'r>,
    region: &'r Region,
    class: Class,
}

impl Search<'_, '_> {
    fn exactly(&self, at: u64) -> Result<Option<Unit>> {
        let g = self.region.geometry();
        let Some(inside) = at.checked_sub(g.data_at) else { return Ok(None) };
        let chunk = inside / CHUNK;
        if chunk >= g.chunks || inside.is_multiple_of(CHUNK) {
            return Ok(None);
        }
        let unit = inside % CHUNK / self.class.size();
        self.take(chunk as u32, unit)
    }

    /// Takes one unit if it is free and its chunk has the class.
    fn take(&self, chunk: u32, unit: u64) -> Result<Option<Unit>> {
        let word_at = chunk_word_at(self.region, chunk)?;
        let before = self.region.load(word_at)?;
        if state(before) != Some(IN_USE) || Class::of_word(before) != Some(self.class) {
            return Ok(None);
        }
        let owner_at = owner_at(self.region, chunk, self.class, unit);
        let word = self.region.load(owner_at)?;
        // A damaged word is a unit that cannot be used; `check` names it.
        let Some(owner) = Owner::decode(word).filter(|owner| owner.is_free()) else { return Ok(None) };
        let mine = owner.taken_by(self.lane.index, self.lane.generation).encode();
        if !self.region.commit_exchange(owner_at, word, mine, MustFence::nothing())? {
            return Ok(None);
        }
        // Somebody may be turning an empty chunk into another class: then either they see our word, or we see theirs.
        let after = self.region.word(word_at)?.load(Ordering::SeqCst);
        if state(after) != Some(IN_USE) || Class::of_word(after) != Some(self.class) {
            self.region.commit_exchange(owner_at, mine, word, MustFence::nothing())?;
            return Ok(None);
        }
        self.lane.remember(owner_at)?;
        let clean = owner.state == State::Clean && after & DIRTY == 0;
        let at = data_at(self.region, chunk, self.class, unit);
        Ok(Some(Unit { class: self.class, owner_at, at, clean }))
    }

    fn in_chunk(&self, chunk: u32, from: u64) -> Result<Option<Unit>> {
        for unit in from.max(self.class.first_unit())..self.class.units() {
            if let Some(found) = self.take(chunk, unit)? {
                self.remember(chunk, unit + 1);
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn remember(&self, chunk: u32, unit: u64) {
        self.region.cursors[self.class as usize].store((chunk as u64) << 32 | unit, Ordering::Relaxed);
    }

    fn is_of_class(&self, chunk: u32) -> Result<bool> {
        let word = self.region.load(chunk_word_at(self.region, chunk)?)?;
        Ok(state(word) == Some(IN_USE) && Class::of_word(word) == Some(self.class))
    }

    fn anywhere(&self) -> Result<Unit> {
        let chunks = self.region.geometry().chunks as u32;
        let cursor = self.region.cursors[self.class as usize].load(Ordering::Relaxed);
        // Processes without a cursor start at different places.
        let (current, unit) = match cursor {
            u64::MAX => (self.lane.index.wrapping_mul(7919) % chunks, 0),
            known => ((known >> 32) as u32 % chunks, known as u32 as u64),
        };
        if self.is_of_class(current)?
            && let Some(found) = self.in_chunk(current, unit)?
        {
            return Ok(found);
        }
        let mut searched = 0;
        for step in 1..=chunks.min(4096) {
            let chunk = (current + step) % chunks;
            if self.is_of_class(chunk)? {
                if let Some(found) = self.in_chunk(chunk, 0)? {
                    return Ok(found);
                }
                searched += 1;
                if searched == SEARCHED_FIRST {
                    break;
                }
            }
        }
        if let Some(found) = self.in_fresh_chunk()? {
            return Ok(found);
        }
        for chunk in 0..chunks {
            if self.is_of_class(chunk)?
                && let Some(found) = self.in_chunk(chunk, 0)?
            {
                return Ok(found);
            }
        }
        if self.empty_a_chunk()?
            && let Some(found) = self.in_fresh_chunk()?
        {
            return Ok(found);
        }
        Err(Errno::NOSPC)
    }

    /// Opens a free chunk for the class.
    fn in_fresh_chunk(&self) -> Result<Option<Unit>> {
        let chunks = self.region.geometry().chunks as u32;
        let start = self.region.chunk_cursor.load(Ordering::Relaxed);
        for step in 0..chunks {
            let chunk = (start + step) % chunks;
            let word_at = chunk_word_at(self.region, chunk)?;
            let word = self.region.load(word_at)?;
            if state(word) != Some(FREE) || !self.claim_chunk(word_at, word)? {
                continue;
            }
            self.clear_owner_words(chunk, word & DIRTY != 0)?;
            self.region.commit(word_at, self.class.word(word & DIRTY), MustFence::nothing())?;
            self.region.chunk_cursor.store((chunk + 1) % chunks, Ordering::Relaxed);
            if let Some(found) = self.in_chunk(chunk, 0)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn claim_chunk(&self, word_at: u64, word: u64) -> Result<bool> {
        let holder = (self.lane.index as u64) << 48 | (self.lane.generation as u64) << 32;
        let claimed = seal((word & (15 << 4 | DIRTY)) | IN_CLAIM, holder);
        self.region.commit_exchange(word_at, word, claimed, MustFence::nothing())
    }

    /// Small units keep their owner words in the chunk, where an earlier class may have left anything.
    fn clear_owner_words(&self, chunk: u32, dirty: bool) -> Result<()> {
        if dirty && self.class.first_unit() > 0 {
            let at = self.region.geometry().data_at + chunk as u64 * CHUNK;
            self.region.zero(at, (self.class.units() * 8) as usize)?.fence();
        }
        Ok(())
    }

    /// Turns one chunk of another class, all of whose units are free, into a free chunk.
    fn empty_a_chunk(&self) -> Result<bool> {
        for chunk in 0..self.region.geometry().chunks as u32 {
            let word_at = chunk_word_at(self.region, chunk)?;
            let word = self.region.load(word_at)?;
            let Some(class) = Class::of_word(word) else { continue };
            if state(word) != Some(IN_USE) || class == self.class || !all_free(self.region, chunk, class)? {
                continue;
            }
            if !self.claim_chunk(word_at, word)? {
                continue;
            }
            // Again, now that nobody can take a unit unseen.
            if all_free(self.region, chunk, class)? {
                self.region.commit(word_at, seal(FREE | DIRTY, 0), MustFence::nothing())?;
                return Ok(true);
            }
            self.region.commit(word_at, word, MustFence::nothing())?;
        }
        Ok(false)
    }
}

fn all_free(region: &Region, chunk: u32, class: Class) -> Result<bool> {
    for unit in class.first_unit()..class.units() {
        let word = region.word(owner_at(region, chunk, class, unit))?.load(Ordering::SeqCst);
        if !Owner::decode(word).is_some_and(|owner| owner.is_free()) {
            return Ok(false);
        }
    }
    Ok(true)
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
