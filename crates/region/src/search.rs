//! The search for free units, and for chunks to open. What is free is what its owner word says; everything that is kept here beside
//! that is where to look first, memory of this process alone.

use crate::lane::{Lane, OWNS_UNITS};
use crate::layout::CHUNK;
use crate::owner::{Owner, State};
use crate::region::Region;
use crate::space::{
    Class, DIRTY, FREE, IN_CLAIM, IN_USE, Unit, chunk_of, chunk_word_at, data_at, owner_at, owner_words, seal, state,
};
use crate::{DAMAGED, Errno, Result};
use core::sync::atomic::{AtomicU64 as PrivateWord, Ordering};
use lifeboat_kernels::MustFence;

/// How many chunks of the wanted class are searched before a fresh one is opened. The search goes on where the last one
/// found something, so a unit that is in use is looked at once a round; opening fresh chunks sooner would spread a class over
/// all of them, and leave none for the others.
const SEARCHED_FIRST: u32 = 64;

/// Units behind the last one found that are looked at before those that were freed lately.
const NEARBY: u64 = 128;
/// Chunks that are looked at for so many units of the class.
const NEARBY_CHUNKS: u32 = 64;

/// In place of a unit: none.
const NOWHERE: u64 = u64::MAX;

impl Lane<'_> {
    /// Takes a unit of `class`, owned by this lane until a transaction links it or [`Lane::release`] gives it back.
    /// `after` asks for the unit that follows the one at that offset, so that large files lie in runs. `NOSPC` when
    /// there is none.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn allocate(&self, class: Class, after: Option<u64>) -> Result<Unit> {
        self.note(OWNS_UNITS, 1)?;
        let search = Search { lane: self, region: self.region, class };
        if let Some(at) = after
            && let Some(unit) = search.exactly(at + class.size())?
        {
            return Ok(unit);
        }
        match search.next()? {
            Some(unit) => Ok(unit),
            None => search.anywhere(),
        }
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

    /// As [`Lane::allocate`] in a region that has no units of any class yet: the first that there is, wherever this thread runs.
    pub fn allocate_first(&self, class: Class) -> Result<Unit> {
        self.note(OWNS_UNITS, 1)?;
        self.region.chunk_cursor.store(0, Ordering::Relaxed);
        Search { lane: self, region: self.region, class }.in_fresh_chunk()?.ok_or(Errno::NOSPC)
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

/// Units of one class that this process freed lately. Where little is free, whoever goes on where the last search ended would look at
/// thousands of words; these are looked at before.
pub(crate) struct FreedLately {
    /// How many were ever noted, less those that were taken again.
    count: PrivateWord,
    /// Chunk in bits 32.., unit in bits ..32. What stands here may be another's by now, or nobody's: it is a place to look.
    places: [PrivateWord; FREED_LATELY],
}

/// So many of each class.
const FREED_LATELY: usize = 32;

impl FreedLately {
    pub(crate) const fn new() -> FreedLately {
        FreedLately { count: PrivateWord::new(0), places: [const { PrivateWord::new(NOWHERE) }; FREED_LATELY] }
    }

    fn note(&self, chunk: u32, unit: u64) {
        let count = self.count.load(Ordering::Relaxed);
        self.places[count as usize % FREED_LATELY].store((chunk as u64) << 32 | unit, Ordering::Relaxed);
        self.count.store(count.wrapping_add(1), Ordering::Relaxed);
    }

    /// The newest, which is forgotten.
    fn take(&self) -> Option<(u32, u64)> {
        let last = self.count.load(Ordering::Relaxed).wrapping_sub(1);
        let place = &self.places[last as usize % FREED_LATELY];
        let known = place.load(Ordering::Relaxed);
        if known == NOWHERE {
            return None;
        }
        place.store(NOWHERE, Ordering::Relaxed);
        self.count.store(last, Ordering::Relaxed);
        Some(((known >> 32) as u32, known as u32 as u64))
    }
}

/// Notes that the small unit with this owner word was just freed. (Where there is none, the note leads to nothing.)
pub fn note_freed(region: &Region, owner_at: u64) {
    let Some(chunk) = chunk_of(region, owner_at) else { return };
    let Ok(word) = chunk_word_at(region, chunk).and_then(|at| region.load(at)) else { return };
    let class = if Class::Entry.has(word) { Class::Entry } else { Class::Cell };
    region.freed[class as usize].note(chunk, (owner_at - region.geometry().data_at) % CHUNK / 8);
}

struct Search<'s, 'r> {
    lane: &'s Lane<'r>,
    region: &'r Region,
    class: Class,
}

/// A chunk that has units of the wanted class.
struct Opened {
    number: u32,
    word_at: u64,
    /// Owner word of its first unit, and from one to the next.
    owners: (u64, u64),
}

impl Search<'_, '_> {
    #[inline(never)]
    fn exactly(&self, at: u64) -> Result<Option<Unit>> {
        let g = self.region.geometry();
        let Some(inside) = at.checked_sub(g.data_at) else { return Ok(None) };
        let chunk = inside / CHUNK;
        if chunk >= g.chunks || inside.is_multiple_of(CHUNK) {
            return Ok(None);
        }
        let unit = inside % CHUNK / self.class.size();
        match self.opened(chunk as u32)? {
            Some(opened) => self.take(&opened, unit),
            None => Ok(None),
        }
    }

    /// The chunk, if it has units of the class.
    #[inline(always)]
    fn opened(&self, chunk: u32) -> Result<Option<Opened>> {
        let word_at = chunk_word_at(self.region, chunk)?;
        if !self.class.has(self.region.load(word_at)?) {
            return Ok(None);
        }
        Ok(Some(Opened { number: chunk, word_at, owners: owner_words(self.region, chunk, self.class) }))
    }

    /// Takes one unit of the chunk if it is free.
    #[inline(always)]
    fn take(&self, opened: &Opened, unit: u64) -> Result<Option<Unit>> {
        let owner_at = opened.owners.0 + unit * opened.owners.1;
        let word = self.region.load(owner_at)?;
        // A damaged word is a unit that cannot be used; `check` names it.
        if !Owner::says_free(word) {
            return Ok(None);
        }
        let mine = Owner::taken_word(word, self.lane.index, self.lane.generation);
        if !self.region.commit_exchange(owner_at, word, mine, MustFence::nothing())? {
            return Ok(None);
        }
        // Somebody may be turning an empty chunk into another class: then either they see our word, or we see theirs.
        let after = self.region.word(opened.word_at)?.load(Ordering::SeqCst);
        if !self.class.has(after) {
            self.region.commit_exchange(owner_at, mine, word, MustFence::nothing())?;
            return Ok(None);
        }
        self.lane.remember(owner_at)?;
        let at = data_at(self.region, opened.number, self.class, unit);
        Ok(Some(Unit { class: self.class, owner_at, at, clean: word == 0 && after & DIRTY == 0 }))
    }

    /// Takes a unit of the chunk from this one on, of so many.
    fn in_chunk(&self, opened: &Opened, from: u64, many: u64) -> Result<Option<Unit>> {
        let from = from.max(self.class.first_unit());
        for unit in from..self.class.units().min(from.saturating_add(many)) {
            if let Some(found) = self.take(opened, unit)? {
                self.remember(opened.number, unit + 1);
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn remember(&self, chunk: u32, unit: u64) {
        self.region.cursors[self.class as usize].store((chunk as u64) << 32 | unit, Ordering::Relaxed);
    }

    /// Takes a unit of the chunk, if that has units of the class.
    fn in_any_of(&self, chunk: u32) -> Result<Option<Unit>> {
        match self.opened(chunk)? {
            Some(opened) => self.in_chunk(&opened, 0, u64::MAX),
            None => Ok(None),
        }
    }

    /// Takes a unit that this process freed lately.
    fn freed_lately(&self) -> Result<Option<Unit>> {
        while let Some((chunk, unit)) = self.region.freed[self.class as usize].take() {
            if let Some(opened) = self.opened(chunk)?
                && unit >= self.class.first_unit()
                && unit < self.class.units()
                && let Some(found) = self.take(&opened, unit)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Takes the unit behind the one found last, which most often is free. Inlined, because callers know the class.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn next(&self) -> Result<Option<Unit>> {
        let cursor = self.region.cursors[self.class as usize].load(Ordering::Relaxed);
        let (chunk, unit) = (cursor >> 32, cursor as u32 as u64);
        let is_unit = (self.class.first_unit()..self.class.units()).contains(&unit);
        if chunk >= self.region.geometry().chunks || !is_unit {
            return Ok(None);
        }
        let Some(opened) = self.opened(chunk as u32)? else { return Ok(None) };
        let found = self.take(&opened, unit)?;
        if found.is_some() {
            self.remember(opened.number, unit + 1);
        }
        Ok(found)
    }

    /// Goes on where the last search ended.
    #[inline(never)]
    fn anywhere(&self) -> Result<Unit> {
        let chunks = self.region.geometry().chunks as u32;
        let cursor = self.region.cursors[self.class as usize].load(Ordering::Relaxed);
        // Processes without a cursor start at different places.
        let (current, unit) = match cursor {
            u64::MAX => {
                let near = self.region.near_chunks();
                (near.start + self.lane.index.wrapping_mul(7919) % near.len().max(1) as u32, 0)
            }
            known if known >> 32 < chunks as u64 => ((known >> 32) as u32, known as u32 as u64),
            _ => (0, 0),
        };
        if let Some(found) = self.nearby(current, unit)? {
            return Ok(found);
        }
        match self.freed_lately()? {
            Some(found) => Ok(found),
            None => self.far_from(current),
        }
    }

    /// Takes one of the next units, of which not so many are looked at that it takes long. Where none is free, the next search goes on
    /// behind them: so every free unit has its turn, and what was freed last is not used up again and again.
    fn nearby(&self, current: u32, unit: u64) -> Result<Option<Unit>> {
        let chunks = self.region.geometry().chunks as u32;
        let (mut chunk, mut unit, mut left) = (current, unit, NEARBY);
        for _ in 0..=chunks.min(NEARBY_CHUNKS) {
            if let Some(opened) = self.opened(chunk)? {
                unit = unit.max(self.class.first_unit());
                let here = self.class.units().saturating_sub(unit).min(left);
                if let Some(found) = self.in_chunk(&opened, unit, here)? {
                    return Ok(Some(found));
                }
                left -= here;
                if left == 0 {
                    self.remember(chunk, unit + here);
                    return Ok(None);
                }
            }
            (chunk, unit) = ((chunk + 1) % chunks, 0);
        }
        self.remember(chunk, 0);
        Ok(None)
    }

    #[cold]
    #[inline(never)]
    fn far_from(&self, current: u32) -> Result<Unit> {
        let chunks = self.region.geometry().chunks as u32;
        let mut searched = 0;
        for step in 0..=chunks.min(4096) {
            let chunk = (current + step) % chunks;
            if let Some(opened) = self.opened(chunk)? {
                if let Some(found) = self.in_chunk(&opened, 0, u64::MAX)? {
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
            if let Some(found) = self.in_any_of(chunk)? {
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
        let start = match self.region.chunk_cursor.load(Ordering::Relaxed) {
            u32::MAX => self.region.near_chunks().start,
            known => known,
        };
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
            if let Some(found) = self.in_any_of(chunk)? {
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
