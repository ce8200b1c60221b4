//! Whether anybody holds an open file, and freeing those that nobody does any more.

use crate::file_system::FileSystem;
use crate::inode::InodeId;
use crate::open_file::{
    CLOSING, FLAGS, FREE, INODE, LIVE, OPENING, OpenFile, STATE, Slot, TAGGED, flags_of_word, generation, opener,
    writes,
};
use crate::{Errno, Result};
use lifeboat_region::MustFence;
use lifeboat_region::image::{self, Image};

impl FileSystem {
    /// Whether some open file that is really held refers to the inode, which is locked. Slots that nobody holds any
    /// more are freed on the way.
    pub(crate) fn is_open(&self, inode: InodeId) -> Result<bool> {
        let mut open = false;
        for index in 0..self.region().geometry().open_files as u32 {
            let at = self.open_file_at(OpenFile(index))?;
            let word = self.region().load(at)?;
            if word & STATE == FREE || !self.may_name(at, inode)? {
                continue;
            }
            if word & STATE == LIVE && !self.is_held(OpenFile(index), word, None)? {
                self.region().commit_exchange(at, word, word & !0xffff, MustFence::nothing())?;
                continue;
            }
            open = true;
        }
        Ok(open)
    }

    /// Whether anybody holds the open file: its opener, or a descriptor of its placeholder somewhere.
    fn is_held(&self, file: OpenFile, word: u64, held: Option<&dyn Fn(u32) -> bool>) -> Result<bool> {
        let opener_lives = self.is_own(opener(word))? || image::is_alive(self.region(), opener(word))?;
        if word & TAGGED == 0 {
            return Ok(opener_lives);
        }
        match held {
            Some(held) => Ok(held(file.0)),
            None => Ok(self.region().is_tag_held(file.0, generation(word))?.unwrap_or(opener_lives)),
        }
    }

    fn is_own(&self, image: Image) -> Result<bool> {
        Ok(image::has_own(self.region()) && image::own(self.region())? == image)
    }

    /// Frees the open files that nobody holds any more; tells how many. `held` may answer for tagged ones (by number);
    /// without it the placeholders are asked.
    pub fn reap(&self, held: Option<&dyn Fn(u32) -> bool>) -> usize {
        let mut count = 0;
        for index in 0..self.region().geometry().open_files as u32 {
            count += self.reap_one(OpenFile(index), held).unwrap_or(false) as usize;
        }
        count
    }

    /// Frees the open files that a dead image alone held.
    pub(crate) fn reap_image(&self, image: Image) -> Result<()> {
        for index in 0..self.region().geometry().open_files as u32 {
            let word = self.region().load(self.open_file_at(OpenFile(index))?)?;
            if word & STATE != FREE && opener(word) == image {
                self.reap_one(OpenFile(index), None)?;
            }
        }
        Ok(())
    }

    /// Frees the open file if nobody holds it; never waits, because recovery comes here with locks held.
    pub(crate) fn reap_one(&self, file: OpenFile, held: Option<&dyn Fn(u32) -> bool>) -> Result<bool> {
        let at = self.open_file_at(file)?;
        let word = self.region().load(at)?;
        match word & STATE {
            LIVE if !self.is_held(file, word, held)? => match self.close_word(file, word, false, Slot::Free) {
                // Somebody else is closing it.
                Err(Errno::BADF) => Ok(false),
                slot => Ok(slot? == Slot::Free),
            },
            OPENING | CLOSING if !self.is_own(opener(word))? && !image::is_alive(self.region(), opener(word))? => {
                let inode = InodeId::from_word(self.region().load(at + INODE)?);
                let lane = self.lane()?;
                let locked = match self.slot_inode(at).and_then(|inode| self.try_lock_inode(&lane, inode)) {
                    // Whose it was is not known: it may be another's file.
                    Err(Errno::UCLEAN) => false,
                    Err(Errno::STALE) => false,
                    // Whoever has it locked is not waited for: a sweep comes by later.
                    Ok(false) => return Ok(false),
                    other => other?,
                };
                if locked {
                    self.remove_locks_of_open_file(&lane, inode, file.0, generation(word))?;
                }
                // It may have been counted in the inode: too high a count costs a look, no more.
                if !self.region().commit_exchange(at, word, word & !0xffff, MustFence::nothing())? {
                    return Ok(false);
                }
                if locked {
                    self.release_if_unused(&lane, inode)?;
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Whether any open file could write the inode.
    pub(crate) fn has_writer(&self, inode: InodeId) -> Result<bool> {
        for index in 0..self.region().geometry().open_files as u32 {
            let at = self.open_file_at(OpenFile(index))?;
            let word = self.region().load(at)?;
            if word & STATE == LIVE && self.may_name(at, inode)? {
                let flags = flags_of_word(self.region().load(at + FLAGS)?)?;
                if writes(flags) && self.is_held(OpenFile(index), word, None)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
