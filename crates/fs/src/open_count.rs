//! How many open files an inode has, counted without its lock.
//!
//! The count is never too low: who frees an inode that has lost its last name looks for open files only if it is not zero. It is too high
//! after a kill, which costs a look.
//!
//! - While it is counted the inode is announced, in a lane that the process keeps, so its cell stays what it is; what the
//!   announcer finds after that is the inode, or it has been freed.
//! - Who opens counts, then looks for a name. Who takes the last name looks at the count after that. One sees the
//!   other, and an inode without a name is left to the general way, under its lock.
//! - Who closes gives the slot up, counts, then looks for a name. Who takes the last name, and finds an open file that is being
//!   closed, leaves the inode to him. Should he die in between, a sweep finds what nobody can reach.
//! - Locks of files: who takes one asks under the inode's lock whether the slot is open still; who closes looks at that lock, and for
//!   locks, after he gave the slot up.
//! - Seals: who seals holds the inode's lock and looks for writers; who opens to write looks at that lock, and for a seal, after he is
//!   seen as one.

use crate::file_system::FileSystem;
use crate::inode::{self, InodeId};
use crate::open_file::{OpenFile, Wish, generation, writes};
use crate::{Errno, Result};
use core::sync::atomic::Ordering;
use lifeboat_region::kept_lane::InPlace;

/// What counts an open file less.
pub(crate) const ONE_LESS: u64 = u64::MAX;

/// How closing without the inode's lock went.
pub(crate) enum ClosedInPlace {
    /// It has to be done under the lock; nothing has changed.
    No,
    /// The slot is given up; what became of the rest.
    Yes(Result<()>),
}

impl FileSystem {
    /// Counts an open file more (1) or less ([`ONE_LESS`]). A full fence.
    pub(crate) fn count_opens(&self, inode: InodeId, change: u64) -> Result<()> {
        self.region().word(inode.at() + inode::OPENS)?.fetch_add(change, Ordering::SeqCst);
        Ok(())
    }

    /// Opens the inode with a slot that this process has reserved. False when it has to be done under the inode's lock; then nothing
    /// has changed.
    pub(crate) fn open_in_place(&self, file: OpenFile, inode: InodeId, wish: Wish) -> Result<bool> {
        let Some(_announced) = self.announce_opening(inode)? else { return Ok(false) };
        if self.validate(inode).is_err() {
            return Ok(false);
        }
        self.publish_slot(file, inode, wish)?;
        self.count_opens(inode, 1)?;
        let has_name = self.links(inode).is_ok_and(|links| links != 0);
        let may_be_sealed = self.field(inode, inode::LOCK) != Ok(0)
            || self.field(inode, inode::MODE).is_ok_and(|mode| mode & inode::SEALED != 0);
        if has_name && !(may_be_sealed && writes(wish.flags)) {
            return Ok(true);
        }
        self.retract_slot(file)?;
        self.count_opens(inode, ONE_LESS)?;
        Ok(false)
    }

    /// Closes the open file in the slot at `at`, whose state word is `live`, and which is an open file of this inode: `after` is what the
    /// slot's state word becomes. An error leaves the slot to somebody else.
    pub(crate) fn close_in_place(
        &self,
        file: OpenFile,
        inode: InodeId,
        live: u64,
        after: u64,
    ) -> Result<ClosedInPlace> {
        let Some(announced) = self.announce_opening(inode)? else { return Ok(ClosedInPlace::No) };
        if self.validate(inode).is_err() {
            return Ok(ClosedInPlace::No);
        }
        if !self.give_slot_up(file, live, after)? {
            return Err(Errno::BADF);
        }
        Ok(ClosedInPlace::Yes(self.end_of_open(announced, file, inode, generation(live))))
    }

    /// What is left to do when the slot is given up.
    fn end_of_open(&self, announced: InPlace<'_>, file: OpenFile, inode: InodeId, which: u16) -> Result<()> {
        self.count_opens(inode, ONE_LESS)?;
        let is_over = self.links(inode).is_ok_and(|links| links != 0)
            && self.field(inode, inode::LOCK) == Ok(0)
            && self.has_file_locks(inode) == Ok(false);
        if is_over {
            return Ok(());
        }
        let lane = self.lane()?;
        match self.lock_inode(&lane, inode) {
            Err(Errno::STALE) => return Ok(()),
            other => other?,
        }
        drop(announced);
        self.remove_locks_of_open_file(&lane, inode, file.0, which)?;
        self.release_if_unused(&lane, inode)
    }

    fn announce_opening(&self, inode: InodeId) -> Result<Option<InPlace<'_>>> {
        let announced = self.region().announce_inode_in_place(inode.to_word())?;
        if announced.is_none() {
            // The first time; an error of it is one of the general way, too.
            let _ = self.keep_lane();
        }
        Ok(announced)
    }
}
