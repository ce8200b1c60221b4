//! Directories: their indices, the chains of entries, and what the entries say.

use super::chains::Chain;
use super::contents::{Place, belongs};
use super::{Fault, Phase, Remedy, Walk, flipped_back};
use crate::directory::{CHILD, INFO, KEY, NAME, NAME_INLINE, NEXT, ORDINALS, digit, sealed_info};
use crate::inode::{self, InodeId, entry_kind};
use crate::map_word::{INDEX_WORDS, Target};
use crate::{NAME_LONGEST, Result};
use lifeboat_region::layout::ENTRY;
use lifeboat_region::owner::{Kind, Owner};
use lifeboat_region::space::{self, ChunkState, Class};
use lifeboat_region::{DAMAGED, MustFence, Region};

/// An entry's words, and where it is.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    dir: InodeId,
    at: u64,
    /// Offset of the word that refers to it.
    link_at: u64,
    depth: u32,
    /// The digits on the way to it.
    path: u64,
    words: [u64; 3],
}

const FIELDS: [u64; 3] = [KEY, CHILD, INFO];

impl Entry {
    /// The entry at `at`, which the word at `link_at` refers to, with depth and digits of the chain.
    pub(super) fn load(
        region: &Region,
        dir: InodeId,
        at: u64,
        link_at: u64,
        (depth, path): (u32, u64),
    ) -> Result<Entry> {
        let word = |field| region.load(at + field);
        Ok(Entry { dir, at, link_at, depth, path, words: [word(KEY)?, word(CHILD)?, word(INFO)?] })
    }

    /// The entry as if it were met where its key leads.
    pub(super) fn where_its_key_leads(mut self) -> Entry {
        (self.depth, self.path) = (0, 0);
        self
    }

    fn key(&self) -> u64 {
        self.words[0]
    }

    fn child(&self) -> InodeId {
        InodeId::from_word(self.words[1])
    }

    fn info(&self) -> u64 {
        self.words[2]
    }

    fn name_length(&self) -> usize {
        self.info() as u8 as usize
    }

    /// Offset of the cell of a long name; 0 when the name is in the entry.
    fn long_at(&self) -> u64 {
        (self.info() >> 24) << 6
    }

    fn sum_is_right(&self) -> bool {
        sealed_info(self.key(), self.words[1], self.info()) == self.info()
    }

    /// Whether the key leads to where the entry is.
    pub(super) fn is_in_place(&self) -> bool {
        let digits = (0..self.depth).fold(0, |path, depth| path << 5 | digit(self.key(), depth));
        self.key() >> 63 == 0 && digits == self.path
    }
}

impl Walk<'_> {
    /// The entries of a directory; nothing of other inodes.
    pub(super) fn names_in(&mut self, inode: InodeId) -> Result<()> {
        if self.fs.is_directory(inode)? {
            return self.directory(inode, inode.at() + inode::ROOT, 0, 0, &mut 0);
        }
        Ok(())
    }

    pub(super) fn directory(&mut self, dir: InodeId, at: u64, depth: u32, path: u64, names: &mut u64) -> Result<()> {
        let chain = Chain { dir, head_at: at, depth, path };
        if self.phase == Phase::Judge && self.leads_astray(&chain, at)? {
            return Ok(());
        }
        match self.word(dir, at, Place::Directory(depth))? {
            Some(Target::Index(node, _)) => {
                for index in 0..INDEX_WORDS {
                    self.directory(dir, node + index * 8, depth + 1, path << 5 | index, names)?;
                }
                Ok(())
            }
            Some(Target::Entry(first)) => self.chain(&chain, first, names),
            _ => Ok(()),
        }
    }

    fn chain(&mut self, chain: &Chain, first: u64, names: &mut u64) -> Result<()> {
        let (mut link_at, mut at) = (chain.head_at, first);
        loop {
            let entry = Entry::load(self.region(), chain.dir, at, link_at, (chain.depth, chain.path))?;
            match self.phase {
                Phase::Mark => self.note_entry(&entry),
                Phase::Judge => self.judge_entry(&entry)?,
            }
            *names += 1;
            link_at = at + NEXT;
            if self.phase == Phase::Judge && self.leads_astray(chain, link_at)? {
                return Ok(());
            }
            // Ends at the latest when an entry is met twice.
            match self.word(chain.dir, link_at, Place::Chain)? {
                Some(Target::Entry(next)) => at = next,
                _ => return Ok(()),
            }
        }
    }

    fn note_entry(&mut self, entry: &Entry) {
        let long_at = entry.long_at();
        if long_at != 0 && self.marks.set_bit(long_at / ENTRY) {
            self.twice.set_bit(long_at / ENTRY);
        }
        let child = entry.child();
        if self.fs.validate(child).is_ok() {
            if entry.sum_is_right() {
                self.noted_names.add(child.number());
            }
        } else {
            // Whatever its owner word says: somebody refers to it.
            self.marks.set_bit(child.at() / ENTRY);
            if let Some(chunk) = space::chunk_of(self.region(), child.at())
                && matches!(space::chunk(self.region(), chunk), Ok((_, ChunkState::Damaged)))
            {
                self.vote(chunk, Class::Cell);
            }
        }
    }

    fn judge_entry(&mut self, entry: &Entry) -> Result<()> {
        self.summary.names += 1;
        if !entry.sum_is_right() || !entry.is_in_place() || !self.name_fits(entry)? {
            return self.bad_entry(entry);
        }
        let child = entry.child();
        if self.fs.validate(child).is_err() {
            return self.nowhere(entry);
        }
        if entry.long_at() != 0 && self.met.set_bit(entry.long_at() / ENTRY) {
            self.name(Fault::Shared(entry.dir.number(), entry.long_at()))?;
        }
        self.names.add(child.number());
        self.named.set_bit(child.number());
        self.judge_type(entry, child)?;
        if !self.fs.is_directory(child)? {
            return Ok(());
        }
        // `..` of the child is one more link of the directory.
        self.names.add(entry.dir.number());
        let parent_at = child.at() + inode::DEVICE;
        if self.region().load(parent_at)? != entry.dir.to_word() && child != self.fs.root() {
            let fault = Fault::Parent(child.number(), entry.dir.number());
            return match self.names.count(child.number()) {
                1 => self.find_word(fault, Remedy::Recompute, parent_at, entry.dir.to_word()),
                _ => self.name(fault),
            };
        }
        Ok(())
    }

    /// Whether the name is one that has this key.
    fn name_fits(&self, entry: &Entry) -> Result<bool> {
        let mut name = [0; NAME_LONGEST];
        let name = &mut name[..entry.name_length()];
        match self.read_name(entry, name) {
            Err(DAMAGED) => return Ok(false),
            other => other?,
        }
        Ok(!name.is_empty() && self.fs.name(name)?.hash == entry.key() & !(ORDINALS - 1))
    }

    fn read_name(&self, entry: &Entry, into: &mut [u8]) -> Result<()> {
        let place = self.name_place(entry)?;
        self.region().read_bytes(place, into)
    }

    fn name_place(&self, entry: &Entry) -> Result<u64> {
        match entry.long_at() {
            0 if entry.name_length() <= NAME_INLINE => Ok(entry.at + NAME),
            0 => Err(DAMAGED),
            at => {
                let owner_at = space::find_owner(self.region(), Class::Cell, at)?;
                let whole = belongs(self.region().load(owner_at)?, Kind::Name, entry.dir.number());
                if whole { Ok(at) } else { Err(DAMAGED) }
            }
        }
    }

    /// Whether everything about an entry agrees.
    pub(super) fn is_whole(&self, entry: &Entry) -> Result<bool> {
        Ok(entry.sum_is_right()
            && entry.is_in_place()
            && self.name_fits(entry)?
            && self.fs.validate(entry.child()).is_ok()
            && entry_kind(self.fs.mode(entry.child())?) == (entry.info() >> 8) as u8)
    }

    /// Whether an entry that is not whole may have been this one: whole, and the one name that its inode lacks. The check
    /// sum has eight bits: among the words one bit away from an entry with another's inode, some have a sum that is right.
    fn is_missing(&self, entry: &Entry) -> Result<bool> {
        Ok(self.is_whole(entry)? && self.lacks_this_name(entry)?)
    }

    /// As [`Walk::is_missing`], of what lies at `at` as an entry of this directory, wherever it was met.
    pub(super) fn is_a_missing_name(&self, dir: InodeId, at: u64, link_at: u64) -> Result<bool> {
        self.is_missing(&Entry::load(self.region(), dir, at, link_at, (0, 0))?)
    }

    fn lacks_this_name(&self, entry: &Entry) -> Result<bool> {
        let child = entry.child();
        let noted = self.noted_names.count(child.number()) as u64;
        if self.fs.is_directory(child)? {
            return Ok(noted == 0 && self.fs.parent(child)? == entry.dir && child != self.fs.root());
        }
        Ok(self.fs.links(child) == Ok(noted + 1))
    }

    /// The type in the entry has a check sum, the one in the inode has none.
    fn judge_type(&mut self, entry: &Entry, child: InodeId) -> Result<()> {
        let mode_at = child.at() + inode::MODE;
        let mode = self.region().load(mode_at)?;
        let kind = (entry.info() >> 8) as u8;
        if entry_kind(mode as u32) == kind {
            return Ok(());
        }
        self.break_inode(child.number());
        let right = mode & !(inode::TYPE_MASK as u64) | (kind as u64) << 12;
        // Of an inode that was wiped a type is one bit away, and the rest is not there.
        if (right ^ mode).count_ones() == 1 && self.fs.links(child).is_ok() {
            return self.find_word(Fault::Mode(child.number()), Remedy::FlipBack, mode_at, right);
        }
        // What it is not known to be, it may have had names.
        self.names_whole = false;
        self.name(Fault::Mode(child.number()))
    }

    fn bad_entry(&mut self, entry: &Entry) -> Result<()> {
        self.break_inode(entry.dir.number());
        self.names_whole = false;
        let fault = Fault::Entry(entry.dir.number(), entry.at);
        if let Some((at, word)) = self.entry_flipped_back(entry)? {
            return self.find_word(fault, Remedy::FlipBack, at, word);
        }
        if let Some((at, word)) = self.name_flipped_back(entry)? {
            return self.find_word(fault, Remedy::FlipBack, at, word);
        }
        if let Some((at, word)) = self.name_owner_flipped_back(entry)? {
            return self.find_word(Fault::Owner(entry.dir.number(), at), Remedy::FlipBack, at, word);
        }
        self.name(fault)
    }

    /// The word of the entry with a flipped bit, and what it was.
    fn entry_flipped_back(&self, entry: &Entry) -> Result<Option<(u64, u64)>> {
        let mut found = None;
        for (index, field) in FIELDS.into_iter().enumerate() {
            let right = flipped_back(entry.words[index], |candidate| {
                let mut tried = *entry;
                tried.words[index] = candidate;
                self.is_missing(&tried)
            })?;
            match (right, found) {
                (Some(_), Some(_)) => return Ok(None),
                (Some(right), None) => found = Some((entry.at + field, right)),
                _ => {}
            }
        }
        Ok(found)
    }

    /// The word of the name with a flipped bit, and what it was.
    fn name_flipped_back(&self, entry: &Entry) -> Result<Option<(u64, u64)>> {
        let Ok(place) = self.name_place(entry) else { return Ok(None) };
        if !entry.sum_is_right() || !entry.is_in_place() {
            return Ok(None);
        }
        let mut name = [0; NAME_LONGEST];
        let name = &mut name[..entry.name_length()];
        self.region().read_bytes(place, name)?;
        let wanted = entry.key() & !(ORDINALS - 1);
        let mut found = None;
        for bit in 0..name.len() * 8 {
            name[bit / 8] ^= 1 << (bit % 8);
            let fits = self.fs.name(name)?.hash == wanted && !name.contains(&0) && !name.contains(&b'/');
            name[bit / 8] ^= 1 << (bit % 8);
            match (fits, found) {
                (true, Some(_)) => return Ok(None),
                (true, None) => found = Some(bit as u64),
                _ => {}
            }
        }
        let Some(bit) = found else { return Ok(None) };
        let at = place + bit / 64 * 8;
        Ok(Some((at, self.region().load(at)? ^ 1 << (bit % 64))))
    }

    /// The owner word of a long name's cell with a flipped bit, and what it was.
    fn name_owner_flipped_back(&self, entry: &Entry) -> Result<Option<(u64, u64)>> {
        if entry.long_at() == 0 || !entry.sum_is_right() || self.twice.has_bit(entry.long_at() / ENTRY) {
            return Ok(None);
        }
        let Ok(owner_at) = space::find_owner(self.region(), Class::Cell, entry.long_at()) else { return Ok(None) };
        let word = self.region().load(owner_at)?;
        Ok(super::contents::owner_flipped_back(word, Kind::Name, entry.dir.number()).map(|right| (owner_at, right)))
    }

    /// Whether the cell of an inode that its owner word calls gone still says that it has names, and is what the entry says. The
    /// last name that goes takes that along, so it is the owner word that may be wrong.
    fn looks_alive(&self, entry: &Entry) -> Result<bool> {
        let has_names = self.fs.links(entry.child()).is_ok_and(|links| links > 0);
        Ok(has_names && entry_kind(self.fs.mode(entry.child())?) == (entry.info() >> 8) as u8)
    }

    /// An entry all of whose words agree names an inode that is not there.
    fn nowhere(&mut self, entry: &Entry) -> Result<()> {
        let child = entry.child();
        self.break_inode(child.number());
        self.names_whole = false;
        let fault = Fault::Nowhere(entry.dir.number(), child.number());
        let Ok(owner_at) = space::find_owner(self.region(), Class::Cell, child.at()) else {
            let chunk = space::chunk_of(self.region(), child.at());
            let damaged = match chunk {
                Some(chunk) => space::chunk(self.region(), chunk)?.1 == ChunkState::Damaged,
                None => false,
            };
            // The chunk's word is what is wrong, and is named by itself.
            return if damaged { Ok(()) } else { self.name(fault) };
        };
        let word = self.region().load(owner_at)?;
        let right = super::counts::inode_owner(child);
        // What another name leads to is not this inode with a flipped generation.
        if (word ^ right).count_ones() == 1 && self.noted_names.count(child.number()) == 0 {
            return self.find_word(Fault::Owner(child.number(), owner_at), Remedy::FlipBack, owner_at, right);
        }
        let is_free = Owner::decode(word).is_some_and(|owner| owner.is_free() && owner.generation > child.generation());
        if !is_free || self.leaky.has_bit(child.number()) || self.looks_alive(entry)? {
            return self.name(fault);
        }
        let (link_at, next, at, long_at) =
            (entry.link_at, self.region().load(entry.at + NEXT)?, entry.at, entry.long_at());
        let sequence_at = entry.dir.at() + inode::SEQUENCE;
        self.find(fault, Remedy::RemoveName, |fs| {
            let region = fs.region();
            region.commit(link_at, next, MustFence::nothing())?;
            // Processes that live may know the name.
            region.commit(sequence_at, region.load(sequence_at)?.wrapping_add(2), MustFence::nothing())?;
            for (class, at) in [(Class::Entry, at), (Class::Cell, long_at)] {
                if at != 0 {
                    let owner_at = space::find_owner(region, class, at)?;
                    let owner = Owner::decode(region.load(owner_at)?).ok_or(DAMAGED)?;
                    region.commit(owner_at, owner.freed().encode(), MustFence::nothing())?;
                }
            }
            Ok(())
        })
    }
}
