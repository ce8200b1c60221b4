//! Opening: from a path and flags to an open file.

use crate::claim::Claim;
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId};
use crate::namespace::NewInode;
use crate::open_file::{INODE, OpenFile, Wish, may_change, reads, writes};
use crate::types::{Caller, LastLink};
use crate::walk::{EXECUTE, Ending, Last, Place, READ, WRITE};
use crate::{Errno, Result};
use lifeboat_region::MustFence;
use rustix::fs::OFlags;

/// What opening a path leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    /// An open file of the region.
    File(OpenFile),
    /// A FIFO, which the caller may open as asked for; that is the kernel's to do.
    Fifo(InodeId),
}

impl Opened {
    /// The open file; `ENXIO` for a FIFO, where the kernel is not asked.
    pub fn file(self) -> Result<OpenFile> {
        match self {
            Opened::File(file) => Ok(file),
            Opened::Fifo(_) => Err(Errno::NXIO),
        }
    }
}

impl FileSystem {
    /// Opens a path. `flags` are the kernel's `O_*` bits. A FIFO answers `ENXIO`.
    pub fn open(&self, who: &Caller<'_>, dir: InodeId, path: &[u8], flags: i32, mode: u32) -> Result<OpenFile> {
        self.open_any(who, dir, path, flags, mode)?.file()
    }

    /// Opens a path, for callers that can open a FIFO.
    pub fn open_any(&self, who: &Caller<'_>, dir: InodeId, path: &[u8], flags: i32, mode: u32) -> Result<Opened> {
        self.open_with(who, dir, path, flags, mode, None)
    }

    /// As [`FileSystem::open_any`]; the open file is `kept`, if that is one that [`FileSystem::close_and_keep`] kept. What cannot be opened
    /// leaves it kept.
    pub fn open_with(
        &self,
        who: &Caller<'_>,
        dir: InodeId,
        path: &[u8],
        flags: i32,
        mode: u32,
        kept: Option<OpenFile>,
    ) -> Result<Opened> {
        let mut flags = OFlags::from_bits_retain(flags as u32);
        if flags.contains(OFlags::PATH) {
            flags &= OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        }
        if flags.contains(OFlags::TMPFILE) {
            return self.open_nameless(who, dir, path, Wish { flags, kept }, mode).map(Opened::File);
        }
        if flags.contains(OFlags::CREATE | OFlags::DIRECTORY) {
            return Err(Errno::INVAL);
        }
        let creates = flags.contains(OFlags::CREATE);
        let last = match path.last() {
            Some(b'/') if creates => Last::Create,
            Some(b'/') => Last::Follow,
            _ if flags.contains(OFlags::CREATE | OFlags::EXCL) => Last::Unseen,
            _ if flags.contains(OFlags::NOFOLLOW) => Last::Keep,
            _ if creates => Last::Create,
            _ => Last::Follow,
        };
        self.at_place(who, dir, path, last, |mut place| {
            if last == Last::Unseen && place.ending == Ending::Name {
                self.look(&mut place)?;
            }
            self.open_at(who, &place, Wish { flags, kept }, mode)
        })
    }

    fn open_at(&self, who: &Caller<'_>, place: &Place<'_>, wish: Wish, mode: u32) -> Result<Opened> {
        let flags = wish.flags;
        if flags.contains(OFlags::CREATE) {
            if place.slash {
                return Err(Errno::ISDIR);
            }
            if place.ending != Ending::Name {
                return Err(if flags.contains(OFlags::EXCL) { Errno::EXIST } else { Errno::ISDIR });
            }
            if place.found.is_some() && flags.contains(OFlags::EXCL) {
                return Err(Errno::EXIST);
            }
        }
        let mut found = place.found;
        for _ in 0..crate::TRIES {
            let inode = match found {
                Some(inode) => inode,
                None if !flags.contains(OFlags::CREATE) => {
                    // Made by one rank for all to write: the others' nodes look for it in vain.
                    let _other_node_has_it = if writes(flags) { self.claim(place)? } else { Claim::NONE };
                    return Err(Errno::NOENT);
                }
                None => {
                    let new = NewInode { mode: inode::REGULAR | mode & 0o7777, device: 0, links: 1, flags: 0 };
                    let claim = self.claim(place)?;
                    // Its creator may write whatever the mode says.
                    match self
                        .open_new(wish, |file| self.create_at(who, place, &new, |_, _, inode| self.bind(file, inode)))
                    {
                        Ok(file) => {
                            claim.keep();
                            return Ok(Opened::File(file));
                        }
                        Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => {
                            let name = self.name(place.name)?;
                            found = self.find(place.dir, &name)?.map(|found| found.child);
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                }
            };
            let opened = self.open_found(who, place, inode, wish);
            // Removed since it was found, an error says nothing of it: its cell may hold something else by now.
            match if opened.is_err() { self.while_there(inode, opened) } else { opened } {
                Err(Errno::STALE) if place.ending == Ending::Name => {
                    let name = self.name(place.name)?;
                    found = self.find(place.dir, &name)?.map(|found| found.child);
                }
                other => return other.map_err(inode::gone),
            }
        }
        // The name leads to nothing, however often it is looked at.
        Err(Errno::UCLEAN)
    }

    fn open_found(&self, who: &Caller<'_>, place: &Place<'_>, inode: InodeId, wish: Wish) -> Result<Opened> {
        if place.slash && !self.is_directory(inode)? {
            return Err(Errno::NOTDIR);
        }
        let claim = self.claim_to_write(who, place, inode, wish.flags)?;
        let opened = self.open_existing(who, inode, wish)?;
        claim.keep();
        Ok(opened)
    }

    /// Claims the name of a file that is about to be opened for writing, if it may be.
    fn claim_to_write<'a>(
        &'a self,
        who: &Caller<'_>,
        place: &Place<'a>,
        inode: InodeId,
        flags: OFlags,
    ) -> Result<Claim<'a>> {
        if self.claims.is_none() || !may_change(flags) || self.mode(inode)? & inode::TYPE_MASK != inode::REGULAR {
            return Ok(Claim::NONE);
        }
        self.permit_open(who, inode, flags)?;
        self.claim(place)
    }

    fn open_existing(&self, who: &Caller<'_>, inode: InodeId, wish: Wish) -> Result<Opened> {
        let flags = wish.flags;
        self.validate(inode)?;
        let kind = self.mode(inode)? & inode::TYPE_MASK;
        if flags.contains(OFlags::PATH) {
            if flags.contains(OFlags::DIRECTORY) && kind != inode::DIRECTORY {
                return Err(Errno::NOTDIR);
            }
            return self.take_slot(inode, wish).map(Opened::File);
        }
        match kind {
            inode::LINK if flags.contains(OFlags::DIRECTORY) => return Err(Errno::NOTDIR),
            inode::LINK => return Err(Errno::LOOP),
            inode::DIRECTORY if writes(flags) || flags.intersects(OFlags::CREATE | OFlags::TRUNC) => {
                return Err(Errno::ISDIR);
            }
            inode::DIRECTORY | inode::REGULAR => {}
            _ if flags.contains(OFlags::DIRECTORY) => return Err(Errno::NOTDIR),
            // Nothing is behind a socket or device name.
            _ => {
                self.permit_open(who, inode, flags)?;
                self.permit_noatime(who, inode, flags)?;
                return if kind == inode::FIFO { Ok(Opened::Fifo(inode)) } else { Err(Errno::NXIO) };
            }
        }
        if flags.contains(OFlags::DIRECTORY) && kind != inode::DIRECTORY {
            return Err(Errno::NOTDIR);
        }
        self.permit_open(who, inode, flags)?;
        self.permit_noatime(who, inode, flags)?;
        if flags.contains(OFlags::TRUNC) && kind == inode::REGULAR {
            self.permit(who, inode, WRITE)?;
            self.resize(inode, 0)?;
        }
        self.take_slot(inode, wish).map(Opened::File)
    }

    /// Only owners read without leaving a trace.
    fn permit_noatime(&self, who: &Caller<'_>, inode: InodeId, flags: OFlags) -> Result<()> {
        if flags.contains(OFlags::NOATIME) && !who.is_privileged() && self.field(inode, inode::IDS)? as u32 != who.uid {
            return Err(Errno::PERM);
        }
        Ok(())
    }

    fn permit_open(&self, who: &Caller<'_>, inode: InodeId, flags: OFlags) -> Result<()> {
        let wanted = if reads(flags) { READ } else { 0 } | if writes(flags) { WRITE } else { 0 };
        self.permit(who, inode, wanted)
    }

    /// `O_TMPFILE`: a regular file without a name in the directory `path`.
    fn open_nameless(&self, who: &Caller<'_>, dir: InodeId, path: &[u8], wish: Wish, mode: u32) -> Result<OpenFile> {
        let flags = wish.flags;
        if !writes(flags) {
            return Err(Errno::INVAL);
        }
        let parent = self.resolve(who, dir, path, LastLink::Follow)?;
        let permitted = match self.is_directory(parent)? {
            true => self.permit(who, parent, WRITE | EXECUTE),
            false => Err(Errno::NOTDIR),
        };
        self.while_there(parent, permitted).map_err(inode::gone)?;
        let linkable = if flags.contains(OFlags::EXCL) { 0 } else { inode::LINKABLE };
        let new = NewInode { mode: inode::REGULAR | mode & 0o7777, device: 0, links: 0, flags: linkable };
        self.open_new(Wish { flags: flags - OFlags::TMPFILE, ..wish }, |file| {
            let lane = self.lane()?;
            self.lock_inode(&lane, parent).map_err(inode::gone)?;
            let mut transaction = lane.begin();
            let id = self.new_inode(&mut transaction, &lane, who, parent, &new)?;
            let data = self.bind(file, id)?;
            transaction.commit(data)?;
            Ok(id)
        })
    }

    /// Makes an inode that is open from its first moment: nobody can remove it in between.
    fn open_new(&self, wish: Wish, make: impl Fn(OpenFile) -> Result<InodeId>) -> Result<OpenFile> {
        let file = self.reserve_slot(wish)?;
        match self.with_room(|| make(file)) {
            Ok(inode) => self.publish_slot(file, inode, wish).map(|()| file),
            Err(error) => {
                self.give_slot_back(file, wish)?;
                Err(error)
            }
        }
    }

    /// Ties a reserved slot to an inode that is still private.
    fn bind(&self, file: OpenFile, inode: InodeId) -> Result<MustFence> {
        self.region().commit(self.open_file_at(file)? + INODE, inode.to_word(), MustFence::nothing())?;
        self.set(inode, inode::OPENS, 1)?;
        Ok(MustFence::nothing())
    }

    /// Opens an inode that somebody has open already (`/proc/self/fd`). Permissions are not checked again.
    pub fn open_inode(&self, who: &Caller<'_>, inode: InodeId, flags: i32) -> Result<OpenFile> {
        self.open_any_inode(who, inode, flags)?.file()
    }

    /// As [`FileSystem::open_inode`], for callers that can open a FIFO.
    pub fn open_any_inode(&self, who: &Caller<'_>, inode: InodeId, flags: i32) -> Result<Opened> {
        let flags = OFlags::from_bits_retain(flags as u32);
        self.open_existing(who, inode, Wish::new(flags))
            .map_err(|error| if error == Errno::STALE { Errno::NOENT } else { error })
    }
}
