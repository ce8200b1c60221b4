//! Chains of entries that lead away, or in rings.
//!
//! Invariant: an entry belongs to the one chain that its key leads to, in any order; and every entry that is linked to a directory
//! is in it. So of a word that leads to a whole entry of another chain, or back to one that its chain has met already, it is
//! known what it should say: what follows in this chain, if anything does, or else the one row of entries of this chain that
//! nothing leads to any more, or nothing. It is said only if every entry that this word leads to is then still found by its key,
//! so a repair never loses a name that was found; where there are several answers there is no repair.

use super::contents::{Place, belongs};
use super::entries::Entry;
use super::{ADOPTED, Fault, Lacking, Remedy, Walk};
use crate::NAME_LONGEST;
use crate::Result;
use crate::directory::{KEY, NEXT};
use crate::file_system::FileSystem;
use crate::inode::InodeId;
use crate::map_word::Target;
use crate::types::Caller;
use lifeboat_region::DAMAGED;
use lifeboat_region::layout::{CELL, ENTRY};
use lifeboat_region::owner::{Kind, Owner};
use lifeboat_region::space::{self, ChunkState, Class, Unit};

/// Entries behind a word that are looked at; with more there is no repair.
const LONGEST: usize = 64;

/// Offsets of a few entries.
struct Few {
    at: [u64; LONGEST],
    count: usize,
}

impl Few {
    const fn new() -> Few {
        Few { at: [0; LONGEST], count: 0 }
    }

    fn all(&self) -> &[u64] {
        &self.at[..self.count]
    }

    /// False when it is full.
    fn push(&mut self, at: u64) -> bool {
        let fits = self.count < LONGEST;
        if fits {
            self.at[self.count] = at;
            self.count += 1;
        }
        fits
    }
}

/// A chain: its directory, the word that leads to its first entry, how deep that is, and the digits on the way.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    pub(super) dir: InodeId,
    pub(super) head_at: u64,
    pub(super) depth: u32,
    pub(super) path: u64,
}

/// A whole entry that nothing leads to, and its directory.
#[derive(Clone, Copy)]
pub(super) struct LostName {
    dir: InodeId,
    at: u64,
}

/// An entry that nothing leads to.
pub(super) enum Unlinked {
    /// A name of this directory that this inode lost.
    Lost(InodeId, InodeId),
    /// The inode is called so there, by another entry: it got its name back.
    Replaced,
    /// It is not whole, its directory is not there, or another inode is called so.
    Unknown,
}

impl LostName {
    /// Names the inode as the entry says. The entry itself is found as replaced the next time, and freed.
    pub(super) fn give_back(&self, fs: &FileSystem, who: &Caller<'_>, inode: InodeId) -> Result<()> {
        let mut name = [0; NAME_LONGEST];
        let (length, _, _) = fs.entry(self.dir, self.at, &mut name)?;
        let name = &name[..length as usize];
        // A name, not a path.
        if name.contains(&b'/') || name.contains(&0) {
            return Err(DAMAGED);
        }
        fs.link(who, inode, self.dir, name)
    }
}

/// A word as if it said something else.
#[derive(Clone, Copy)]
struct Instead {
    at: u64,
    word: u64,
}

impl Walk<'_> {
    /// Whether the word at `link_at` leads out of the chain or back in it, and it is known what it should say, which is
    /// reported, and mended.
    pub(super) fn leads_astray(&mut self, chain: &Chain, link_at: u64) -> Result<bool> {
        let Some(at) = self.entry_behind(chain.dir, self.region().load(link_at)?)? else { return Ok(false) };
        let entry = self.entry_at(chain, at, link_at)?;
        let is_back = self.met.has_bit(at / ENTRY) && self.is_before(chain, at, link_at)?;
        if (entry.is_in_place() && !is_back) || !self.is_whole(&entry.where_its_key_leads())? {
            return Ok(false);
        }
        let lost = self.lost_entries(chain)?;
        let Some(right) = self.right_link(chain, at, link_at, lost.as_ref())? else { return Ok(false) };
        self.lose(chain.dir, Place::Chain);
        self.find_word(Fault::Shared(chain.dir.number(), at), Remedy::Recompute, link_at, right)?;
        for at in lost.iter().flat_map(Few::all) {
            self.marks.set_bit(at / ENTRY);
        }
        Ok(true)
    }

    /// Whether an entry that the word at `at` could lead to belongs behind that word by its key.
    pub(super) fn belongs_behind(&self, dir: InodeId, at: u64, place: Place, entry: u64) -> Result<bool> {
        let word = Target::Entry(entry).encode();
        let head_of = |key| {
            let read = |read_at| if read_at == at { Ok(word) } else { self.region().load(read_at) };
            Ok(self.fs.leaf(dir, key, &read).ok().map(|(head_at, _)| head_at))
        };
        let head_at = head_of(self.region().load(entry + KEY)?)?;
        Ok(match place {
            Place::Directory(_) => head_at == Some(at),
            Place::Chain => head_at.is_some() && head_at == head_of(self.region().load(at - NEXT + KEY)?)?,
            _ => true,
        })
    }

    /// The entry that a word leads to, if it is one of this directory.
    pub(super) fn entry_behind(&self, dir: InodeId, word: u64) -> Result<Option<u64>> {
        let Ok(Target::Entry(at)) = Target::decode(word) else { return Ok(None) };
        let Ok(owner_at) = space::find_owner(self.region(), Class::Entry, at) else { return Ok(None) };
        Ok(belongs(self.region().load(owner_at)?, Kind::Entry, dir.number()).then_some(at))
    }

    fn entry_at(&self, chain: &Chain, at: u64, link_at: u64) -> Result<Entry> {
        Entry::load(self.region(), chain.dir, at, link_at, (chain.depth, chain.path))
    }

    /// Whether the entry is met in the chain before the word at `link_at`.
    fn is_before(&self, chain: &Chain, entry: u64, link_at: u64) -> Result<bool> {
        let mut at = chain.head_at;
        for _ in 0..LONGEST {
            if at == link_at {
                return Ok(false);
            }
            match self.entry_behind(chain.dir, self.region().load(at)?)? {
                Some(next) if next == entry => return Ok(true),
                Some(next) => at = next + NEXT,
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Whether a look-up would come upon the entry if a word said something else.
    fn is_found(&self, dir: InodeId, entry: u64, instead: Instead) -> Result<bool> {
        let read = |at| if at == instead.at { Ok(instead.word) } else { self.region().load(at) };
        let Ok((mut at, _)) = self.fs.leaf(dir, self.region().load(entry + KEY)?, &read) else { return Ok(false) };
        for _ in 0..LONGEST {
            match self.entry_behind(dir, read(at)?)? {
                Some(next) if next == entry => return Ok(true),
                Some(next) => at = next + NEXT,
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    /// What the word at `link_at`, which leads astray to the entry at `first`, should say, if there is one answer.
    fn right_link(&self, chain: &Chain, first: u64, link_at: u64, lost: Option<&Few>) -> Result<Option<u64>> {
        let Some(lost) = lost else { return Ok(None) };
        let (mut behind, mut next_here, mut next) = (Few::new(), None, Some(first));
        while let Some(at) = next.filter(|at| !behind.all().contains(at)) {
            if !behind.push(at) {
                return Ok(None);
            }
            if next_here.is_none()
                && self.entry_at(chain, at, link_at)?.is_in_place()
                && !self.is_before(chain, at, link_at)?
            {
                next_here = Some(at);
            }
            next = self.entry_behind(chain.dir, self.region().load(at + NEXT)?)?;
        }
        let next_lost = match self.row_of(chain.dir, lost)? {
            Some(row) => row,
            None => return Ok(None),
        };
        let word = match (next_here, next_lost) {
            (Some(_), Some(_)) => return Ok(None),
            (Some(at), None) | (None, Some(at)) => Target::Entry(at).encode(),
            (None, None) => 0,
        };
        for &entry in behind.all() {
            if !self.is_found(chain.dir, entry, Instead { at: link_at, word })? {
                return Ok(None);
            }
        }
        Ok(Some(word))
    }

    /// The whole entries of a chain that nothing leads to any more, or only each other. `None` when there are too many.
    fn lost_entries(&self, chain: &Chain) -> Result<Option<Few>> {
        let region = self.region();
        let (mut lost, mut fits) = (Few::new(), true);
        for chunk in 0..region.geometry().chunks as u32 {
            let ChunkState::Used(Class::Entry) = space::chunk(region, chunk)?.1 else { continue };
            space::each_unit_of(region, chunk, Class::Entry, |unit, word| {
                if belongs(word, Kind::Entry, chain.dir.number())
                    && !self.marks.has_bit(unit.at / ENTRY)
                    && self.is_whole(&self.entry_at(chain, unit.at, 0)?)?
                {
                    fits &= lost.push(unit.at);
                }
                Ok(())
            })?;
        }
        Ok(fits.then_some(lost))
    }

    /// For each of these inodes, which lack a name, an entry that nothing leads to and that says how it was called: the only one,
    /// or any, if it lacks them all.
    pub(super) fn lost_names(&self, lacking: &[Option<Lacking>; ADOPTED]) -> Result<[Option<LostName>; ADOPTED]> {
        let (region, mut lost, mut twice) = (self.region(), [None; ADOPTED], [false; ADOPTED]);
        if lacking.iter().all(Option::is_none) {
            return Ok(lost);
        }
        for chunk in 0..region.geometry().chunks as u32 {
            let ChunkState::Used(Class::Entry) = space::chunk(region, chunk)?.1 else { continue };
            space::each_unit_of(region, chunk, Class::Entry, |unit, word| {
                if !self.marks.has_bit(unit.at / ENTRY)
                    && let Unlinked::Lost(dir, child) = self.unlinked_entry(&unit, word)?
                    && let Some(index) = lacking.iter().flatten().position(|lacking| lacking.inode == child)
                {
                    twice[index] |= lost[index].replace(LostName { dir, at: unit.at }).is_some();
                }
                Ok(())
            })?;
        }
        for ((lost, lacking), _) in lost.iter_mut().zip(lacking.iter().flatten()).zip(twice).filter(|(_, twice)| *twice)
        {
            *lost = lost.filter(|_| lacking.lacks_all);
        }
        Ok(lost)
    }

    /// What an entry that nothing leads to is.
    pub(super) fn unlinked_entry(&self, unit: &Unit, word: u64) -> Result<Unlinked> {
        let Some(dir) = self.directory_of(word)? else { return Ok(Unlinked::Unknown) };
        if !self.is_whole(&Entry::load(self.region(), dir, unit.at, 0, (0, 0))?)? {
            return Ok(Unlinked::Unknown);
        }
        let mut name = [0; NAME_LONGEST];
        let Ok((length, _, child)) = self.fs.entry(dir, unit.at, &mut name) else { return Ok(Unlinked::Unknown) };
        let found = self.fs.name(&name[..length as usize]).and_then(|name| self.fs.find(dir, &name));
        Ok(match found {
            Ok(Some(found)) if found.child == child => Unlinked::Replaced,
            // What it was called is another's name by now.
            Ok(Some(_)) => Unlinked::Unknown,
            _ => Unlinked::Lost(dir, child),
        })
    }

    /// The directory that an entry with this owner word belongs to.
    fn directory_of(&self, word: u64) -> Result<Option<InodeId>> {
        let Some(number) = Owner::decode(word).map(|owner| owner.holder as u64) else { return Ok(None) };
        let Ok(owner_at) = space::find_owner(self.region(), Class::Cell, number * CELL) else { return Ok(None) };
        let Some(cell) = Owner::decode(self.region().load(owner_at)?) else { return Ok(None) };
        let dir = InodeId::new(number, cell.generation);
        let is_there =
            belongs(word, Kind::Entry, number) && self.fs.validate(dir).is_ok() && self.fs.is_directory(dir)?;
        Ok(is_there.then_some(dir))
    }

    /// The first of lost entries, of which each leads to the next and the last to nothing; `Some(None)` when there are none, `None`
    /// when they are not such a row.
    fn row_of(&self, dir: InodeId, lost: &Few) -> Result<Option<Option<u64>>> {
        let follower = |at: u64| self.entry_behind(dir, self.region().load(at + NEXT)?);
        let mut first = None;
        for &at in lost.all() {
            let mut has_one_before = false;
            for &other in lost.all() {
                has_one_before |= follower(other)? == Some(at);
            }
            if !has_one_before && first.replace(at).is_some() {
                return Ok(None);
            }
        }
        let (mut at, mut met) = (first, 0);
        while let Some(here) = at.filter(|_| met < lost.count) {
            met += 1;
            if met == lost.count {
                return Ok((self.region().load(here + NEXT)? == 0).then_some(first));
            }
            at = follower(here)?.filter(|next| lost.all().contains(next));
        }
        Ok((lost.count == 0).then_some(None))
    }
}
