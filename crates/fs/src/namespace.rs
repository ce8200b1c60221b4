//! Making and removing names. Each operation is one transaction: all of it or nothing, whatever dies when.

use crate::attributes::{GROUP_EXECUTE, SETGID};
use crate::claim::Claim;
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, LINKS_LARGEST, entry_kind, gone, links_of, links_word};
use crate::types::Caller;
use crate::walk::{EXECUTE, Ending, Last, Place, WRITE};
use crate::{Errno, Result};
use lifeboat_region::lane::{Lane, Transaction};
use lifeboat_region::layout::CELL;
use lifeboat_region::owner::{Kind, Owner};
use lifeboat_region::space::Class;
use lifeboat_region::{DAMAGED, MustFence, process};

/// Sticky bit: only owners remove names.
const STICKY: u32 = 0o1000;

/// What a new inode is.
pub(crate) struct NewInode {
    /// Type and permissions as asked for.
    pub(crate) mode: u32,
    /// Device number, for device nodes.
    pub(crate) device: u64,
    /// Links at the start.
    pub(crate) links: u64,
    /// Flags, as in the upper half of the inode's mode word.
    pub(crate) flags: u64,
}

impl FileSystem {
    /// Allocates and fills an inode in `dir`; live when the transaction is.
    pub(crate) fn new_inode(
        &self,
        transaction: &mut Transaction<'_, '_>,
        lane: &Lane<'_>,
        who: &Caller<'_>,
        dir: InodeId,
        new: &NewInode,
    ) -> Result<InodeId> {
        let region = self.region();
        let unit = lane.allocate(Class::Cell, None)?;
        let owner = Owner::decode(region.load(unit.owner_at)?).ok_or(DAMAGED)?;
        let id = InodeId::new(unit.at / CELL, owner.generation);
        region.zero(unit.at, CELL as usize)?.fence();
        let is_directory = new.mode & inode::TYPE_MASK == inode::DIRECTORY;
        let (mode, gid) = self.mode_and_group(who, dir, new.mode)?;
        let now = process::now() as u64;
        let fields = [
            (inode::MODE, mode as u64 | new.flags),
            (inode::LINKS, links_word(new.links)),
            (inode::IDS, who.uid as u64 | (gid as u64) << 32),
            (inode::ACCESSED, now),
            (inode::MODIFIED, now),
            (inode::CHANGED, now),
            (inode::BORN, now),
            (inode::DEVICE, if is_directory { dir.to_word() } else { new.device }),
            (inode::VERSION, 1),
        ];
        region.store_all(unit.at, fields)?;
        transaction.set(unit.owner_at, owner.linked(Kind::Inode, id.number() as u32).encode())?;
        Ok(id)
    }

    /// What a new inode gets when `mode` is asked for. A set-group-id directory passes its group on, and the bit itself
    /// only to directories and to files of callers who are in that group (or whose group cannot execute them).
    fn mode_and_group(&self, who: &Caller<'_>, dir: InodeId, mode: u32) -> Result<(u32, u32)> {
        let kind = mode & inode::TYPE_MASK;
        let (mut granted, mut gid) = (mode, who.gid);
        if self.mode(dir)? & SETGID != 0 {
            gid = (self.field(dir, inode::IDS)? >> 32) as u32;
            let lends_group = mode & (SETGID | GROUP_EXECUTE) == SETGID | GROUP_EXECUTE;
            if kind == inode::DIRECTORY {
                granted |= SETGID;
            } else if lends_group && !who.may_set_group_id(gid) {
                granted &= !SETGID;
            }
        }
        let masked = if kind == inode::LINK { granted } else { granted & !who.umask };
        Ok((masked, gid))
    }

    /// Stages that the directory has `names` more names and `links` more subdirectories, and says that it changes now: times are no
    /// part of the transaction.
    pub(crate) fn touch_directory(
        &self,
        transaction: &mut Transaction<'_, '_>,
        dir: InodeId,
        names: i64,
        links: i64,
    ) -> Result<()> {
        let now = process::now() as u64;
        let at = dir.at();
        self.set(dir, inode::MODIFIED, now)?;
        self.set(dir, inode::CHANGED, now)?;
        // A directory's size counts its names.
        let size = transaction.get(at + inode::SIZE)?;
        transaction.set(at + inode::SIZE, size.wrapping_add_signed(names))?;
        if links != 0 {
            let count = links_of(transaction.get(at + inode::LINKS)?)?;
            transaction.set(at + inode::LINKS, links_word(count.checked_add_signed(links).ok_or(DAMAGED)?))?;
        }
        Ok(())
    }

    /// A locked directory that still has a name, in which `who` may change names.
    pub(crate) fn changeable(&self, who: &Caller<'_>, dir: InodeId) -> Result<()> {
        if self.links(dir)? == 0 {
            return Err(Errno::NOENT);
        }
        self.permit(who, dir, WRITE | EXECUTE)
    }

    /// In a sticky directory only the owner of the file or the directory removes or renames.
    pub(crate) fn sticky_permits(&self, who: &Caller<'_>, dir: InodeId, child: InodeId) -> Result<()> {
        if self.mode(dir)? & STICKY == 0 || who.is_privileged() {
            return Ok(());
        }
        let owns = |inode| -> Result<bool> { Ok(self.field(inode, inode::IDS)? as u32 == who.uid) };
        if owns(dir)? || owns(child)? { Ok(()) } else { Err(Errno::PERM) }
    }

    /// Creates an inode under a name that is free. `EXIST` when it is not (any more).
    pub(crate) fn create_at(
        &self,
        who: &Caller<'_>,
        place: &Place<'_>,
        new: &NewInode,
        fill: impl FnOnce(&Lane<'_>, &mut Transaction<'_, '_>, InodeId) -> Result<MustFence>,
    ) -> Result<InodeId> {
        let lane = self.lane()?;
        self.lock_inode(&lane, place.dir).map_err(gone)?;
        let (name, met) = self.look_locked(place.dir, place.name, place.looked)?;
        let Err(spot) = met else { return Err(Errno::EXIST) };
        self.changeable(who, place.dir)?;
        let mut transaction = lane.begin();
        let id = self.new_inode(&mut transaction, &lane, who, place.dir, new)?;
        let data = fill(&lane, &mut transaction, id)?;
        self.insert(&mut transaction, &lane, place.dir, &name, spot, id, entry_kind(new.mode))?;
        let links = (new.mode & inode::TYPE_MASK == inode::DIRECTORY) as i64;
        self.touch_directory(&mut transaction, place.dir, 1, links)?;
        transaction.commit(data)?;
        Ok(id)
    }

    /// `EXIST` unless the place is a name that means nothing so far.
    fn unused(&self, place: &mut Place<'_>) -> Result<()> {
        if place.ending != Ending::Name || self.look(place)?.is_some() { Err(Errno::EXIST) } else { Ok(()) }
    }

    /// As [`FileSystem::create_at`] for a path; makes room and tries again when the region is full.
    pub(crate) fn create(
        &self,
        who: &Caller<'_>,
        dir: InodeId,
        path: &[u8],
        new: &NewInode,
        fill: impl Fn(&Lane<'_>, &mut Transaction<'_, '_>, InodeId) -> Result<MustFence>,
    ) -> Result<()> {
        let is_directory = new.mode & inode::TYPE_MASK == inode::DIRECTORY;
        self.at_place(who, dir, path, Last::Unseen, |mut place| {
            self.unused(&mut place)?;
            if place.slash && !is_directory {
                return Err(Errno::NOENT);
            }
            let is_regular = new.mode & inode::TYPE_MASK == inode::REGULAR;
            let claim = if is_regular { self.claim(&place)? } else { Claim::NONE };
            self.with_room(|| self.create_at(who, &place, new, &fill)).map(|_| claim.keep())
        })
    }

    /// Makes a directory.
    pub fn mkdir(&self, who: &Caller<'_>, dir: InodeId, path: &[u8], mode: u32) -> Result<()> {
        let mode = inode::DIRECTORY | mode & 0o1777;
        self.create(who, dir, path, &NewInode { mode, device: 0, links: 2, flags: 0 }, |_, _, _| {
            Ok(MustFence::nothing())
        })
    }

    /// Makes a regular file, FIFO, device node or socket name. `mode` has the type; `device` is `st_rdev`. Device nodes
    /// are names only: nothing is behind them.
    pub fn mknod(&self, who: &Caller<'_>, dir: InodeId, path: &[u8], mode: u32, device: u64) -> Result<()> {
        let kind = match mode & inode::TYPE_MASK {
            0 => inode::REGULAR,
            kind @ (inode::REGULAR | inode::FIFO | inode::SOCKET) => kind,
            kind @ (inode::CHARACTER | inode::BLOCK_DEVICE) => kind,
            inode::DIRECTORY => return Err(Errno::PERM),
            _ => return Err(Errno::INVAL),
        };
        let device = if matches!(kind, inode::CHARACTER | inode::BLOCK_DEVICE) { device } else { 0 };
        let mode = kind | mode & 0o7777;
        let is_device = matches!(kind, inode::CHARACTER | inode::BLOCK_DEVICE);
        self.create(who, dir, path, &NewInode { mode, device, links: 1, flags: 0 }, |_, _, _| {
            if is_device && !who.is_privileged() { Err(Errno::PERM) } else { Ok(MustFence::nothing()) }
        })
    }

    /// Makes a symbolic link to `target`, which may be anything.
    pub fn symlink(&self, who: &Caller<'_>, target: &[u8], dir: InodeId, path: &[u8]) -> Result<()> {
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        if target.len() > crate::PATH_LONGEST {
            return Err(Errno::NAMETOOLONG);
        }
        let new = NewInode { mode: inode::LINK | 0o777, device: 0, links: 1, flags: 0 };
        self.create(who, dir, path, &new, |lane, transaction, id| self.store_target(lane, transaction, id, target))
    }

    /// Gives the inode one more name.
    pub fn link(&self, who: &Caller<'_>, old: InodeId, dir: InodeId, path: &[u8]) -> Result<()> {
        self.at_place(who, dir, path, Last::Unseen, |mut place| {
            self.unused(&mut place)?;
            if place.slash {
                return Err(Errno::NOENT);
            }
            let claim = self.claim_move(old, &place)?;
            self.with_room(|| self.link_at(who, old, &place)).map(|()| claim.keep())
        })
    }

    fn link_at(&self, who: &Caller<'_>, old: InodeId, place: &Place<'_>) -> Result<()> {
        let lane = self.lane()?;
        self.lock_inodes(&lane, &mut [old, place.dir]).map_err(gone)?;
        let (name, met) = self.look_locked(place.dir, place.name, place.looked)?;
        let Err(spot) = met else { return Err(Errno::EXIST) };
        self.changeable(who, place.dir)?;
        if self.is_directory(old)? {
            return Err(Errno::PERM);
        }
        let links = self.links(old)?;
        let mode = self.field(old, inode::MODE)?;
        if links == 0 && mode & inode::LINKABLE == 0 {
            return Err(Errno::NOENT);
        }
        if links >= LINKS_LARGEST {
            return Err(Errno::MLINK);
        }
        let mut transaction = lane.begin();
        self.insert(&mut transaction, &lane, place.dir, &name, spot, old, entry_kind(mode as u32))?;
        transaction.set(old.at() + inode::LINKS, links_word(links + 1))?;
        transaction.set(old.at() + inode::MODE, mode & !inode::LINKABLE)?;
        self.set(old, inode::CHANGED, process::now() as u64)?;
        self.touch_directory(&mut transaction, place.dir, 1, 0)?;
        transaction.commit(MustFence::nothing())
    }

    /// Removes a name that is no directory's.
    pub fn unlink(&self, who: &Caller<'_>, dir: InodeId, path: &[u8]) -> Result<()> {
        self.at_place(who, dir, path, Last::Unseen, |mut place| {
            if place.ending != Ending::Name {
                return Err(Errno::ISDIR);
            }
            let child = self.look(&mut place)?.ok_or(Errno::NOENT)?;
            if place.slash {
                return Err(if self.is_directory(child)? { Errno::ISDIR } else { Errno::NOTDIR });
            }
            self.remove_name(who, &place, child, false)?;
            self.give_up_claim(place.dir, place.name);
            Ok(())
        })
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, who: &Caller<'_>, dir: InodeId, path: &[u8]) -> Result<()> {
        self.at_place(who, dir, path, Last::Unseen, |mut place| {
            match place.ending {
                Ending::Name => {}
                Ending::Dot => return Err(Errno::INVAL),
                Ending::DotDot => return Err(Errno::NOTEMPTY),
                Ending::Root => return Err(Errno::BUSY),
            }
            let child = self.look(&mut place)?.ok_or(Errno::NOENT)?;
            self.remove_name(who, &place, child, true)
        })
    }

    fn remove_name(&self, who: &Caller<'_>, place: &Place<'_>, child: InodeId, directory: bool) -> Result<()> {
        let mut child = child;
        for _ in 0..crate::TRIES {
            let lane = self.lane()?;
            match self.lock_inodes(&lane, &mut [place.dir, child]) {
                Err(Errno::STALE) => {
                    drop(lane);
                    child = self.look_again(place, Some(child))?.ok_or(Errno::NOENT)?;
                    continue;
                }
                other => other?,
            }
            // What the name means may have changed before the locks were taken.
            let found = match self.look_locked(place.dir, place.name, place.looked)?.1 {
                Err(_) => return Err(Errno::NOENT),
                Ok(found) if found.child != child => {
                    child = found.child;
                    continue;
                }
                Ok(found) => found,
            };
            self.changeable(who, place.dir)?;
            self.sticky_permits(who, place.dir, child)?;
            match (directory, self.is_directory(child)?) {
                (false, true) => return Err(Errno::ISDIR),
                (true, false) => return Err(Errno::NOTDIR),
                _ => {}
            }
            if directory && !self.is_empty_directory(child)? {
                return Err(Errno::NOTEMPTY);
            }
            let mut transaction = lane.begin();
            self.remove(&mut transaction, place.dir, &found)?;
            self.drop_link(&mut transaction, child, directory)?;
            self.touch_directory(&mut transaction, place.dir, -1, -(directory as i64))?;
            transaction.commit(MustFence::nothing())?;
            self.unlock_inode(&lane, place.dir)?;
            return self.release_if_unused(&lane, child);
        }
        Err(Errno::UCLEAN)
    }

    /// Stages that a locked inode has one name less; a directory has none left.
    pub(crate) fn drop_link(
        &self,
        transaction: &mut Transaction<'_, '_>,
        child: InodeId,
        directory: bool,
    ) -> Result<()> {
        let links = links_of(transaction.get(child.at() + inode::LINKS)?)?;
        let left = if directory { 0 } else { links.saturating_sub(1) };
        transaction.set(child.at() + inode::LINKS, links_word(left))?;
        // No part of the transaction: writers of the file set it without a lock.
        self.set(child, inode::CHANGED, process::now() as u64)
    }
}
