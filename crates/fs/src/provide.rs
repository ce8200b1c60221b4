//! Giving the bytes of a file a place: extents, or blocks at the edges, zeroed, linked under the inode's lock.

use crate::checksum;
use crate::file_map::{BLOCKS_PER_EXTENT, Slot};
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId};
use crate::map_word::Target;
use crate::{Errno, Result};
use lifeboat_region::lane::{Lane, Transaction};
use lifeboat_region::layout::{BLOCK, CELL, EXTENT};
use lifeboat_region::owner::Kind;
use lifeboat_region::space::{Class, Unit};
use lifeboat_region::{DAMAGED, MustFence};

/// From this extent on a file is large: its holes are filled by extents, not blocks.
const LARGE_FROM: u64 = 4;
/// Extents of a 2 MiB run.
const RUN: u64 = 32;

impl FileSystem {
    /// Gives every byte of `[start, end)` a place, zeroed; short when space ends. The inode is locked.
    pub(crate) fn provide_locked(&self, lane: &Lane<'_>, inode: InodeId, start: u64, end: u64) -> Result<()> {
        let mut last = None;
        let mut at = start;
        while at < end {
            let here = (end - at).min(EXTENT - at % EXTENT);
            self.provide_extent(lane, inode, at, here, end, &mut last)?;
            at += here;
        }
        Ok(())
    }

    pub(crate) fn provide_extent(
        &self,
        lane: &Lane<'_>,
        inode: InodeId,
        at: u64,
        here: u64,
        end: u64,
        last: &mut Option<u64>,
    ) -> Result<()> {
        let extent = at / EXTENT;
        let slot = self.ensure_slot(lane, inode, extent)?;
        let target = Target::decode(self.region().load(slot.map_at)?)?;
        if self.is_mapped(inode, target, at % EXTENT, here)? {
            return Ok(());
        }
        if target == Target::Hole {
            // When a file was large and was cut to nothing, the word of its only extent may still speak of earlier bytes.
            checksum::before_linking(self.region(), slot.checksum_at)?;
        }
        if target == Target::Hole && (extent >= LARGE_FROM || here >= EXTENT / 2) {
            match self.allocate_extent(lane, extent, end, *last) {
                Ok(unit) => {
                    *last = Some(unit.at);
                    return self.link_extent(lane, inode, slot, &unit);
                }
                Err(Errno::NOSPC) => {}
                Err(error) => return Err(error),
            }
        }
        self.provide_blocks(lane, inode, slot, at % EXTENT, here)
    }

    pub(crate) fn allocate_extent(&self, lane: &Lane<'_>, extent: u64, end: u64, last: Option<u64>) -> Result<Unit> {
        // A large file begins each 2 MiB in a chunk of its own.
        if extent.is_multiple_of(RUN) && (extent > 0 || end >= RUN * EXTENT) {
            lane.allocate_run(Class::Extent)
        } else {
            lane.allocate(Class::Extent, last)
        }
    }

    fn zeroed(&self, unit: &Unit) -> Result<MustFence> {
        if unit.clean { Ok(MustFence::nothing()) } else { self.region().zero(unit.at, unit.class.size() as usize) }
    }

    fn link_extent(&self, lane: &Lane<'_>, inode: InodeId, slot: Slot, unit: &Unit) -> Result<()> {
        let data = self.zeroed(unit)?;
        let mut transaction = lane.begin();
        self.link_unit(&mut transaction, unit, Kind::Data, inode)?;
        transaction.set(slot.map_at, Target::Extent(unit.at).encode())?;
        self.add_blocks(&mut transaction, inode, (EXTENT / 512) as i64)?;
        transaction.commit(data)
    }

    /// Stages a change of the file's allocated space, in units of 512 bytes.
    pub(crate) fn add_blocks(&self, transaction: &mut Transaction<'_, '_>, inode: InodeId, count: i64) -> Result<()> {
        let at = inode.at() + inode::BLOCKS;
        let now = transaction.get(at)?;
        transaction.set(at, now.saturating_add_signed(count))
    }

    /// Gives the blocks of `[from, from + length)` of an extent places of 4 KiB.
    pub(crate) fn provide_blocks(
        &self,
        lane: &Lane<'_>,
        inode: InodeId,
        slot: Slot,
        from: u64,
        length: u64,
    ) -> Result<()> {
        let region = self.region();
        let target = Target::decode(region.load(slot.map_at)?)?;
        let (first, last) = (from / BLOCK, (from + length - 1) / BLOCK);
        let mut transaction = lane.begin();
        let mut data = MustFence::nothing();
        if target == Target::Hole && last == 0 {
            let block = match self.data_block(lane) {
                // All that is free may be large.
                Err(Errno::NOSPC) => {
                    let unit = lane.allocate(Class::Extent, None)?;
                    return self.link_extent(lane, inode, slot, &unit);
                }
                other => other?,
            };
            data = data.and(self.zeroed(&block)?);
            self.link_unit(&mut transaction, &block, Kind::Data, inode)?;
            transaction.set(slot.map_at, Target::Block(block.at).encode())?;
            self.add_blocks(&mut transaction, inode, (BLOCK / 512) as i64)?;
            return transaction.commit(data);
        }
        let node = match target {
            Target::Blocks(node) => node,
            Target::Hole | Target::Block(_) => {
                let node = lane.allocate(Class::Cell, None)?;
                region.zero(node.at, CELL as usize)?.fence();
                region.commit(node.at, region.load(slot.map_at)?, MustFence::nothing())?;
                self.link_unit(&mut transaction, &node, Kind::Blocks, inode)?;
                transaction.set(slot.map_at, Target::Blocks(node.at).encode())?;
                node.at
            }
            _ => return Err(DAMAGED),
        };
        let mut outcome = Ok(());
        for block in first..=last.min(BLOCKS_PER_EXTENT - 1) {
            if transaction.get(node + block * 8)? != 0 {
                continue;
            }
            match self.data_block(lane) {
                Ok(unit) => {
                    data = data.and(self.zeroed(&unit)?);
                    self.link_unit(&mut transaction, &unit, Kind::Data, inode)?;
                    transaction.set(node + block * 8, Target::Block(unit.at).encode())?;
                    self.add_blocks(&mut transaction, inode, (BLOCK / 512) as i64)?;
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        transaction.commit(data)?;
        outcome
    }

    fn data_block(&self, lane: &Lane<'_>) -> Result<Unit> {
        lane.allocate(Class::Block, None)
    }
}
