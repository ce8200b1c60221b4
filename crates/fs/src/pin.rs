//! Pins: units that a mapping shows to a program must not be reused.
//!
//! A pin, 32 bytes: {state 0..2 | slot 16..32 and generation 32..48 of the image, inode id, offset, length}.

use crate::file_system::FileSystem;
use crate::inode::InodeId;
use crate::{Errno, Result};
use lifeboat_region::MustFence;
use lifeboat_region::image::{self, Image};
use lifeboat_region::layout::PIN;

const HELD: u64 = 1;
/// The mapping may write.
pub(crate) const WRITABLE: u64 = 1 << 2;

/// A mapping's hold on a file's units, until [`FileSystem::unmap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    index: u32,
    /// Its word while it is held: whose it is.
    word: u64,
}

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

    pub(crate) fn take_pin(&self, inode: InodeId, offset: u64, length: u64, bits: u64) -> Result<Pin> {
        let mine = self.own_word(HELD | bits)?;
        // Proving that a holder is gone costs system calls: only when no pin is free.
        for from_the_dead in [false, true] {
            for index in 0..self.region().geometry().pins as u32 {
                let at = self.pin_at(index)?;
                let word = self.region().load(at)?;
                let held = word & HELD != 0;
                if held && (!from_the_dead || image::is_alive(self.region(), holder(word)).unwrap_or(true)) {
                    continue;
                }
                if self.region().commit_exchange(at, word, mine, MustFence::nothing())? {
                    for (field, value) in [(8, inode.to_word()), (16, offset), (24, length)] {
                        self.region().commit(at + field, value, MustFence::nothing())?;
                    }
                    return Ok(Pin { index, word: mine });
                }
            }
        }
        Err(Errno::NOMEM)
    }

    /// `bits` in the name of this process image.
    fn own_word(&self, bits: u64) -> Result<u64> {
        let me = image::own(self.region())?;
        Ok(bits | (me.slot as u64) << 16 | (me.generation as u64) << 32)
    }

    /// A second hold, by this process image, on what `pin` holds. A process that is about to fork takes one for each of
    /// its mappings; the child then makes them its own with [`FileSystem::adopt_pin`], the parent forgets them (or gives
    /// them back when the fork failed). So there is no moment at which a mapping of the child is held by nobody.
    ///
    /// # Errors
    /// `NOENT` when `pin` is not held (any more), `NOMEM` when all pins of the region are held.
    pub fn copy_pin(&self, pin: Pin) -> Result<Pin> {
        let (inode, offset, length, _) = self.pinned(pin)?;
        let copy = self.take_pin(inode, offset, length, pin.word & WRITABLE)?;
        // Held all the time, so its units were never without a hold.
        if self.region().load(self.pin_at(pin.index)?)? == pin.word {
            return Ok(copy);
        }
        self.unmap(copy)?;
        Err(Errno::NOENT)
    }

    /// Makes `pin`, taken by another process image (the parent, before the fork), this image's own.
    ///
    /// # Errors
    /// `NOENT` when it is not held any more: the other process is gone, and its pins were dropped.
    pub fn adopt_pin(&self, pin: Pin) -> Result<Pin> {
        let word = self.own_word(pin.word & (HELD | WRITABLE))?;
        if self.region().commit_exchange(self.pin_at(pin.index)?, pin.word, word, MustFence::nothing())? {
            Ok(Pin { word, ..pin })
        } else {
            Err(Errno::NOENT)
        }
    }

    /// Inode and range of a pin that is held, and whether its mapping may write.
    pub(crate) fn pinned(&self, pin: Pin) -> Result<(InodeId, u64, u64, bool)> {
        let at = self.pin_at(pin.index)?;
        let field = |offset| self.region().load(at + offset);
        let (inode, offset, length) = (InodeId::from_word(field(8)?), field(16)?, field(24)?);
        if field(0)? != pin.word {
            return Err(Errno::NOENT);
        }
        Ok((inode, offset, length, pin.word & WRITABLE != 0))
    }

    /// The mapping is gone. Nothing happens when the pin is not held any more.
    pub fn unmap(&self, pin: Pin) -> Result<()> {
        self.region().commit_exchange(self.pin_at(pin.index)?, pin.word, 0, MustFence::nothing()).map(|_| ())
    }

    /// Whether some mapping, perhaps of a process that is gone, shows units of the inode with this number.
    pub(crate) fn is_pinned_number(&self, number: u64) -> Result<bool> {
        self.has_pin(number, HELD, |_, _| Ok(true))
    }

    /// Whether a living process has units of the inode mapped. Programs end without unmapping: what pins they left on
    /// this inode are dropped.
    pub(crate) fn is_pinned_by_the_living(&self, inode: InodeId) -> Result<bool> {
        self.has_pin(inode.number(), HELD, |at, word| self.lives(at, word))
    }

    /// Whether a living process has the inode mapped and may write. Drops pins as the above does.
    pub(crate) fn is_pinned_writable(&self, inode: InodeId) -> Result<bool> {
        self.has_pin(inode.number(), HELD | WRITABLE, |at, word| self.lives(at, word))
    }

    fn has_pin(&self, number: u64, bits: u64, counts: impl Fn(u64, u64) -> Result<bool>) -> Result<bool> {
        for index in 0..self.region().geometry().pins as u32 {
            let at = self.pin_at(index)?;
            let word = self.region().load(at)?;
            if word & bits == bits
                && InodeId::from_word(self.region().load(at + 8)?).number() == number
                && counts(at, word)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the holder of a held pin is there, or cannot be proved gone; drops the pin otherwise.
    fn lives(&self, at: u64, word: u64) -> Result<bool> {
        let holder = holder(word);
        if holder == image::own(self.region())? || image::is_alive(self.region(), holder).unwrap_or(true) {
            return Ok(true);
        }
        self.region().commit_exchange(at, word, 0, MustFence::nothing())?;
        Ok(false)
    }

    /// Drops pins whose image is gone.
    pub(crate) fn drop_dead_pins(&self) -> Result<()> {
        for index in 0..self.region().geometry().pins as u32 {
            let at = self.pin_at(index)?;
            let word = self.region().load(at)?;
            if word & HELD != 0 {
                self.lives(at, word)?;
            }
        }
        Ok(())
    }
}
