//! What inodes say of themselves, how much they have, and what nobody refers to.

use super::chains::Unlinked;
use super::{Fault, Lacking, Phase, Remedy, Walk};
use crate::inode::{self, InodeId, links_of, links_word, size_of, size_word};
use crate::{Errno, Result};
use lifeboat_region::layout::{CELL, ENTRY};
use lifeboat_region::owner::{Kind, Owner, State};
use lifeboat_region::space::{self, ChunkState, Class, Unit};
use lifeboat_region::{image, lane, lock};

/// The owner word of an inode.
pub(super) fn inode_owner(inode: InodeId) -> u64 {
    let holder = inode.number() as u32;
    let generation = inode.generation();
    Owner { state: State::Live, kind: Kind::Inode, mapped: false, generation, holder }.encode()
}

/// Types that an inode can have.
fn is_a_type(kind: u32) -> bool {
    matches!(
        kind,
        inode::REGULAR
            | inode::DIRECTORY
            | inode::LINK
            | inode::FIFO
            | inode::SOCKET
            | inode::CHARACTER
            | inode::BLOCK_DEVICE
    )
}

impl Walk<'_> {
    /// The root is where a new region has it, and is never another inode's.
    pub(super) fn root(&mut self) -> Result<()> {
        let root = self.fs.root();
        let region = self.region();
        let chunk = space::chunk_of(region, root.at()).unwrap_or(0);
        let (chunk_at, said) = space::chunk(region, chunk)?;
        if said == ChunkState::Damaged {
            self.vote(chunk, Class::Cell);
            return Ok(());
        }
        if said != ChunkState::Used(Class::Cell) {
            let right = space::chunk_word(Some(Class::Cell));
            return self.find_word(Fault::Chunk(chunk_at), Remedy::Recompute, chunk_at, right);
        }
        let owner_at = space::find_owner(region, Class::Cell, root.at())?;
        if region.load(owner_at)? != inode_owner(root) {
            let fault = Fault::Owner(root.number(), owner_at);
            self.find_word(fault, Remedy::Recompute, owner_at, inode_owner(root))?;
        }
        for (field, right) in [
            (inode::MODE, region.load(root.at() + inode::MODE)? & !0xf000 | inode::DIRECTORY as u64),
            (inode::DEVICE, root.to_word()),
        ] {
            if region.load(root.at() + field)? != right {
                self.find_word(Fault::Mode(root.number()), Remedy::Recompute, root.at() + field, right)?;
            }
        }
        self.named.set_bit(root.number());
        self.below.set_bit(root.number());
        Ok(())
    }

    /// Lock, flags, sequence and file locks of an inode.
    pub(super) fn head(&mut self, inode: InodeId, mode: u64) -> Result<()> {
        let number = inode.number();
        self.lock(inode.at() + inode::LOCK)?;
        let known = 0xffff | inode::SEALED | inode::LINKABLE;
        if mode & !known != 0 {
            self.find_word(Fault::Mode(number), Remedy::Recompute, inode.at() + inode::MODE, mode & known)?;
        } else if !is_a_type(mode as u32 & inode::TYPE_MASK) {
            self.break_inode(number);
            // If it has a name, that says the type.
            if self.fs.links(inode) == Ok(0) {
                self.name(Fault::Mode(number))?;
            }
        }
        let sequence = self.fs.field(inode, inode::SEQUENCE)?;
        if self.alone && sequence & 1 == 1 {
            let at = inode.at() + inode::SEQUENCE;
            self.find_word(Fault::Sequence(number), Remedy::Recompute, at, sequence.wrapping_add(1))?;
        }
        if self.fs.find_record(inode, |_| Ok(None::<()>)).is_err() {
            let at = inode.at() + inode::FILE_LOCKS;
            self.find_word(Fault::FileLocks(number), Remedy::Free, at, 0)?;
        }
        Ok(())
    }

    /// Reports a lock word that no lock can have; and one that nobody holds, if no other process could.
    pub(super) fn lock(&mut self, at: u64) -> Result<()> {
        let region = self.region();
        let held_by_nobody = match lock::decode(region, region.load(at)?) {
            Err(_) => true,
            Ok(None) => false,
            Ok(Some(owner)) => self.alone && !lane::is_current(region, owner.lane, owner.generation)?,
        };
        if held_by_nobody {
            self.find_word(Fault::Lock(at), Remedy::Free, at, 0)?;
        }
        Ok(())
    }

    pub(super) fn count_names(&mut self, dir: InodeId, names: u64) -> Result<()> {
        if self.phase == Phase::Mark || self.broken.has_bit(dir.number()) {
            return Ok(());
        }
        let word = self.fs.field(dir, inode::SIZE)?;
        let says = size_of(word);
        if says != names || word >> 48 != 0 {
            let fault = Fault::Names(dir.number(), says, names);
            if self.forgetful.has_bit(dir.number()) {
                self.break_inode(dir.number());
                return self.name(fault);
            }
            return self.find_word(fault, Remedy::Recompute, dir.at() + inode::SIZE, size_word(names, 0));
        }
        Ok(())
    }

    pub(super) fn count_blocks(&mut self, inode: InodeId, blocks: u64) -> Result<()> {
        if self.phase == Phase::Mark || self.broken.has_bit(inode.number()) {
            return Ok(());
        }
        let says = self.fs.field(inode, inode::BLOCKS)?;
        if says != blocks {
            let fault = Fault::Blocks(inode.number(), says, blocks);
            if self.leaky.has_bit(inode.number()) {
                // What is missing may be what nobody refers to.
                self.break_inode(inode.number());
                return self.name(fault);
            }
            return self.find_word(fault, Remedy::Recompute, inode.at() + inode::BLOCKS, blocks);
        }
        Ok(())
    }

    pub(super) fn links(&mut self, inode: InodeId) -> Result<()> {
        let number = inode.number();
        let word = self.fs.field(inode, inode::LINKS)?;
        let at = inode.at() + inode::LINKS;
        let said = links_of(word);
        if !self.names_whole {
            // A name that was not met may be this one's.
            if said.is_err() {
                self.name(Fault::Links(number, word & 0xffff_ffff, self.names.count(number) as u64))?;
            }
            return Ok(());
        }
        let named = self.named.has_bit(number);
        let is_directory = self.fs.is_directory(inode)?;
        let has = self.links_met(inode)?;
        if is_directory && named && !self.is_below_root(inode)? {
            self.name(Fault::Detached(number))?;
        }
        let halves_say_none = word as u32 == 0 || (word >> 32) as u32 == u32::MAX;
        match said {
            Ok(says) if named && says == has => Ok(()),
            Ok(0) if !named => Ok(()),
            Err(_) if !named && halves_say_none => {
                self.find_word(Fault::Links(number, word & 0xffff_ffff, 0), Remedy::Recompute, at, links_word(0))
            }
            // Whether it had lost its name or was unlinked while open, nothing says.
            Err(_) if !named => self.name(Fault::Links(number, word & 0xffff_ffff, 0)),
            _ => {
                let lost = self.lost.count(number) as u64;
                let lacks = said.map_or(0, |says| says.saturating_sub(has));
                let lacking = Lacking { inode, has_names: named, lacks_all: lacks >= lost };
                let fault = Fault::Links(number, word & 0xffff_ffff, has);
                match lost {
                    _ if !named => self.lacks_name(Fault::Nameless(number), lacking, is_directory),
                    1.. if lacks > 0 => self.lacks_name(fault, lacking, is_directory || !lacking.lacks_all),
                    _ => self.find_word(fault, Remedy::Recompute, at, links_word(has)),
                }
            }
        }
    }

    /// How many links of an inode were met.
    fn links_met(&self, inode: InodeId) -> Result<u64> {
        let names = self.names.count(inode.number()) as u64;
        // `.` is a link; the root's `..` is one, too.
        let own = match self.named.has_bit(inode.number()) && self.fs.is_directory(inode)? {
            true if inode == self.fs.root() => 2,
            true => 1,
            false => 0,
        };
        Ok(names + own)
    }

    /// Has it named when the walk is over, unless nobody can know how.
    fn lacks_name(&mut self, fault: Fault, lacking: Lacking, is_unknown: bool) -> Result<()> {
        let free = self.lacking.iter_mut().find(|place| place.is_none());
        match free {
            Some(place) if !is_unknown => {
                *place = Some(lacking);
                self.summary.findings += 1;
                (self.report)(super::Finding { fault, remedy: Remedy::GiveName });
                Ok(())
            }
            _ => self.name(fault),
        }
    }

    fn is_below_root(&mut self, inode: InodeId) -> Result<bool> {
        let mut end = inode;
        let below = loop {
            if self.below.has_bit(end.number()) {
                break true;
            }
            // Met on this way already, or known as not below.
            if self.detached.set_bit(end.number()) {
                break false;
            }
            end = match self.fs.parent(end) {
                Ok(parent) if self.fs.validate(parent) != Err(Errno::STALE) => parent,
                _ => break false,
            };
        };
        let mut dir = inode;
        while below && !self.below.set_bit(dir.number()) {
            dir = self.fs.parent(dir)?;
        }
        Ok(below)
    }

    /// Units that nobody refers to, and those whose owner word no unit can have.
    pub(super) fn unreferenced(&mut self) -> Result<()> {
        let region = self.region();
        for chunk in 0..region.geometry().chunks as u32 {
            let ChunkState::Used(class) = space::chunk(region, chunk)?.1 else { continue };
            space::each_unit_of(region, chunk, class, |unit, word| self.unit(&unit, word))?;
        }
        Ok(())
    }

    fn unit(&mut self, unit: &Unit, word: u64) -> Result<()> {
        let region = self.region();
        let marked = self.marks.has_bit(unit.at / ENTRY);
        let Some(owner) = Owner::decode(word) else {
            if marked {
                // Whoever refers to it has been named.
                return Ok(());
            }
            let remedy = if self.is_surely_free(unit) { Remedy::Free } else { Remedy::None };
            let generation = (word >> 8) as u32 & 0xff_ffff;
            let free = Owner { state: State::Dirty, kind: Kind::None, mapped: false, generation, holder: 0 };
            return self.find_word(Fault::Owner(0, unit.owner_at), remedy, unit.owner_at, free.freed().encode());
        };
        match owner.state {
            State::Live => self.summary.units += 1,
            State::Owned if self.alone => {
                let (lane, generation) = owner.lane();
                if lane as u64 >= region.geometry().lanes || !lane::is_current(region, lane, generation)? {
                    if marked {
                        // Its owner word is what is wrong, and who refers to it has been named.
                        return Ok(());
                    }
                    let remedy = if self.is_surely_free(unit) { Remedy::Free } else { Remedy::None };
                    return self.find_word(Fault::Leak(0, unit.at), remedy, unit.owner_at, owner.freed().encode());
                }
                return Ok(());
            }
            _ => return Ok(()),
        }
        if marked {
            return Ok(());
        }
        let holder = owner.holder as u64;
        let fault = Fault::Leak(holder, unit.at);
        // An inode's cell that says it holds something else.
        if unit.class == Class::Cell && holder == unit.at / CELL {
            let right = Owner { kind: Kind::Inode, ..owner }.encode();
            let remedy = if (right ^ word).count_ones() == 1 { Remedy::FlipBack } else { Remedy::None };
            return self.find_word(Fault::Owner(holder, unit.owner_at), remedy, unit.owner_at, right);
        }
        if self.broken.has_bit(holder) {
            // What should refer to it is damaged, and named by itself.
            return Ok(());
        }
        if unit.class == Class::Entry && self.is_wanted(unit, word)? {
            // Its inode has been named, and gets it back.
            return Ok(());
        }
        self.find_word(fault, Remedy::Free, unit.owner_at, owner.freed().encode())
    }

    /// Whether an entry that nothing leads to is a name which its inode lacks.
    fn is_wanted(&self, unit: &Unit, word: u64) -> Result<bool> {
        let Unlinked::Lost(_, child) = self.unlinked_entry(unit, word)? else { return Ok(false) };
        if self.fs.validate(child).is_err() {
            return Ok(false);
        }
        let met = self.links_met(child)?;
        Ok(self.fs.links(child).is_ok_and(|says| says > met))
    }

    /// Whether everything is known that could refer to a unit that nobody refers to and whose owner word does not say whose it is.
    fn is_surely_free(&self, unit: &Unit) -> bool {
        let has_units = unit.class == Class::Cell && self.leaky.has_bit(unit.at / CELL);
        self.alone && self.names_whole && !self.any_broken && !has_units
    }

    /// Whether this process itself is the image.
    pub(super) fn is_own(&self, slot: u64, generation: u64) -> Result<bool> {
        let own = image::own(self.region())?;
        Ok((own.slot as u64, own.generation as u64) == (slot, generation))
    }
}
