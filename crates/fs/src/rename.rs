//! Rename: over existing names, exchanging, across directories; one transaction.

use crate::directory::Found;
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, entry_kind};
use crate::namespace::NewInode;
use crate::types::Caller;
use crate::walk::{Ending, Last, Place, WRITE};
use crate::{Errno, Result};
use lifeboat_region::lane::{Lane, Transaction};
use lifeboat_region::layout::RENAME_LOCK;
use lifeboat_region::{MustFence, process};

/// Fail when the new name exists.
pub const NO_REPLACE: u32 = 1;
/// Exchange the two names.
pub const EXCHANGE: u32 = 2;

/// Leave a whiteout under the old name: a character device 0/0 that says "removed here" to overlays.
pub const WHITEOUT: u32 = 4;

/// Directories above each other before a tree is called damaged.
const DEPTH_LARGEST: usize = 1 << 20;

struct Move<'a> {
    who: &'a Caller<'a>,
    old: Place<'a>,
    new: Place<'a>,
    flags: u32,
}

impl FileSystem {
    /// Renames. `flags`: `RENAME_NOREPLACE` (1) and `RENAME_WHITEOUT` (4), together or alone, or `RENAME_EXCHANGE` (2).
    pub fn rename(
        &self,
        who: &Caller<'_>,
        old_dir: InodeId,
        old_path: &[u8],
        new_dir: InodeId,
        new_path: &[u8],
        flags: u32,
    ) -> Result<()> {
        if flags & !(NO_REPLACE | WHITEOUT) != 0 && flags != EXCHANGE {
            return Err(Errno::INVAL);
        }
        // Both directories are found, and the kinds of both endings looked at, before either last name is.
        self.at_place(who, old_dir, old_path, Last::Unseen, |old| {
            self.at_place(who, new_dir, new_path, Last::Unseen, |new| {
                if old.ending != Ending::Name {
                    return Err(Errno::BUSY);
                }
                if new.ending != Ending::Name {
                    return Err(if flags & NO_REPLACE != 0 { Errno::EXIST } else { Errno::BUSY });
                }
                let (mut old, mut new) = (old, new);
                self.look(&mut old)?.ok_or(Errno::NOENT)?;
                self.look(&mut new)?;
                let step = Move { who, old, new, flags };
                self.rename_claimed(&step)
            })
        })
    }

    /// The new names belong to this region before they lead anywhere, and the old ones are free afterwards.
    fn rename_claimed(&self, step: &Move<'_>) -> Result<()> {
        let source = step.old.found.ok_or(Errno::NOENT)?;
        let claim = self.claim_move(source, &step.new)?;
        let exchanged = step.new.found.filter(|_| step.flags == EXCHANGE);
        let back = exchanged.map(|target| self.claim_move(target, &step.old)).transpose()?;
        self.with_room(|| self.rename_once(step))?;
        claim.keep();
        if step.new.found != Some(source) {
            self.give_up_moved(source, &step.old);
        }
        if let (Some(target), Some(back)) = (exchanged, back) {
            back.keep();
            // Files of either directory may have had the names of the other's.
            self.give_up_moved(target, &step.new);
            self.claim_move(target, &step.old)?.keep();
            self.claim_move(source, &step.new)?.keep();
        }
        Ok(())
    }

    fn rename_once(&self, step: &Move<'_>) -> Result<()> {
        let (mut source, mut target) = (step.old.found.ok_or(Errno::NOENT)?, step.new.found);
        for _ in 0..crate::TRIES {
            let lane = self.lane()?;
            // Moving a directory changes who is above whom: one at a time.
            if step.old.dir != step.new.dir && (self.is_directory(source)? || step.flags == EXCHANGE) {
                lane.lock(RENAME_LOCK, self)?;
            }
            let mut inodes = [step.old.dir, step.new.dir, source, target.unwrap_or(source)];
            match self.lock_inodes(&lane, &mut inodes) {
                Err(Errno::STALE) => {
                    drop(lane);
                    source = self.look_again(&step.old, Some(source))?.ok_or(Errno::NOENT)?;
                    target = self.look_again(&step.new, target)?;
                    continue;
                }
                other => other?,
            }
            let [found, existing] = [&step.old, &step.new]
                .map(|place| self.look_locked(place.dir, place.name, place.looked).map(|(_, met)| met.ok()));
            let (found, existing) = (found?.ok_or(Errno::NOENT)?, existing?);
            if found.child != source || existing.map(|existing| existing.child) != target {
                (source, target) = (found.child, existing.map(|existing| existing.child));
                continue;
            }
            return self.rename_locked(&lane, step, found, existing);
        }
        Err(Errno::UCLEAN)
    }

    /// The order of the checks is the kernel's.
    fn rename_locked(&self, lane: &Lane<'_>, step: &Move<'_>, found: Found, existing: Option<Found>) -> Result<()> {
        let source = found.child;
        let is_directory = self.is_directory(source)?;
        match existing {
            None if step.flags == EXCHANGE => return Err(Errno::NOENT),
            Some(_) if step.flags & NO_REPLACE != 0 => return Err(Errno::EXIST),
            Some(other) if step.flags == EXCHANGE && step.new.slash && !self.is_directory(other.child)? => {
                return Err(Errno::NOTDIR);
            }
            _ => {}
        }
        let slash = step.old.slash || (step.new.slash && step.flags != EXCHANGE);
        if slash && !is_directory {
            return Err(Errno::NOTDIR);
        }
        self.not_into_itself(step, source, is_directory, existing)?;
        if existing.is_some_and(|existing| existing.child == source) {
            // Two names of one file: nothing to do.
            return Ok(());
        }
        self.changeable(step.who, step.old.dir)?;
        self.sticky_permits(step.who, step.old.dir, source)?;
        self.changeable(step.who, step.new.dir)?;
        if let Some(existing) = existing {
            self.sticky_permits(step.who, step.new.dir, existing.child)?;
            if step.flags != EXCHANGE {
                match (is_directory, self.is_directory(existing.child)?) {
                    (true, false) => return Err(Errno::NOTDIR),
                    (false, true) => return Err(Errno::ISDIR),
                    _ => {}
                }
            }
        }
        if is_directory && step.old.dir != step.new.dir {
            // `..` changes.
            self.permit(step.who, source, WRITE)?;
        }
        match existing {
            Some(existing) if step.flags == EXCHANGE => self.exchange(lane, step, found, existing),
            Some(existing) => self.replace(lane, step, found, existing),
            None => self.move_name(lane, step, found),
        }
    }

    /// Neither may be above the directory of the other.
    fn not_into_itself(
        &self,
        step: &Move<'_>,
        source: InodeId,
        is_directory: bool,
        existing: Option<Found>,
    ) -> Result<()> {
        if step.old.dir == step.new.dir {
            return Ok(());
        }
        if is_directory && self.is_above(source, step.new.dir)? {
            return Err(Errno::INVAL);
        }
        if let Some(existing) = existing
            && self.is_directory(existing.child)?
            && self.is_above(existing.child, step.old.dir)?
        {
            return Err(if step.flags == EXCHANGE { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        Ok(())
    }

    fn is_above(&self, upper: InodeId, lower: InodeId) -> Result<bool> {
        let mut dir = lower;
        for _ in 0..DEPTH_LARGEST {
            if dir == upper {
                return Ok(true);
            }
            if dir == self.root() {
                return Ok(false);
            }
            dir = self.parent(dir)?;
        }
        Err(Errno::UCLEAN)
    }

    fn move_name(&self, lane: &Lane<'_>, step: &Move<'_>, found: Found) -> Result<()> {
        let source = found.child;
        let mode = self.mode(source)?;
        let is_directory = mode & inode::TYPE_MASK == inode::DIRECTORY;
        let new_name = self.name(step.new.name)?;
        let mut transaction = lane.begin();
        let names = self.leave(&mut transaction, lane, step, &found)?;
        let spot = self.spot(&transaction, step.new.dir, &new_name)?;
        self.insert(&mut transaction, lane, step.new.dir, &new_name, spot, source, entry_kind(mode))?;
        let links = (is_directory && step.old.dir != step.new.dir) as i64;
        self.touch_directory(&mut transaction, step.old.dir, names, -links)?;
        self.touch_directory(&mut transaction, step.new.dir, 1, links)?;
        self.arrive(&mut transaction, source, is_directory, step.new.dir)?;
        transaction.commit(MustFence::nothing())
    }

    /// Takes the old name away, or makes it lead to a whiteout; by how many names its directory changes.
    fn leave(
        &self,
        transaction: &mut Transaction<'_, '_>,
        lane: &Lane<'_>,
        step: &Move<'_>,
        found: &Found,
    ) -> Result<i64> {
        if step.flags & WHITEOUT == 0 {
            self.remove(transaction, step.old.dir, found)?;
            return Ok(-1);
        }
        let new = NewInode { mode: inode::CHARACTER, device: 0, links: 1, flags: 0 };
        let whiteout = self.new_inode(transaction, lane, step.who, step.old.dir, &new)?;
        self.redirect(transaction, step.old.dir, found, whiteout, entry_kind(new.mode))?;
        Ok(0)
    }

    fn arrive(
        &self,
        transaction: &mut Transaction<'_, '_>,
        inode: InodeId,
        is_directory: bool,
        dir: InodeId,
    ) -> Result<()> {
        if is_directory {
            transaction.set(inode.at() + inode::DEVICE, dir.to_word())?;
        }
        // No part of the transaction: writers of the file set it without a lock.
        self.set(inode, inode::CHANGED, process::now() as u64)
    }

    fn replace(&self, lane: &Lane<'_>, step: &Move<'_>, found: Found, existing: Found) -> Result<()> {
        let (source, victim) = (found.child, existing.child);
        let mode = self.mode(source)?;
        let is_directory = mode & inode::TYPE_MASK == inode::DIRECTORY;
        if is_directory && !self.is_empty_directory(victim)? {
            return Err(Errno::NOTEMPTY);
        }
        let mut transaction = lane.begin();
        self.redirect(&mut transaction, step.new.dir, &existing, source, entry_kind(mode))?;
        // In one chain the two entries may point to each other: `remove` reads what is staged.
        let names = self.leave(&mut transaction, lane, step, &found)?;
        let moved = (is_directory && step.old.dir != step.new.dir) as i64;
        let lost = is_directory as i64;
        self.touch_directory(&mut transaction, step.old.dir, names, -moved)?;
        self.touch_directory(&mut transaction, step.new.dir, 0, moved - lost)?;
        self.drop_link(&mut transaction, victim, is_directory)?;
        self.arrive(&mut transaction, source, is_directory, step.new.dir)?;
        transaction.commit(MustFence::nothing())?;
        for other in [step.old.dir, step.new.dir, source] {
            self.unlock_inode(lane, other)?;
        }
        self.release_if_unused(lane, victim)
    }

    fn exchange(&self, lane: &Lane<'_>, step: &Move<'_>, found: Found, existing: Found) -> Result<()> {
        let (one, other) = (found.child, existing.child);
        let (one_mode, other_mode) = (self.mode(one)?, self.mode(other)?);
        let is_directory = |mode: u32| mode & inode::TYPE_MASK == inode::DIRECTORY;
        if is_directory(other_mode) && step.old.dir != step.new.dir {
            self.permit(step.who, other, WRITE)?;
        }
        let mut transaction = lane.begin();
        self.redirect(&mut transaction, step.old.dir, &found, other, entry_kind(other_mode))?;
        self.redirect(&mut transaction, step.new.dir, &existing, one, entry_kind(one_mode))?;
        let change = is_directory(other_mode) as i64 - is_directory(one_mode) as i64;
        let change = if step.old.dir == step.new.dir { 0 } else { change };
        self.touch_directory(&mut transaction, step.old.dir, 0, change)?;
        self.touch_directory(&mut transaction, step.new.dir, 0, -change)?;
        self.arrive(&mut transaction, one, is_directory(one_mode), step.new.dir)?;
        self.arrive(&mut transaction, other, is_directory(other_mode), step.old.dir)?;
        transaction.commit(MustFence::nothing())
    }
}
