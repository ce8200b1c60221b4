//! Pins: units that a mapping shows to a program must not be reused.
//!
//! A pin, 32 bytes: {state 0..2 | slot 16..32 and generation 32..48 of the image, inode id, offset, length}.

use crate::checksum;
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, size_of};
use crate::map_word::Target;
use crate::open_file::OpenFile;
use crate::types::Piece;
use crate::{Errno, Result};
use lifeboat_region::image::{self, Image};
use lifeboat_region::layout::{BLOCK, EXTENT, PIN};
use lifeboat_region::owner::Owner;
use lifeboat_region::space::{self, Class};
use lifeboat_region::{DAMAGED, MustFence};

const HELD: u64 = 1;
/// The mapping may write.
const WRITABLE: u64 = 1 << 2;

/// A mapping's hold on a file's units, until [`FileSystem::unmap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin(pub u32);

fn holder(word: u64) -> Image {
    Image { slot: (word >> 16) as u16 as u32, generation: (word >> 32) as u16 }
}

impl FileSystem {
    fn pin_at(&self, index: u32) -> Result<u64> {
        let g = self.region().geometry();
        if index as u64 >= g.pins {
            return Err(Errno::INVAL);
        }
        Ok(g.pins_at + index as u64 * PIN)
    }

    fn take_pin(&self, inode: InodeId, offset: u64, length: u64, writable: bool) -> Result<Pin> {
        let me = image::own(self.region())?;
        let writable = if writable { WRITABLE } else { 0 };
        let mine = HELD | writable | (me.slot as u64) << 16 | (me.generation as u64) << 32;
        for index in 0..self.region().geometry().pins as u32 {
            let at = self.pin_at(index)?;
            let word = self.region().load(at)?;
            if word & HELD != 0 && image::is_alive(self.region(), holder(word)).unwrap_or(true) {
                continue;
            }
            if self.region().commit_exchange(at, word, mine, MustFence::nothing())? {
                for (field, value) in [(8, inode.to_word()), (16, offset), (24, length)] {
                    self.region().commit(at + field, value, MustFence::nothing())?;
                }
                return Ok(Pin(index));
            }
        }
        Err(Errno::NOMEM)
    }

    /// For mapping `[offset, offset + length)` of an open file: makes every block within the file's size exist, pins
    /// them, and calls `piece` for each run of the region, in order. `offset` is a multiple of 4096.
    pub fn map(
        &self,
        file: OpenFile,
        offset: u64,
        length: u64,
        writable: bool,
        piece: &mut dyn FnMut(Piece),
    ) -> Result<Pin> {
        let inode = self.inode_of(file)?;
        if !offset.is_multiple_of(BLOCK) || length == 0 {
            return Err(Errno::INVAL);
        }
        if self.mode(inode)? & inode::TYPE_MASK != inode::REGULAR {
            return Err(Errno::NODEV);
        }
        let pin = self.take_pin(inode, offset, length, writable)?;
        let result = self.with_room(|| self.map_pinned(inode, offset, length, writable));
        let result = result.and_then(|end| self.each_piece(inode, offset, end, piece));
        if let Err(error) = result {
            self.unmap(pin)?;
            return Err(error);
        }
        Ok(pin)
    }

    fn map_pinned(&self, inode: InodeId, offset: u64, length: u64, writable: bool) -> Result<u64> {
        let lane = self.lane()?;
        self.lock_inode(&lane, inode)?;
        let size = size_of(self.field(inode, inode::SIZE)?);
        let end = size.next_multiple_of(BLOCK).min(offset.saturating_add(length).next_multiple_of(BLOCK));
        if offset >= end {
            return Ok(offset);
        }
        self.provide_locked(&lane, inode, offset, end)?;
        let mut at = offset;
        while at < end {
            let here = (end - at).min(EXTENT - at % EXTENT);
            let slot = self.find_slot(inode, at / EXTENT)?.ok_or(DAMAGED)?;
            if writable {
                checksum::make_stale(self.region(), slot.checksum_at)?;
            }
            let target = Target::decode(self.region().load(slot.map_at)?)?;
            self.each_run(target, at % EXTENT, here, |from, _, place| {
                let unit = place.ok_or(DAMAGED)?;
                match target {
                    Target::Extent(at) if from >= at % EXTENT => self.mark_mapped(Class::Extent, at),
                    _ => self.mark_mapped(Class::Block, unit - unit % BLOCK),
                }
            })?;
            at += here;
        }
        Ok(end)
    }

    fn mark_mapped(&self, class: Class, at: u64) -> Result<()> {
        let owner_at = space::find_owner(self.region(), class, at)?;
        let owner = Owner::decode(self.region().load(owner_at)?).ok_or(DAMAGED)?;
        self.region().commit(owner_at, Owner { mapped: true, ..owner }.encode(), MustFence::nothing())
    }

    fn each_piece(&self, inode: InodeId, offset: u64, end: u64, piece: &mut dyn FnMut(Piece)) -> Result<()> {
        let mut open: Option<Piece> = None;
        let mut at = offset;
        while at < end {
            let here = (end - at).min(EXTENT - at % EXTENT);
            let slot = self.find_slot(inode, at / EXTENT)?.ok_or(DAMAGED)?;
            let target = Target::decode(self.region().load(slot.map_at)?)?;
            let base = at - at % EXTENT;
            self.each_run(target, at % EXTENT, here, |from, length, place| {
                let region_offset = place.ok_or(DAMAGED)?;
                match &mut open {
                    Some(run) if run.region_offset + run.length == region_offset => run.length += length,
                    _ => {
                        let next = Piece { file_offset: base + from, region_offset, length };
                        if let Some(run) = open.replace(next) {
                            piece(run);
                        }
                    }
                }
                Ok(())
            })?;
            at += here;
        }
        if let Some(run) = open {
            piece(run);
        }
        Ok(())
    }

    /// The mapping is gone.
    pub fn unmap(&self, pin: Pin) -> Result<()> {
        self.region().commit(self.pin_at(pin.0)?, 0, MustFence::nothing())
    }

    /// Whether some mapping shows units of the inode with this number.
    pub(crate) fn is_pinned_number(&self, number: u64) -> Result<bool> {
        self.has_pin(number, HELD)
    }

    /// Whether a writable mapping shows units of the inode.
    pub(crate) fn is_pinned_writable(&self, inode: InodeId) -> Result<bool> {
        self.has_pin(inode.number(), HELD | WRITABLE)
    }

    fn has_pin(&self, number: u64, bits: u64) -> Result<bool> {
        for index in 0..self.region().geometry().pins as u32 {
            let at = self.pin_at(index)?;
            let word = self.region().load(at)?;
            if word & bits == bits && InodeId::from_word(self.region().load(at + 8)?).number() == number {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Drops pins whose image is gone.
    pub(crate) fn drop_dead_pins(&self) -> Result<()> {
        for index in 0..self.region().geometry().pins as u32 {
            let at = self.pin_at(index)?;
            let word = self.region().load(at)?;
            if word & HELD != 0 && !image::is_alive(self.region(), holder(word))? {
                let own = image::own(self.region())?;
                if holder(word) != own {
                    self.region().commit_exchange(at, word, 0, MustFence::nothing())?;
                }
            }
        }
        Ok(())
    }
}
