//! Cutting files, and giving back what was cut off.
//!
//! The new size commits first, with the truncation count raised; what lies beyond is unlinked afterwards, a lane full at a
//! time. Writers that begin meanwhile wait: a write that comes after the cut must not be taken away with what lay there.
//! Whoever recovers a killed cut goes on from the size. A unit that was unlinked is in
//! limbo until no writer in flight can touch it any more. A unit that somebody has mapped stays where it is, zeroed, so
//! that the mapping shows the file's bytes when it grows again.

use crate::checksum;
use crate::file_map::BLOCKS_PER_EXTENT;
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, SIZE_LARGEST, size_of, size_word};
use crate::map_word::{EXTENTS_PER_NODE, HEIGHT_LARGEST, INDEX_WORDS, Target, span};
use crate::sweep::may_be_touched;
use crate::types::Caller;
use crate::walk::WRITE;
use crate::{Errno, Result};
use lifeboat_region::announcements::announced;
use lifeboat_region::lane::{Lane, Transaction};
use lifeboat_region::layout::{BLOCK, EXTENT};
use lifeboat_region::owner::{Kind, Owner, State as OwnerState};
use lifeboat_region::search;
use lifeboat_region::space::{self, Class};
use lifeboat_region::{DAMAGED, MustFence, process};

/// Task of a lane: cut the file to its size.
pub(crate) const TASK_TRIM: u64 = 1;
/// Task of a lane: the inode has no names and no open files; take it apart.
pub(crate) const TASK_RELEASE: u64 = 2;

/// Units unlinked by one transaction.
const BATCH: usize = 64;

impl FileSystem {
    /// Sets the size of a file named by path. Checks write permission.
    pub fn truncate(&self, who: &Caller<'_>, inode: InodeId, length: u64) -> Result<()> {
        self.while_there(inode, self.truncate_permitted(who, inode, length)).map_err(inode::gone)
    }

    fn truncate_permitted(&self, who: &Caller<'_>, inode: InodeId, length: u64) -> Result<()> {
        match self.mode(inode)? & inode::TYPE_MASK {
            inode::REGULAR => {}
            inode::DIRECTORY => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        self.permit(who, inode, WRITE)?;
        // Nothing to change, nor anything reserved to give back: then no time changes either.
        if length == size_of(self.field(inode, inode::SIZE)?) && self.field(inode, inode::BLOCKS)? == 0 {
            return self.drop_set_ids_unlocked(inode);
        }
        self.resize(inode, length)
    }

    /// Sets the size of a regular file.
    pub(crate) fn resize(&self, inode: InodeId, length: u64) -> Result<()> {
        let lane = self.lane()?;
        self.lock_inode(&lane, inode).map_err(inode::gone)?;
        self.resize_locked(&lane, inode, length)
    }

    pub(crate) fn resize_locked(&self, lane: &Lane<'_>, inode: InodeId, length: u64) -> Result<()> {
        if length > SIZE_LARGEST {
            return Err(Errno::FBIG);
        }
        if self.field(inode, inode::MODE)? & inode::SEALED != 0 {
            self.unseal_locked(lane, inode)?;
        }
        self.drop_set_ids(inode)?;
        let word_at = inode.at() + inode::SIZE;
        let now = process::now() as u64;
        lane.set_task(TASK_TRIM, inode.to_word())?;
        self.set(inode, inode::MODIFIED, now)?;
        self.set(inode, inode::CHANGED, now)?;
        // What `fallocate` reserved beyond the end is given back when the file is cut to the size that it has.
        let reserved_beyond = self.field(inode, inode::BLOCKS)?.saturating_mul(512) > length.next_multiple_of(EXTENT);
        // Writes that begin from here on begin after the cut, and find the file as it is then.
        self.hold_writers(inode)?;
        let cut = loop {
            let word = self.region().load(word_at)?;
            let cuts = length < size_of(word) || (length == size_of(word) && reserved_beyond);
            let new = size_word(length, (word >> 48).wrapping_add(cuts as u64));
            if self.region().commit_exchange(word_at, word, new, MustFence::nothing())? {
                break cuts;
            }
        };
        if cut {
            self.trim(lane, inode)?;
        }
        self.let_writers_go(inode)?;
        lane.clear_task()
    }

    /// Takes everything beyond the size away, and says that the cut is done. The inode is locked.
    pub(crate) fn trim(&self, lane: &Lane<'_>, inode: InodeId) -> Result<()> {
        self.hold_writers(inode)?;
        let size = size_of(self.field(inode, inode::SIZE)?);
        let mut pruner = Pruner::of_living_file(self, lane, inode);
        pruner.cut(size)?;
        self.zero_linked(inode, size, size.next_multiple_of(EXTENT))?;
        self.let_writers_go(inode)
    }

    /// Frees units in limbo unless a writer in flight or a mapping may still touch them: then a later sweep does.
    pub(crate) fn settle(&self, lane: &Lane<'_>, inode: InodeId, owners: &[u64]) -> Result<()> {
        if owners.is_empty() {
            return Ok(());
        }
        let announced = announced(self.region(), inode.to_word(), Some(lane.index()))?;
        // Asked once, and only when a unit may be mapped: proving that a process is gone costs system calls.
        let mut pinned = None;
        for &at in owners {
            let word = self.region().load(at)?;
            let owner = Owner::decode(word).ok_or(DAMAGED)?;
            if may_be_touched(owner.kind, announced) {
                continue;
            }
            if owner.mapped && pinned.is_none() {
                pinned = Some(self.is_pinned_by_the_living(inode)?);
            }
            if owner.state == OwnerState::Limbo && !(owner.mapped && pinned == Some(true)) {
                self.region().commit_exchange(at, word, owner.freed().encode(), MustFence::nothing())?;
                search::note_freed(self.region(), at);
            }
        }
        Ok(())
    }
}

/// Unlinks units of a file, a batch at a time.
pub(crate) struct Pruner<'p, 'r> {
    fs: &'p FileSystem,
    lane: &'p Lane<'r>,
    inode: InodeId,
    transaction: Option<Transaction<'p, 'r>>,
    owners: [u64; BATCH],
    count: usize,
    /// Whether the file lives on, cut or with a hole: what is mapped stays, zeroed.
    cuts: bool,
    /// Whether somebody who lives has the file mapped. Asked once, and only when a unit may be mapped: proving that a
    /// process is gone costs system calls.
    pinned: Option<bool>,
}

impl<'p, 'r> Pruner<'p, 'r> {
    pub(crate) fn new(fs: &'p FileSystem, lane: &'p Lane<'r>, inode: InodeId) -> Self {
        Pruner { fs, lane, inode, transaction: None, owners: [0; BATCH], count: 0, cuts: false, pinned: None }
    }

    /// For a file that lives on.
    pub(crate) fn of_living_file(fs: &'p FileSystem, lane: &'p Lane<'r>, inode: InodeId) -> Self {
        Pruner { cuts: true, ..Pruner::new(fs, lane, inode) }
    }

    /// Unlinks every unit that lies wholly at or beyond byte `size`.
    pub(crate) fn cut(&mut self, size: u64) -> Result<()> {
        let root_at = self.inode.at() + inode::ROOT;
        let checksum_at = self.inode.at() + inode::ROOT_CHECKSUM;
        self.prune(root_at, Some(checksum_at), 0, size, HEIGHT_LARGEST + 1)?;
        self.flush()
    }

    /// Whose units they are.
    pub(crate) fn inode(&self) -> InodeId {
        self.inode
    }

    fn transaction(&mut self) -> &mut Transaction<'p, 'r> {
        self.transaction.get_or_insert_with(|| self.lane.begin())
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        if let Some(transaction) = self.transaction.take() {
            transaction.commit(MustFence::nothing())?;
        }
        let count = core::mem::take(&mut self.count);
        self.fs.settle(self.lane, self.inode, &self.owners[..count])
    }

    /// Stages that a unit is in limbo, and that `link_at` no longer points to it.
    pub(crate) fn unlink(&mut self, class: Class, at: u64, link_at: u64, blocks: i64) -> Result<()> {
        if self.count == BATCH || self.transaction().room() < 4 {
            self.flush()?;
        }
        let owner_at = space::find_owner(self.fs.region(), class, at)?;
        let owner = Owner::decode(self.fs.region().load(owner_at)?).ok_or(DAMAGED)?;
        if owner.state != OwnerState::Live || owner.holder as u64 != self.inode.number() {
            return Err(DAMAGED);
        }
        let (fs, inode) = (self.fs, self.inode);
        let transaction = self.transaction();
        transaction.set(link_at, 0)?;
        transaction.set(owner_at, owner.in_limbo().encode())?;
        if blocks != 0 {
            fs.add_blocks(transaction, inode, -blocks)?;
        }
        self.owners[self.count] = owner_at;
        self.count += 1;
        Ok(())
    }

    /// Whether a unit of data stays where it is, because somebody has it mapped.
    fn stays(&mut self, class: Class, at: u64) -> Result<bool> {
        if !self.cuts {
            return Ok(false);
        }
        let owner_at = space::expect(self.fs.region(), class, at, Kind::Data, self.inode.number())?;
        if !Owner::decode(self.fs.region().load(owner_at)?).ok_or(DAMAGED)?.mapped {
            return Ok(false);
        }
        let pinned = match self.pinned {
            Some(pinned) => pinned,
            None => self.fs.is_pinned_by_the_living(self.inode)?,
        };
        self.pinned = Some(pinned);
        Ok(pinned)
    }

    /// Zeroes a unit of data that stays. False when it does not.
    fn keep_zeroed(&mut self, class: Class, at: u64, checksum_at: Option<u64>) -> Result<bool> {
        if !self.stays(class, at)? {
            return Ok(false);
        }
        if let Some(checksum_at) = checksum_at {
            checksum::make_stale(self.fs.region(), checksum_at)?;
        }
        self.fs.region().zero(at, class.size() as usize)?.fence();
        Ok(true)
    }

    /// Unlinks what holds the data of an extent, with its checksum. False when it stays, zeroed.
    fn unlink_data(&mut self, class: Class, at: u64, link_at: u64, checksum_at: Option<u64>) -> Result<bool> {
        if self.keep_zeroed(class, at, checksum_at)? {
            return Ok(false);
        }
        self.unlink(class, at, link_at, (class.size() / 512) as i64)?;
        self.forget_checksum(checksum_at)?;
        Ok(true)
    }

    /// Unlinks one of the blocks of an extent. False when it stays, zeroed.
    fn unlink_block(&mut self, at: u64, link_at: u64, checksum_at: Option<u64>) -> Result<bool> {
        if self.keep_zeroed(Class::Block, at, checksum_at)? {
            return Ok(false);
        }
        self.unlink(Class::Block, at, link_at, (BLOCK / 512) as i64).map(|()| true)
    }

    fn unlink_node(&mut self, node: u64, link_at: u64) -> Result<bool> {
        self.unlink(Class::Cell, node, link_at, 0).map(|()| true)
    }

    /// A node of this file's map: what belongs to another is not touched.
    fn expect_node(&self, node: u64, kind: Kind) -> Result<()> {
        space::expect(self.fs.region(), Class::Cell, node, kind, self.inode.number()).map(|_| ())
    }

    /// Unlinks a node that has become empty. Below the root the next extent of the file is its only one again, whose checksum
    /// word still says what it said before the file grew.
    fn unlink_emptied(&mut self, empty: bool, node: u64, link_at: u64, checksum_at: Option<u64>) -> Result<bool> {
        if empty {
            self.unlink_node(node, link_at)?;
            self.forget_checksum(checksum_at)?;
        }
        Ok(empty)
    }

    fn staged(&mut self, at: u64) -> Result<u64> {
        self.transaction().get(at)
    }

    /// Prunes below the word at `link_at`, in a node of height `above`, which covers the file from extent `base`. Whether
    /// nothing is left there.
    fn prune(&mut self, link_at: u64, checksum_at: Option<u64>, base: u64, size: u64, above: u8) -> Result<bool> {
        let word = self.staged(link_at)?;
        let all = base * EXTENT >= size;
        match Target::decode(word)? {
            Target::Hole => Ok(true),
            Target::Extent(at) if all => self.unlink_data(Class::Extent, at, link_at, checksum_at),
            Target::Block(at) if all => self.unlink_data(Class::Block, at, link_at, checksum_at),
            Target::Extent(_) | Target::Block(_) => Ok(false),
            Target::Blocks(node) => self.prune_blocks(node, link_at, checksum_at, base, size),
            Target::Extents(node) => {
                self.expect_node(node, Kind::Extents)?;
                let mut empty = all;
                for index in (0..EXTENTS_PER_NODE).rev() {
                    let at = node + index * 16;
                    empty &= self.prune(at, Some(at + 8), base + index, size, 0)?;
                }
                self.unlink_emptied(empty, node, link_at, checksum_at)
            }
            Target::Index(node, height) if height > 0 && height < above => {
                self.expect_node(node, Kind::Index)?;
                let mut empty = all;
                for index in (0..INDEX_WORDS).rev() {
                    let below = base + index * span(height);
                    if (below + span(height)) * EXTENT > size {
                        empty &= self.prune(node + index * 8, None, below, size, height)?;
                    }
                }
                self.unlink_emptied(empty, node, link_at, checksum_at)
            }
            _ => Err(DAMAGED),
        }
    }

    fn prune_blocks(
        &mut self,
        node: u64,
        link_at: u64,
        checksum_at: Option<u64>,
        base: u64,
        size: u64,
    ) -> Result<bool> {
        self.expect_node(node, Kind::Blocks)?;
        let mut empty = base * EXTENT >= size;
        for block in (0..BLOCKS_PER_EXTENT).rev() {
            let start = base * EXTENT + block * BLOCK;
            let at = node + block * 8;
            if start >= size
                && let Target::Block(found) = Target::decode(self.staged(at)?)?
            {
                empty &= self.unlink_block(found, at, checksum_at)?;
            }
        }
        self.unlink_emptied(empty, node, link_at, checksum_at)
    }

    fn forget_checksum(&mut self, at: Option<u64>) -> Result<()> {
        match at {
            Some(at) => self.transaction().set(at, 0),
            None => Ok(()),
        }
    }

    /// Unlinks `[start, end)` of blocks in the middle of a file (a hole is punched).
    pub(crate) fn punch(&mut self, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        while at < end {
            let extent = at / EXTENT;
            let here = (end - at).min(EXTENT - at % EXTENT);
            if let Some(slot) = self.fs.find_slot(self.inode, extent)? {
                let word = self.staged(slot.map_at)?;
                match Target::decode(word)? {
                    Target::Extent(unit) if here == EXTENT => {
                        self.unlink_data(Class::Extent, unit, slot.map_at, Some(slot.checksum_at))?;
                    }
                    Target::Block(unit) if at.is_multiple_of(EXTENT) && here >= BLOCK => {
                        self.unlink_data(Class::Block, unit, slot.map_at, Some(slot.checksum_at))?;
                    }
                    Target::Blocks(node) => self.punch_blocks(node, at % EXTENT, here)?,
                    _ => {}
                }
            }
            at += here;
        }
        self.flush()
    }

    fn punch_blocks(&mut self, node: u64, from: u64, length: u64) -> Result<()> {
        for block in from.div_ceil(BLOCK)..(from + length) / BLOCK {
            let at = node + block * 8;
            if let Target::Block(found) = Target::decode(self.staged(at)?)? {
                self.unlink_block(found, at, None)?;
            }
        }
        Ok(())
    }
}
