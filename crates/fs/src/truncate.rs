//! Cutting files, and giving back what was cut off.
//!
//! The new size commits first, with the truncation count raised; what lies beyond is unlinked afterwards, a lane full at a
//! time. Whoever recovers a killed cut goes on from the size. A unit that was unlinked is in limbo until no writer in
//! flight can touch it any more.

use crate::checksum::{self, Checksum, State};
use crate::file_map::BLOCKS_PER_EXTENT;
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, SIZE_LARGEST, size_of, size_word};
use crate::map_word::{EXTENTS_PER_NODE, INDEX_WORDS, Target, span};
use crate::types::Caller;
use crate::walk::WRITE;
use crate::{Errno, Result};
use lifeboat_region::lane::{Lane, Transaction, is_announced};
use lifeboat_region::layout::{BLOCK, EXTENT};
use lifeboat_region::owner::{Owner, State as OwnerState};
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
        self.validate(inode).map_err(|_| Errno::NOENT)?;
        match self.mode(inode)? & inode::TYPE_MASK {
            inode::REGULAR => {}
            inode::DIRECTORY => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        self.permit(who, inode, WRITE)?;
        // Nothing to change, nor anything reserved to give back: then no time changes either.
        if length == size_of(self.field(inode, inode::SIZE)?) && self.field(inode, inode::BLOCKS)? == 0 {
            return self.drop_set_ids(inode);
        }
        self.resize(inode, length)
    }

    /// Sets the size of a regular file.
    pub(crate) fn resize(&self, inode: InodeId, length: u64) -> Result<()> {
        let lane = self.lane()?;
        self.lock_inode(&lane, inode).map_err(|_| Errno::NOENT)?;
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
        let reserved_beyond = self.field(inode, inode::BLOCKS)? * 512 > length.next_multiple_of(EXTENT);
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
        lane.clear_task()
    }

    /// Unlinks everything beyond the size and zeroes the rest of the last unit. The inode is locked.
    pub(crate) fn trim(&self, lane: &Lane<'_>, inode: InodeId) -> Result<()> {
        let size = size_of(self.field(inode, inode::SIZE)?);
        let mut pruner = Pruner::of_living_file(self, lane, inode);
        pruner.cut(size)?;
        let within = size % EXTENT;
        if within != 0
            && let Some(slot) = self.find_slot(inode, size / EXTENT)?
        {
            let sum = Checksum::decode(self.region().load(slot.checksum_at)?)?;
            if sum.valid as u64 > within || sum.state == State::Claimed {
                checksum::make_stale(self.region(), slot.checksum_at)?;
            }
            self.zero_linked(inode, size, (size / EXTENT + 1) * EXTENT)?;
        }
        Ok(())
    }

    /// Frees units in limbo unless a writer in flight or a mapping may still touch them: then a later sweep does.
    pub(crate) fn settle(&self, lane: &Lane<'_>, inode: InodeId, owners: &[u64]) -> Result<()> {
        if owners.is_empty() || is_announced(self.region(), inode.to_word(), Some(lane.index()))? {
            return Ok(());
        }
        // Asked once, and only when a unit may be mapped: proving that a process is gone costs system calls.
        let mut pinned = None;
        for &at in owners {
            let word = self.region().load(at)?;
            let owner = Owner::decode(word).ok_or(DAMAGED)?;
            if owner.mapped && pinned.is_none() {
                pinned = Some(self.is_pinned_by_the_living(inode)?);
            }
            if owner.state == OwnerState::Limbo && !(owner.mapped && pinned == Some(true)) {
                self.region().commit_exchange(at, word, owner.freed().encode(), MustFence::nothing())?;
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
    /// Whether a mapping must see zeros where units are unlinked: the file lives on, cut or with a hole.
    cuts: bool,
}

impl<'p, 'r> Pruner<'p, 'r> {
    pub(crate) fn new(fs: &'p FileSystem, lane: &'p Lane<'r>, inode: InodeId) -> Self {
        Pruner { fs, lane, inode, transaction: None, owners: [0; BATCH], count: 0, cuts: false }
    }

    /// For a file that lives on.
    pub(crate) fn of_living_file(fs: &'p FileSystem, lane: &'p Lane<'r>, inode: InodeId) -> Self {
        Pruner { cuts: true, ..Pruner::new(fs, lane, inode) }
    }

    /// Unlinks every unit that lies wholly at or beyond byte `size`.
    pub(crate) fn cut(&mut self, size: u64) -> Result<()> {
        let root_at = self.inode.at() + inode::ROOT;
        let checksum_at = self.inode.at() + inode::ROOT_CHECKSUM;
        self.prune(root_at, Some(checksum_at), 0, size)?;
        self.flush()
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
        let (fs, inode) = (self.fs, self.inode);
        if self.cuts && owner.mapped && fs.is_pinned_number(inode.number())? {
            fs.region().zero(at, class.size() as usize)?.fence();
        }
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

    fn staged(&mut self, at: u64) -> Result<u64> {
        self.transaction().get(at)
    }

    /// Prunes below the word at `link_at`, which covers the file from extent `base`.
    fn prune(&mut self, link_at: u64, checksum_at: Option<u64>, base: u64, size: u64) -> Result<()> {
        let word = self.staged(link_at)?;
        let all = base * EXTENT >= size;
        match Target::decode(word)? {
            Target::Hole => Ok(()),
            Target::Extent(at) if all => {
                self.unlink(Class::Extent, at, link_at, (EXTENT / 512) as i64)?;
                self.forget_checksum(checksum_at)
            }
            Target::Block(at) if all => {
                self.unlink(Class::Block, at, link_at, (BLOCK / 512) as i64)?;
                self.forget_checksum(checksum_at)
            }
            Target::Extent(_) | Target::Block(_) => Ok(()),
            Target::Blocks(node) => self.prune_blocks(node, link_at, checksum_at, base, size),
            Target::Extents(node) => {
                space::find_owner(self.fs.region(), Class::Cell, node)?;
                for index in (0..EXTENTS_PER_NODE).rev() {
                    let at = node + index * 16;
                    self.prune(at, Some(at + 8), base + index, size)?;
                }
                if all { self.unlink(Class::Cell, node, link_at, 0) } else { Ok(()) }
            }
            Target::Index(node, height) if height > 0 && height <= crate::map_word::HEIGHT_LARGEST => {
                space::find_owner(self.fs.region(), Class::Cell, node)?;
                for index in (0..INDEX_WORDS).rev() {
                    let below = base + index * span(height);
                    if (below + span(height)) * EXTENT > size {
                        self.prune(node + index * 8, None, below, size)?;
                    }
                }
                if all { self.unlink(Class::Cell, node, link_at, 0) } else { Ok(()) }
            }
            _ => Err(DAMAGED),
        }
    }

    fn prune_blocks(&mut self, node: u64, link_at: u64, checksum_at: Option<u64>, base: u64, size: u64) -> Result<()> {
        space::find_owner(self.fs.region(), Class::Cell, node)?;
        for block in (0..BLOCKS_PER_EXTENT).rev() {
            let start = base * EXTENT + block * BLOCK;
            let at = node + block * 8;
            if start >= size
                && let Target::Block(found) = Target::decode(self.staged(at)?)?
            {
                self.unlink(Class::Block, found, at, (BLOCK / 512) as i64)?;
            }
        }
        if base * EXTENT >= size {
            self.unlink(Class::Cell, node, link_at, 0)?;
            self.forget_checksum(checksum_at)?;
        }
        Ok(())
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
                        self.unlink(Class::Extent, unit, slot.map_at, (EXTENT / 512) as i64)?;
                        self.forget_checksum(Some(slot.checksum_at))?;
                    }
                    Target::Block(unit) if at.is_multiple_of(EXTENT) && here >= BLOCK => {
                        self.unlink(Class::Block, unit, slot.map_at, (BLOCK / 512) as i64)?;
                        self.forget_checksum(Some(slot.checksum_at))?;
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
                self.unlink(Class::Block, found, at, (BLOCK / 512) as i64)?;
            }
        }
        Ok(())
    }
}
