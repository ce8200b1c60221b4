//! A file's map: from an extent's number to where its bytes and its checksum word are.
//!
//! The root word of a small file is its only extent; larger files have a tree of cells: index nodes of 32 words, then
//! nodes of 16 pairs {map word, checksum word}. Each word commits by itself, so look-ups take no lock.

use crate::checksum;
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId};
use crate::map_word::{EXTENTS_PER_NODE, HEIGHT_LARGEST, INDEX_WORDS, Target, span};
use crate::{Errno, Result};
use lifeboat_region::announcements::{Announced, announced};
use lifeboat_region::lane::Lane;
use lifeboat_region::layout::{BLOCK, CELL, EXTENT};
use lifeboat_region::owner::Kind;
use lifeboat_region::space::{self, Class, Unit};
use lifeboat_region::witness::Words;
use lifeboat_region::{DAMAGED, MustFence};

/// Blocks in an extent.
pub(crate) const BLOCKS_PER_EXTENT: u64 = EXTENT / BLOCK;

/// Where the words of one extent are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) map_at: u64,
    pub(crate) checksum_at: u64,
}

/// A node of a file's map.
fn node(words: &impl Words, inode: InodeId, at: u64, kind: Kind) -> Result<u64> {
    space::expect(words, Class::Cell, at, kind, inode.number()).map(|_| at)
}

/// As [`FileSystem::find_slot`].
pub(crate) fn find_slot(words: &impl Words, inode: InodeId, extent: u64) -> Result<Option<Slot>> {
    let root_at = inode.at() + inode::ROOT;
    let mut word = words.load(root_at)?;
    let mut left = extent;
    let mut expected = None;
    for _ in 0..=HEIGHT_LARGEST + 1 {
        match Target::decode(word)? {
            Target::Index(node, height) if (1..=HEIGHT_LARGEST).contains(&height) => {
                if expected.is_some_and(|expected| expected != height) {
                    return Err(DAMAGED);
                }
                let child = left / span(height);
                if child >= INDEX_WORDS {
                    return Ok(None);
                }
                left %= span(height);
                expected = Some(height - 1);
                word = words.load(self::node(words, inode, node, Kind::Index)? + child * 8)?;
            }
            Target::Extents(node) => {
                if left >= EXTENTS_PER_NODE {
                    return Ok(None);
                }
                let at = self::node(words, inode, node, Kind::Extents)? + left * 16;
                return Ok(Some(Slot { map_at: at, checksum_at: at + 8 }));
            }
            Target::Hole if expected.is_some() => return Ok(None),
            Target::Hole | Target::Extent(_) | Target::Block(_) | Target::Blocks(_) if expected.is_none() => {
                let checksum_at = inode.at() + inode::ROOT_CHECKSUM;
                return Ok((extent == 0).then_some(Slot { map_at: root_at, checksum_at }));
            }
            _ => return Err(DAMAGED),
        }
    }
    Err(DAMAGED)
}

/// As [`FileSystem::block_at`].
pub(crate) fn block_at(words: &impl Words, inode: InodeId, target: Target, block: u64) -> Result<Option<u64>> {
    let expect = |class, at| space::expect(words, class, at, Kind::Data, inode.number());
    match target {
        Target::Extent(at) => {
            expect(Class::Extent, at)?;
            Ok(Some(at + block * BLOCK))
        }
        Target::Block(at) if block == 0 => {
            expect(Class::Block, at)?;
            Ok(Some(at))
        }
        Target::Hole | Target::Block(_) => Ok(None),
        Target::Blocks(node) => {
            match Target::decode(words.load(self::node(words, inode, node, Kind::Blocks)? + block * 8)?)? {
                Target::Hole => Ok(None),
                Target::Block(at) => {
                    expect(Class::Block, at)?;
                    Ok(Some(at))
                }
                _ => Err(DAMAGED),
            }
        }
        _ => Err(DAMAGED),
    }
}

impl FileSystem {
    fn node(&self, inode: InodeId, at: u64, kind: Kind) -> Result<u64> {
        node(self.region(), inode, at, kind)
    }

    /// The words of an extent; `None` when no node covers it, which reads as a hole.
    #[inline]
    pub(crate) fn find_slot(&self, inode: InodeId, extent: u64) -> Result<Option<Slot>> {
        find_slot(self.region(), inode, extent)
    }

    /// The first extent at or after `from` that is not a hole.
    pub(crate) fn next_mapped(&self, inode: InodeId, from: u64) -> Result<Option<u64>> {
        self.next_below(inode, self.field(inode, inode::ROOT)?, 0, from, HEIGHT_LARGEST + 1)
    }

    fn next_below(&self, inode: InodeId, word: u64, base: u64, from: u64, above: u8) -> Result<Option<u64>> {
        match Target::decode(word)? {
            Target::Hole => Ok(None),
            Target::Extent(_) | Target::Block(_) | Target::Blocks(_) => Ok((base >= from).then_some(base)),
            Target::Extents(node) => {
                for index in from.saturating_sub(base)..EXTENTS_PER_NODE {
                    if self.region().load(self.node(inode, node, Kind::Extents)? + index * 16)? != 0 {
                        return Ok(Some(base + index));
                    }
                }
                Ok(None)
            }
            Target::Index(node, height) if height > 0 && height < above => {
                for index in from.saturating_sub(base) / span(height)..INDEX_WORDS {
                    let below = self.region().load(self.node(inode, node, Kind::Index)? + index * 8)?;
                    let found = self.next_below(inode, below, base + index * span(height), from, height)?;
                    if found.is_some() {
                        return Ok(found);
                    }
                }
                Ok(None)
            }
            _ => Err(DAMAGED),
        }
    }

    fn new_node(&self, lane: &Lane<'_>) -> Result<Unit> {
        let node = lane.allocate(Class::Cell, None)?;
        self.region().zero(node.at, CELL as usize)?.fence();
        Ok(node)
    }

    /// The words of an extent, growing the tree to it. The inode is locked.
    pub(crate) fn ensure_slot(&self, lane: &Lane<'_>, inode: InodeId, extent: u64) -> Result<Slot> {
        loop {
            if let Some(slot) = self.find_slot(inode, extent)? {
                return Ok(slot);
            }
            self.grow_towards(lane, inode, extent)?;
        }
    }

    /// Adds one node on the way to `extent`.
    fn grow_towards(&self, lane: &Lane<'_>, inode: InodeId, extent: u64) -> Result<()> {
        let root_at = inode.at() + inode::ROOT;
        let root = self.region().load(root_at)?;
        match Target::decode(root)? {
            Target::Hole | Target::Extent(_) | Target::Block(_) | Target::Blocks(_) => {
                self.push_down_only_extent(lane, inode, root)
            }
            Target::Extents(_) => self.raise(lane, inode, root, 1),
            Target::Index(_, height) if extent >= span(height) * INDEX_WORDS => {
                if height == HEIGHT_LARGEST {
                    return Err(Errno::FBIG);
                }
                self.raise(lane, inode, root, height + 1)
            }
            Target::Index(node, height) => self.grow_below(lane, inode, node, height, extent),
            Target::Entry(_) | Target::Cell(_) => Err(DAMAGED),
        }
    }

    /// The only extent of a small file, with its checksum word, moves into a node.
    fn push_down_only_extent(&self, lane: &Lane<'_>, inode: InodeId, root: u64) -> Result<()> {
        let region = self.region();
        let checksum = region.load(inode.at() + inode::ROOT_CHECKSUM)?;
        let node = self.new_node(lane)?;
        region.commit(node.at, root, MustFence::nothing())?;
        region.commit(node.at + 8, checksum, MustFence::nothing())?;
        let mut transaction = lane.begin();
        self.link_unit(&mut transaction, &node, Kind::Extents, inode)?;
        transaction.set(inode.at() + inode::ROOT, Target::Extents(node.at).encode())?;
        transaction.commit(MustFence::nothing())?;
        // A writer that looked before may still believe in the old checksum word.
        if checksum != 0 && announced(region, inode.to_word(), Some(lane.index()))? != Announced::Nothing {
            checksum::make_stale(region, node.at + 8)?;
        }
        Ok(())
    }

    fn raise(&self, lane: &Lane<'_>, inode: InodeId, root: u64, height: u8) -> Result<()> {
        let node = self.new_node(lane)?;
        self.region().commit(node.at, root, MustFence::nothing())?;
        let mut transaction = lane.begin();
        self.link_unit(&mut transaction, &node, Kind::Index, inode)?;
        transaction.set(inode.at() + inode::ROOT, Target::Index(node.at, height).encode())?;
        transaction.commit(MustFence::nothing())
    }

    fn grow_below(&self, lane: &Lane<'_>, inode: InodeId, node: u64, height: u8, extent: u64) -> Result<()> {
        let (mut node, mut height, mut left) = (node, height, extent);
        loop {
            let child = left / span(height);
            if child >= INDEX_WORDS {
                return Err(DAMAGED);
            }
            let at = self.node(inode, node, Kind::Index)? + child * 8;
            left %= span(height);
            match Target::decode(self.region().load(at)?)? {
                Target::Index(below, lower) if lower + 1 == height && lower > 0 => (node, height) = (below, lower),
                Target::Hole => {
                    let fresh = self.new_node(lane)?;
                    let (kind, target) = match height {
                        1 => (Kind::Extents, Target::Extents(fresh.at)),
                        _ => (Kind::Index, Target::Index(fresh.at, height - 1)),
                    };
                    let mut transaction = lane.begin();
                    self.link_unit(&mut transaction, &fresh, kind, inode)?;
                    transaction.set(at, target.encode())?;
                    return transaction.commit(MustFence::nothing());
                }
                _ => return Err(DAMAGED),
            }
        }
    }

    /// Where the block with number `block` of an extent lies; `None` in a hole.
    #[inline]
    pub(crate) fn block_at(&self, inode: InodeId, target: Target, block: u64) -> Result<Option<u64>> {
        block_at(self.region(), inode, target, block)
    }

    /// Calls `piece(offset in the extent, length, offset in the region or None in a hole)` for the runs of
    /// `[from, from + length)` of an extent.
    pub(crate) fn each_run(
        &self,
        inode: InodeId,
        target: Target,
        from: u64,
        length: u64,
        mut piece: impl FnMut(u64, u64, Option<u64>) -> Result<()>,
    ) -> Result<()> {
        if let Target::Extent(_) = target {
            let at = self.block_at(inode, target, 0)?.map(|at| at + from);
            return piece(from, length, at);
        }
        let end = from + length;
        let mut at = from;
        while at < end {
            let block = at / BLOCK;
            let here = (end - at).min(BLOCK - at % BLOCK);
            let found = self.block_at(inode, target, block)?.map(|found| found + at % BLOCK);
            piece(at, here, found)?;
            at += here;
        }
        Ok(())
    }

    /// Whether every byte of `[from, from + length)` of an extent has a place.
    pub(crate) fn is_mapped(&self, inode: InodeId, target: Target, from: u64, length: u64) -> Result<bool> {
        let mut whole = true;
        self.each_run(inode, target, from, length, |_, _, at| {
            whole &= at.is_some();
            Ok(())
        })?;
        Ok(whole)
    }
}
