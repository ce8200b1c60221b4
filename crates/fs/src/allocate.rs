//! `fallocate`: space before it is written, and holes after.

use crate::checksum;
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, SIZE_LARGEST, size_of, size_word};
use crate::open_file::OpenFile;
use crate::truncate::Pruner;
use crate::{Errno, Result};
use lifeboat_region::lane::Lane;
use lifeboat_region::layout::{BLOCK, EXTENT};
use lifeboat_region::{MustFence, process};

const KEEP_SIZE: u32 = 1;
const PUNCH_KEEP: u32 = 2 | KEEP_SIZE;
const ZERO_RANGE: u32 = 16;
const ZERO_KEEP: u32 = ZERO_RANGE | KEEP_SIZE;

/// Bytes given places under one hold of the lock.
const STEP: u64 = 16 * EXTENT;

impl FileSystem {
    /// `fallocate`. `mode`: 0, keep-size (1), punch-hole with keep-size (3), zero-range (16, 17). Others: `OPNOTSUPP`.
    pub fn allocate(&self, file: OpenFile, mode: u32, offset: u64, length: u64) -> Result<()> {
        self.sync(file)?;
        if length == 0 {
            return Err(Errno::INVAL);
        }
        if !matches!(mode, 0 | KEEP_SIZE | PUNCH_KEEP | ZERO_RANGE | ZERO_KEEP) {
            return Err(Errno::OPNOTSUPP);
        }
        let inode = self.writable_inode(file)?;
        let end = offset.checked_add(length).filter(|&end| end <= SIZE_LARGEST).ok_or(Errno::FBIG)?;
        if self.mode(inode)? & inode::TYPE_MASK != inode::REGULAR {
            return Err(Errno::NODEV);
        }
        self.drop_set_ids_unlocked(inode)?;
        match mode {
            0 | KEEP_SIZE => self.reserve(inode, offset, end, mode == 0),
            PUNCH_KEEP => self.punch(inode, offset, end),
            _ => self.punch(inode, offset, end).and_then(|()| self.reserve(inode, offset, end, mode == ZERO_RANGE)),
        }
    }

    fn reserve(&self, inode: InodeId, offset: u64, end: u64, grow: bool) -> Result<()> {
        let lane = self.lane()?;
        let mut at = offset;
        while at < end {
            let next = end.min(at - at % STEP + STEP);
            self.with_room(|| {
                self.lock_inode(&lane, inode)?;
                let result = self.provide_locked(&lane, inode, at, next);
                self.unlock_inode(&lane, inode)?;
                result
            })?;
            at = next;
        }
        self.finish_reserve(&lane, inode, if grow { end } else { 0 })
    }

    fn finish_reserve(&self, lane: &Lane<'_>, inode: InodeId, end: u64) -> Result<()> {
        self.lock_inode(lane, inode)?;
        let word_at = inode.at() + inode::SIZE;
        loop {
            let word = self.region().load(word_at)?;
            if size_of(word) >= end
                || self.region().commit_exchange(word_at, word, size_word(end, word >> 48), MustFence::nothing())?
            {
                break;
            }
        }
        self.changed_now(inode)?;
        self.unlock_inode(lane, inode)
    }

    fn changed_now(&self, inode: InodeId) -> Result<()> {
        let now = process::now() as u64;
        self.set(inode, inode::MODIFIED, now)?;
        self.set(inode, inode::CHANGED, now)
    }

    /// Zeroes `[offset, end)`, giving whole blocks back.
    fn punch(&self, inode: InodeId, offset: u64, end: u64) -> Result<()> {
        let lane = self.lane()?;
        self.lock_inode(&lane, inode)?;
        let mut at = offset;
        while at < end {
            let here = (end - at).min(EXTENT - at % EXTENT);
            if let Some(slot) = self.find_slot(inode, at / EXTENT)?
                && self.region().load(slot.map_at)? != 0
            {
                checksum::make_stale(self.region(), slot.checksum_at)?;
            } else if self.find_slot(inode, at / EXTENT)?.is_none() && at / EXTENT > self.last_extent(inode)? {
                break;
            }
            at += here;
        }
        let inside_end = end.min(self.allocated_end(inode)?);
        let first_whole = offset.next_multiple_of(BLOCK);
        let last_whole = inside_end - inside_end % BLOCK;
        self.zero_linked(inode, offset, inside_end)?;
        if first_whole < last_whole {
            Pruner::of_living_file(self, &lane, inode).punch(first_whole, last_whole)?;
        }
        self.changed_now(inode)
    }

    fn last_extent(&self, inode: InodeId) -> Result<u64> {
        Ok(self.allocated_end(inode)? / EXTENT)
    }

    /// No byte at or after this one has a place.
    fn allocated_end(&self, inode: InodeId) -> Result<u64> {
        let root = self.field(inode, inode::ROOT)?;
        let covered = match crate::map_word::Target::decode(root)? {
            crate::map_word::Target::Index(_, height) => crate::map_word::span(height + 1),
            crate::map_word::Target::Extents(_) => crate::map_word::EXTENTS_PER_NODE,
            _ => 1,
        };
        Ok((covered * EXTENT).min(SIZE_LARGEST + 1))
    }
}
