//! What inodes refer to: maps of files, indices of directories, attributes; and the owner words of all that.

use super::chains::Unlinked;
use super::{Fault, Phase, Remedy, Walk, flipped_back};
use crate::attribute_block::AttributeBlock;
use crate::checksum::{Checksum, State as ChecksumState};
use crate::directory::{KEY, digit};
use crate::inode::{self, INLINE_LONGEST, InodeId, size_of};
use crate::map_word::{EXTENTS_PER_NODE, HEIGHT_LARGEST, INDEX_WORDS, Target};
use crate::{PATH_LONGEST, Result};
use lifeboat_region::layout::{BLOCK, CELL, ENTRY, EXTENT};
use lifeboat_region::owner::{Kind, Owner, State};
use lifeboat_region::space::{self, ChunkState, Class, Unit};

/// Where a map word lies, which says what it can be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the inode of a file.
    File,
    /// In an index node of this height of a file.
    Below(u8),
    /// In a node of extents.
    Extents,
    /// In a node of blocks.
    Blocks,
    /// In the inode of a directory (0), or in an index node that deep.
    Directory(u32),
    /// In an entry.
    Chain,
    /// In the inode of a link or socket.
    Text,
    /// In an inode, for its attributes.
    Attributes,
    /// In a node of attributes.
    AttributeNode,
}

/// A unit that a word refers to.
#[derive(Clone, Copy)]
pub(super) struct Reference {
    pub(super) class: Class,
    pub(super) at: u64,
    pub(super) kind: Kind,
}

impl Place {
    /// What a word in this place refers to; `None` when it cannot be in it.
    fn admits(self, target: Target) -> Option<Reference> {
        let found = |class, at, kind| Some(Reference { class, at, kind });
        match (self, target) {
            (Place::File | Place::Extents, Target::Extent(at)) => found(Class::Extent, at, Kind::Data),
            (Place::File | Place::Extents | Place::Blocks | Place::Text, Target::Block(at)) => {
                found(Class::Block, at, Kind::Data)
            }
            (Place::File | Place::Extents, Target::Blocks(at)) => found(Class::Cell, at, Kind::Blocks),
            (Place::File | Place::Below(1), Target::Extents(at)) => found(Class::Cell, at, Kind::Extents),
            (Place::File, Target::Index(at, 1..=HEIGHT_LARGEST)) => found(Class::Cell, at, Kind::Index),
            (Place::Below(above), Target::Index(at, height)) if height > 0 && height + 1 == above => {
                found(Class::Cell, at, Kind::Index)
            }
            (Place::Directory(depth), Target::Index(at, height))
                if depth < crate::directory::DEPTH_LARGEST && height as u32 == depth + 1 =>
            {
                found(Class::Cell, at, Kind::Index)
            }
            (Place::Directory(_) | Place::Chain, Target::Entry(at)) => found(Class::Entry, at, Kind::Entry),
            (Place::Attributes, Target::Cell(at) | Target::Index(at, 1)) => found(Class::Cell, at, Kind::Attributes),
            (Place::Attributes, Target::Block(at)) => found(Class::Block, at, Kind::Attributes),
            (Place::Attributes | Place::AttributeNode, Target::Extent(at)) => {
                found(Class::Extent, at, Kind::Attributes)
            }
            _ => None,
        }
    }
}

impl Walk<'_> {
    pub(super) fn contents(&mut self, inode: InodeId) -> Result<()> {
        self.marks.set_bit(inode.at() / ENTRY);
        let mode = self.fs.field(inode, inode::MODE)?;
        if self.phase == Phase::Judge {
            self.summary.inodes += 1;
            self.head(inode, mode)?;
        }
        let root_at = inode.at() + inode::ROOT;
        match mode as u32 & inode::TYPE_MASK {
            inode::DIRECTORY => {
                let mut names = 0;
                self.directory(inode, root_at, 0, 0, &mut names)?;
                self.count_names(inode, names)?;
            }
            inode::REGULAR => {
                let mut blocks = 0;
                if self.phase == Phase::Judge {
                    self.checksum(inode, mode, inode.at() + inode::ROOT_CHECKSUM, root_at)?;
                }
                self.file(inode, mode, root_at, Place::File, &mut blocks)?;
                self.count_blocks(inode, blocks)?;
            }
            inode::LINK | inode::SOCKET => {
                let mut blocks = 0;
                self.file(inode, mode, root_at, Place::Text, &mut blocks)?;
                self.count_blocks(inode, blocks)?;
                self.text(inode, root_at)?;
            }
            _ => {}
        }
        self.attributes(inode)
    }

    /// The length of a link's target, or a socket's address, must fit its place. (What else is wrong there is said already.)
    fn text(&mut self, inode: InodeId, root_at: u64) -> Result<()> {
        let length = size_of(self.fs.field(inode, inode::SIZE)?);
        let fits = match Target::decode(self.region().load(root_at)?) {
            Ok(Target::Hole) => length <= INLINE_LONGEST as u64,
            Ok(Target::Block(_)) => length <= PATH_LONGEST as u64,
            _ => true,
        };
        if fits || self.phase == Phase::Mark { Ok(()) } else { self.name(Fault::Text(inode.number())) }
    }

    /// The word at `at`, if it refers to a unit whose contents are to be looked at.
    pub(super) fn word(&mut self, inode: InodeId, at: u64, place: Place) -> Result<Option<Target>> {
        let word = self.region().load(at)?;
        let target = match Target::decode(word) {
            Ok(Target::Hole) => return Ok(None),
            Ok(target) => target,
            Err(_) => return self.bad_word(inode, at, place, Fault::Pointer(inode.number(), at)).map(|()| None),
        };
        let Some(reference) = place.admits(target) else {
            return self.bad_word(inode, at, place, Fault::Pointer(inode.number(), at)).map(|()| None);
        };
        Ok(self.reference(inode, at, place, reference)?.then_some(target))
    }

    fn reference(&mut self, inode: InodeId, at: u64, place: Place, to: Reference) -> Result<bool> {
        let number = inode.number();
        let Ok(owner_at) = space::find_owner(self.region(), to.class, to.at) else {
            return self.no_such_unit(inode, at, place, to).map(|()| false);
        };
        let word = self.region().load(owner_at)?;
        let belongs = belongs(word, to.kind, number);
        if self.phase == Phase::Mark {
            if self.marks.set_bit(to.at / ENTRY) {
                self.twice.set_bit(to.at / ENTRY);
            }
            // Whoever it belongs to leads to what is in it, however many others refer to it.
            let again = belongs && self.entered.set_bit(to.at / ENTRY);
            if again {
                self.contested.set_bit(to.at / ENTRY);
            }
            return Ok(belongs && !again);
        }
        if belongs {
            if self.contested.has_bit(to.at / ENTRY) {
                self.contested_word(inode, at, place, Fault::Shared(number, to.at))?;
            }
            return Ok(!self.met.set_bit(to.at / ENTRY));
        }
        if !self.twice.has_bit(to.at / ENTRY)
            && let Some((right, remedy)) = self.right_owner(inode, at, place, to, word)?
        {
            self.lose(inode, place);
            self.find_word(Fault::Owner(number, owner_at), remedy, owner_at, right)?;
            return Ok(false);
        }
        let of_another = Owner::decode(word).is_some_and(|owner| matches!(owner.state, State::Live | State::Limbo));
        let fault = if of_another { Fault::Shared(number, to.at) } else { Fault::Dangling(number, to.at) };
        if self.is_surely_not_meant(word, to)? {
            return self.bad_word(inode, at, place, fault).map(|()| false);
        }
        self.lose(inode, place);
        self.name(fault).map(|()| false)
    }

    /// What the owner word `word` of a unit that nothing else refers to should say, if that is known.
    fn right_owner(
        &self,
        inode: InodeId,
        at: u64,
        place: Place,
        to: Reference,
        word: u64,
    ) -> Result<Option<(u64, Remedy)>> {
        if let Some(right) = owner_flipped_back(word, to.kind, inode.number()) {
            return Ok(Some((right, Remedy::FlipBack)));
        }
        // What the entry says nothing else does: it is the owner word that is wrong, however much of it.
        let is_entry = to.class == Class::Entry
            && self.belongs_behind(inode, at, place, to.at)?
            && self.is_a_missing_name(inode, to.at, at)?;
        Ok(is_entry.then(|| (owner_word(word, to.kind, inode.number()), Remedy::Recompute)))
    }

    /// One of several words of one inode that refer to the same unit. Which of them is right, the owner word does not say; a
    /// checksum or the key of an entry may.
    fn contested_word(&mut self, inode: InodeId, at: u64, place: Place, fault: Fault) -> Result<()> {
        self.lose(inode, place);
        let target = Target::decode(self.region().load(at)?)?;
        match self.is_in_its_place(inode, at, place, target)? {
            Some(false) => self.astray_word(inode, at, place, fault, true),
            _ => self.name(fault),
        }
    }

    /// Whether what `target` refers to is what the word at `at` must refer to, where something says so.
    fn is_in_its_place(&self, inode: InodeId, at: u64, place: Place, target: Target) -> Result<Option<bool>> {
        match (place, target) {
            (Place::File | Place::Extents, Target::Extent(_) | Target::Block(_) | Target::Blocks(_)) => {
                let sum_at = if place == Place::File { inode.at() + inode::ROOT_CHECKSUM } else { at + 8 };
                let Ok(sum) = Checksum::decode(self.region().load(sum_at)?) else { return Ok(None) };
                let is_known = matches!(sum.state, ChecksumState::Running | ChecksumState::Final) && sum.valid > 0;
                Ok(is_known.then(|| self.fs.checksum_extent(inode, target, sum.valid as u64) == Ok(sum.crc)))
            }
            (Place::Directory(_) | Place::Chain, Target::Entry(entry)) => {
                self.belongs_behind(inode, at, place, entry).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Whether the unit with this owner word cannot be what a word that refers to it means: it belongs to another, was freed,
    /// or was never used. Otherwise its owner word may be what is wrong, by more than a bit: then what lies behind the unit is
    /// not known, and must not be taken for what the word means. One owner word in eight of noise says that another has the unit:
    /// that counts only if the other leads to it.
    fn is_surely_not_meant(&self, word: u64, to: Reference) -> Result<bool> {
        let Some(owner) = Owner::decode(word) else { return Ok(false) };
        Ok(match owner.state {
            State::Live | State::Limbo => {
                let is_an_inode = owner.kind == Kind::Inode && owner.holder as u64 == to.at / CELL;
                is_an_inode || self.twice.has_bit(to.at / ENTRY)
            }
            State::Dirty => true,
            State::Clean => {
                let words = (0..ENTRY / 8).map(|index| self.region().load(to.at + index * 8));
                words.into_iter().all(|word| word == Ok(0))
            }
            State::Owned => false,
        })
    }

    fn no_such_unit(&mut self, inode: InodeId, at: u64, place: Place, to: Reference) -> Result<()> {
        let chunk = space::chunk_of(self.region(), to.at);
        if let Some(chunk) = chunk
            && space::chunk(self.region(), chunk)?.1 == ChunkState::Damaged
        {
            // The chunk's word is what is wrong, and is named by itself.
            self.vote(chunk, to.class);
            self.lose(inode, place);
            return Ok(());
        }
        self.bad_word(inode, at, place, Fault::Pointer(inode.number(), at))
    }

    pub(super) fn vote(&mut self, chunk: u32, class: Class) {
        if self.phase == Phase::Mark {
            self.votes.add(chunk as u64 * 8 + class as u64);
        }
    }

    /// Something that the word in `place` should lead to is not reached.
    pub(super) fn lose(&mut self, inode: InodeId, place: Place) {
        self.break_inode(inode.number());
        if matches!(place, Place::Directory(_) | Place::Chain) {
            self.names_whole = false;
        }
    }

    /// A word that leads nowhere, or to what is another's: if one of its bits is wrong, the unit that it should lead to is this
    /// inode's, and nothing refers to it.
    fn bad_word(&mut self, inode: InodeId, at: u64, place: Place, fault: Fault) -> Result<()> {
        self.astray_word(inode, at, place, fault, false)
    }

    /// As [`Walk::bad_word`]; `surely`: something must say that what the right word leads to is in its place.
    fn astray_word(&mut self, inode: InodeId, at: u64, place: Place, fault: Fault, surely: bool) -> Result<()> {
        if self.phase == Phase::Mark {
            return Ok(());
        }
        self.lose(inode, place);
        let word = self.region().load(at)?;
        let region = self.region();
        if matches!(place, Place::Directory(_) | Place::Chain)
            && let Some(entry) = self.entry_behind(inode, word)?
            && self.belongs_behind(inode, at, place, entry)?
        {
            // It is the other word that leads to the entry which is wrong.
            return self.name(fault);
        }
        let right = flipped_back(word, |candidate| {
            let Ok(target) = Target::decode(candidate) else { return Ok(false) };
            let Some(to) = place.admits(target) else { return Ok(false) };
            let Ok(owner_at) = space::find_owner(region, to.class, to.at) else { return Ok(false) };
            let fits = belongs(region.load(owner_at)?, to.kind, inode.number())
                && !self.marks.has_bit(to.at / ENTRY)
                && (!surely || self.is_in_its_place(inode, at, place, target)? == Some(true));
            match (place, target) {
                _ if !fits => Ok(false),
                (_, Target::Entry(entry)) => self.belongs_behind(inode, at, place, entry),
                // A cell of attributes may be the block, or a node that leads to it.
                (Place::Attributes, _) => Ok(AttributeBlock::load(self.fs, inode, candidate).is_ok()),
                (_, Target::Index(node, height)) => self.holds_what_it_must(place, node, height),
                _ => Ok(true),
            }
        })?;
        match right {
            Some(right) => self.find_word(fault, Remedy::FlipBack, at, right),
            // Of an empty word a single bit was set.
            None if word.is_power_of_two() => self.find_word(fault, Remedy::FlipBack, at, 0),
            None => self.name(fault),
        }
    }

    /// Whether an index node that no word leads to holds what one in `place` does, and not what one further below does: it may be
    /// reached through the node that the word leads to now.
    fn holds_what_it_must(&self, place: Place, node: u64, height: u8) -> Result<bool> {
        let below = match place {
            Place::Directory(depth) => Place::Directory(depth + 1),
            _ => Place::Below(height),
        };
        let mut any = false;
        for index in 0..INDEX_WORDS {
            let target = match Target::decode(self.region().load(node + index * 8)?) {
                Ok(Target::Hole) => continue,
                Ok(target) => target,
                Err(_) => return Ok(false),
            };
            let in_place = match (place, target) {
                (Place::Directory(depth), Target::Entry(entry)) => {
                    digit(self.region().load(entry + KEY)?, depth) == index
                }
                _ => below.admits(target).is_some(),
            };
            if !in_place {
                return Ok(false);
            }
            any = true;
        }
        Ok(any)
    }

    fn file(&mut self, inode: InodeId, mode: u64, at: u64, place: Place, blocks: &mut u64) -> Result<()> {
        let Some(target) = self.word(inode, at, place)? else { return Ok(()) };
        match target {
            Target::Extent(_) => *blocks += EXTENT / 512,
            Target::Block(_) => *blocks += BLOCK / 512,
            Target::Blocks(node) => {
                for index in 0..EXTENT / BLOCK {
                    self.file(inode, mode, node + index * 8, Place::Blocks, blocks)?;
                }
            }
            Target::Extents(node) => {
                for index in 0..EXTENTS_PER_NODE {
                    let at = node + index * 16;
                    if self.phase == Phase::Judge {
                        self.checksum(inode, mode, at + 8, at)?;
                    }
                    self.file(inode, mode, at, Place::Extents, blocks)?;
                }
            }
            Target::Index(node, height) => {
                for index in 0..INDEX_WORDS {
                    self.file(inode, mode, node + index * 8, Place::Below(height), blocks)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn attributes(&mut self, inode: InodeId) -> Result<()> {
        let at = inode.at() + inode::ATTRIBUTES;
        let Some(target) = self.word(inode, at, Place::Attributes)? else { return Ok(()) };
        if let Target::Index(node, _) = target {
            for index in 0..INDEX_WORDS {
                self.word(inode, node + index * 8, Place::AttributeNode)?;
            }
        }
        if self.phase == Phase::Judge && !self.broken.has_bit(inode.number()) && !self.fs.attributes_are_whole(inode)? {
            let word = self.region().load(at)?;
            let fault = Fault::Attributes(inode.number(), at);
            match self.fs.attributes_flipped_back(word)? {
                Some((word_at, right)) => self.find_word(fault, Remedy::FlipBack, word_at, right)?,
                None => self.name(fault)?,
            }
        }
        Ok(())
    }

    fn checksum(&mut self, inode: InodeId, mode: u64, at: u64, map_at: u64) -> Result<()> {
        let word = self.region().load(at)?;
        let number = inode.number();
        let sealed = mode & inode::SEALED != 0;
        match Checksum::decode(word) {
            Ok(sum) => {
                let has_data = matches!(
                    Target::decode(self.region().load(map_at)?),
                    Ok(Target::Extent(_) | Target::Block(_) | Target::Blocks(_))
                );
                // What `fallocate` reserved beyond the size has none.
                if sealed && has_data && sum.state != ChecksumState::Final && sum.state != ChecksumState::None {
                    self.name(Fault::Seal(number, at))?;
                }
                Ok(())
            }
            Err(_) => {
                let right = self.fs.checksum_flipped_back(inode, word, map_at)?;
                match right {
                    Some(right) => self.find_word(Fault::Checksum(number, at), Remedy::FlipBack, at, right),
                    None if sealed => self.name(Fault::Checksum(number, at)),
                    None => {
                        let unknown = Checksum::STALE.encode();
                        self.find_word(Fault::Checksum(number, at), Remedy::CallUnknown, at, unknown)
                    }
                }
            }
        }
    }

    fn note_unlinked_entry(&mut self, unit: &Unit, word: u64, dir: u64) -> Result<()> {
        match self.unlinked_entry(unit, word)? {
            Unlinked::Lost(_, child) => self.lost.add(child.number()),
            Unlinked::Replaced => return Ok(()),
            Unlinked::Unknown => {}
        }
        self.forgetful.set_bit(dir);
        Ok(())
    }

    /// Notes whom units without a reference belong to, and cells whose owner word is damaged.
    pub(super) fn owners(&mut self) -> Result<()> {
        let region = self.region();
        for chunk in 0..region.geometry().chunks as u32 {
            let ChunkState::Used(class) = space::chunk(region, chunk)?.1 else { continue };
            space::each_unit_of(region, chunk, class, |unit, word| {
                match Owner::decode(word) {
                    Some(owner) if owner.state == State::Live && !self.marks.has_bit(unit.at / ENTRY) => {
                        self.leaky.set_bit(owner.holder as u64);
                        if class == Class::Entry {
                            self.note_unlinked_entry(&unit, word, owner.holder as u64)?;
                        }
                    }
                    None if class == Class::Cell => {
                        self.broken.set_bit(unit.at / CELL);
                    }
                    _ => {}
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Whether an owner word says that its unit is linked to the inode with this number and holds `kind`.
pub(super) fn belongs(word: u64, kind: Kind, number: u64) -> bool {
    Owner::decode(word)
        .is_some_and(|owner| owner.state == State::Live && owner.kind == kind && owner.holder as u64 == number)
}

/// The owner word as it was, if a single bit of `word` keeps it from saying that its unit belongs to this inode.
pub(super) fn owner_flipped_back(word: u64, kind: Kind, number: u64) -> Option<u64> {
    let right = owner_word(word, kind, number);
    ((word ^ right).count_ones() == 1).then_some(right)
}

/// The owner word of a unit that belongs to this inode, with what `word` says of the rest.
fn owner_word(word: u64, kind: Kind, number: u64) -> u64 {
    let generation = (word >> 8) as u32 & 0xff_ffff;
    Owner { state: State::Live, kind, mapped: word & 0x80 != 0, generation, holder: number as u32 }.encode()
}
