//! Open files: slots in the region, shared by every process that holds a descriptor of the open file description.
//!
//! | word | meaning |
//! |---|---|
//! | 0 | bits 0..2 state (free, opening, live, closing); 2 tagged; 16..32 slot and 32..48 generation of the image; 48..64 generation |
//! | 1 | inode id |
//! | 2 | offset |
//! | 3 | flags (`O_*`) |
//!
//! A slot's image is the one that opened it. A *tagged* slot also has a placeholder file whose kernel lock tells whether
//! some descriptor, in whatever process, still refers to it.

use crate::data::{Source, total};
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, SIZE_LARGEST, size_of};
use crate::namespace::NewInode;
use crate::types::{Caller, LastLink, Position};
use crate::walk::{Ending, Last, Place, READ, WRITE};
use crate::{Errno, Result, UserSource, UserTarget};
use core::sync::atomic::Ordering;
use lifeboat_region::image::{self, Image};
use lifeboat_region::layout::OPEN_FILE;
use lifeboat_region::{MustFence, process};
use rustix::fs::{FlockOperation, Mode, OFlags};

const FREE: u64 = 0;
const OPENING: u64 = 1;
const LIVE: u64 = 2;
const CLOSING: u64 = 3;
const STATE: u64 = 3;
const TAGGED: u64 = 4;

const INODE: u64 = 8;
const OFFSET: u64 = 16;
const FLAGS: u64 = 24;

/// Flags that open acts on once and forgets.
const ONCE: OFlags = OFlags::CREATE
    .union(OFlags::EXCL)
    .union(OFlags::TRUNC)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);
/// Flags that can be changed later.
const CHANGEABLE: OFlags = OFlags::APPEND
    .union(OFlags::NONBLOCK)
    .union(OFlags::DIRECT)
    .union(OFlags::NOATIME);

/// An open file description: an index into the region's table, shared by all processes that hold a descriptor of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenFile(pub u32);

fn state_word(state: u64, image: Image, generation: u16) -> u64 {
    state | (image.slot as u64) << 16 | (image.generation as u64) << 32 | (generation as u64) << 48
}

fn opener(word: u64) -> Image {
    Image { slot: (word >> 16) as u16 as u32, generation: (word >> 32) as u16 }
}

fn mode_of(flags: OFlags) -> OFlags {
    flags & OFlags::RWMODE
}

fn writes(flags: OFlags) -> bool {
    !flags.contains(OFlags::PATH) && mode_of(flags) != OFlags::RDONLY
}

fn reads(flags: OFlags) -> bool {
    !flags.contains(OFlags::PATH) && mode_of(flags) != OFlags::WRONLY
}

impl FileSystem {
    pub(crate) fn open_file_at(&self, file: OpenFile) -> Result<u64> {
        let g = self.region().geometry();
        if file.0 as u64 >= g.open_files {
            return Err(Errno::BADF);
        }
        Ok(g.open_files_at + file.0 as u64 * OPEN_FILE)
    }

    fn live(&self, file: OpenFile) -> Result<u64> {
        let at = self.open_file_at(file)?;
        if self.region().load(at)? & STATE != LIVE { Err(Errno::BADF) } else { Ok(at) }
    }

    fn flags(&self, file: OpenFile) -> Result<(u64, OFlags)> {
        let at = self.live(file)?;
        Ok((at, OFlags::from_bits_retain(self.region().load(at + FLAGS)? as u32)))
    }

    /// The inode of an open file.
    pub fn inode_of(&self, file: OpenFile) -> Result<InodeId> {
        let at = self.live(file)?;
        Ok(InodeId::from_word(self.region().load(at + INODE)?))
    }

    /// Access mode and status flags, as `F_GETFL` tells them.
    pub fn flags_of(&self, file: OpenFile) -> Result<i32> {
        Ok(self.flags(file)?.1.bits() as i32)
    }

    /// Changes the status flags that can be changed, as `F_SETFL` does.
    pub fn set_flags(&self, file: OpenFile, flags: i32) -> Result<()> {
        let (at, now) = self.flags(file)?;
        let wanted = OFlags::from_bits_retain(flags as u32) & CHANGEABLE;
        let next = (now - CHANGEABLE) | wanted;
        self.region().commit(at + FLAGS, next.bits() as u64, MustFence::nothing())
    }

    /// Says that a placeholder now shows whether the open file is still held (see the module's head).
    pub fn mark_tagged(&self, file: OpenFile) -> Result<()> {
        let at = self.live(file)?;
        self.region().word(at)?.fetch_or(TAGGED, Ordering::SeqCst);
        Ok(())
    }

    /// Opens a path. `flags` are the kernel's `O_*` bits.
    pub fn open(&self, who: &Caller<'_>, dir: InodeId, path: &[u8], flags: i32, mode: u32) -> Result<OpenFile> {
        let mut flags = OFlags::from_bits_retain(flags as u32);
        if flags.contains(OFlags::PATH) {
            flags &= OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        }
        if flags.contains(OFlags::TMPFILE) {
            return self.open_nameless(who, dir, path, flags, mode);
        }
        if flags.contains(OFlags::CREATE | OFlags::DIRECTORY) {
            return Err(Errno::INVAL);
        }
        let keep = flags.contains(OFlags::NOFOLLOW) || flags.contains(OFlags::CREATE | OFlags::EXCL);
        let creates = flags.contains(OFlags::CREATE);
        let last = match (keep, path.last() == Some(&b'/')) {
            (_, true) if creates => Last::Create,
            (true, false) => Last::Keep,
            _ if creates => Last::Create,
            _ => Last::Follow,
        };
        self.at_place(who, dir, path, last, |place| self.open_at(who, &place, flags, mode))
    }

    fn open_at(&self, who: &Caller<'_>, place: &Place<'_>, flags: OFlags, mode: u32) -> Result<OpenFile> {
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
                None if !flags.contains(OFlags::CREATE) => return Err(Errno::NOENT),
                None => {
                    let new = NewInode {
                        mode: inode::REGULAR | mode & 0o7777 & !who.umask,
                        device: 0,
                        links: 1,
                        flags: 0,
                    };
                    // Its creator may write whatever the mode says.
                    match self.open_new(flags, |file| {
                        self.create_at(who, place, &new, |_, _, inode| self.bind(file, inode))
                    }) {
                        Ok(file) => return Ok(file),
                        Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => {
                            let name = self.name(place.name)?;
                            found = self.find(place.dir, &name)?.map(|found| found.child);
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                }
            };
            if place.slash && !self.is_directory(inode)? {
                return Err(Errno::NOTDIR);
            }
            match self.open_existing(who, inode, flags) {
                // Removed since it was found.
                Err(Errno::STALE) if place.ending == Ending::Name => {
                    let name = self.name(place.name)?;
                    found = self.find(place.dir, &name)?.map(|found| found.child);
                }
                Err(Errno::STALE) => return Err(Errno::NOENT),
                other => return other,
            }
        }
        // The name leads to nothing, however often it is looked at.
        Err(Errno::UCLEAN)
    }

    fn open_existing(&self, who: &Caller<'_>, inode: InodeId, flags: OFlags) -> Result<OpenFile> {
        self.validate(inode)?;
        let kind = self.mode(inode)? & inode::TYPE_MASK;
        if flags.contains(OFlags::PATH) {
            if flags.contains(OFlags::DIRECTORY) && kind != inode::DIRECTORY {
                return Err(Errno::NOTDIR);
            }
            return self.take_slot(inode, flags);
        }
        match kind {
            inode::LINK if flags.contains(OFlags::DIRECTORY) => return Err(Errno::NOTDIR),
            inode::LINK => return Err(Errno::LOOP),
            inode::DIRECTORY if writes(flags) || flags.intersects(OFlags::CREATE | OFlags::TRUNC) => return Err(Errno::ISDIR),
            inode::DIRECTORY | inode::REGULAR => {}
            _ if flags.contains(OFlags::DIRECTORY) => return Err(Errno::NOTDIR),
            // Nothing is behind a FIFO, socket or device name.
            _ => {
                self.permit_open(who, inode, flags)?;
                return Err(Errno::NXIO);
            }
        }
        if flags.contains(OFlags::DIRECTORY) && kind != inode::DIRECTORY {
            return Err(Errno::NOTDIR);
        }
        self.permit_open(who, inode, flags)?;
        if flags.contains(OFlags::NOATIME) && who.uid != 0 && self.field(inode, inode::IDS)? as u32 != who.uid {
            return Err(Errno::PERM);
        }
        if flags.contains(OFlags::TRUNC) && kind == inode::REGULAR {
            self.permit(who, inode, WRITE)?;
            self.resize(inode, 0)?;
        }
        if writes(flags) && self.field(inode, inode::MODE)? & inode::SEALED != 0 {
            self.unseal(inode)?;
        }
        self.take_slot(inode, flags)
    }

    fn permit_open(&self, who: &Caller<'_>, inode: InodeId, flags: OFlags) -> Result<()> {
        let wanted = if reads(flags) { READ } else { 0 } | if writes(flags) { WRITE } else { 0 };
        self.permit(who, inode, wanted)
    }

    /// `O_TMPFILE`: a regular file without a name in the directory `path`.
    fn open_nameless(
        &self,
        who: &Caller<'_>,
        dir: InodeId,
        path: &[u8],
        flags: OFlags,
        mode: u32,
    ) -> Result<OpenFile> {
        if !writes(flags) {
            return Err(Errno::INVAL);
        }
        let parent = self.resolve(who, dir, path, LastLink::Follow)?;
        if !self.is_directory(parent)? {
            return Err(Errno::NOTDIR);
        }
        self.permit(who, parent, WRITE | crate::walk::EXECUTE)?;
        let linkable = if flags.contains(OFlags::EXCL) { 0 } else { inode::LINKABLE };
        let new = NewInode {
            mode: inode::REGULAR | mode & 0o7777 & !who.umask,
            device: 0,
            links: 0,
            flags: linkable,
        };
        self.open_new(flags - OFlags::TMPFILE, |file| {
            let lane = self.lane()?;
            let mut transaction = lane.begin();
            let id = self.new_inode(&mut transaction, &lane, who, parent, &new)?;
            let data = self.bind(file, id)?;
            transaction.commit(data)?;
            Ok(id)
        })
    }

    /// Makes an inode that is open from its first moment: nobody can remove it in between.
    fn open_new(&self, flags: OFlags, make: impl Fn(OpenFile) -> Result<InodeId>) -> Result<OpenFile> {
        let file = self.reserve_slot()?;
        let at = self.open_file_at(file)?;
        let made = self.with_room(|| make(file));
        let word = self.region().load(at)?;
        match made {
            Ok(inode) => self.publish_slot(file, inode, flags),
            Err(error) => {
                self.region().commit(at, word & !0xffff, MustFence::nothing())?;
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
        let flags = OFlags::from_bits_retain(flags as u32);
        self.open_existing(who, inode, flags).map_err(|error| if error == Errno::STALE { Errno::NOENT } else { error })
    }

    /// Takes a slot for the inode. `NFILE` when the table is full of open files.
    fn take_slot(&self, inode: InodeId, flags: OFlags) -> Result<OpenFile> {
        let file = self.reserve_slot()?;
        let at = self.open_file_at(file)?;
        self.region().commit(at + INODE, inode.to_word(), MustFence::nothing())?;
        let lane = self.lane()?;
        let counted = self.lock_inode(&lane, inode).and_then(|()| {
            let opens = self.field(inode, inode::OPENS)?;
            self.set(inode, inode::OPENS, opens + 1)
        });
        if let Err(error) = counted {
            let word = self.region().load(at)?;
            self.region().commit(at, word & !0xffff, MustFence::nothing())?;
            return Err(error);
        }
        self.publish_slot(file, inode, flags)
    }

    fn publish_slot(&self, file: OpenFile, inode: InodeId, flags: OFlags) -> Result<OpenFile> {
        let at = self.open_file_at(file)?;
        let word = self.region().load(at)?;
        self.region().commit(at + INODE, inode.to_word(), MustFence::nothing())?;
        self.region().commit(at + OFFSET, 0, MustFence::nothing())?;
        self.region().commit(at + FLAGS, (flags - ONCE).bits() as u64, MustFence::nothing())?;
        self.region().commit(at, word & !STATE | LIVE, MustFence::nothing())?;
        Ok(file)
    }

    fn reserve_slot(&self) -> Result<OpenFile> {
        match self.free_slot() {
            Err(Errno::NFILE) => {
                self.sweep()?;
                self.free_slot()
            }
            other => other,
        }
    }

    fn free_slot(&self) -> Result<OpenFile> {
        let me = image::own(self.region())?;
        let count = self.region().geometry().open_files as u32;
        let start = self.open_file_cursor.load(Ordering::Relaxed);
        for step in 0..count {
            let file = OpenFile(start.wrapping_add(step) % count);
            let at = self.open_file_at(file)?;
            let word = self.region().load(at)?;
            if word & STATE != FREE {
                continue;
            }
            let mine = state_word(OPENING, me, ((word >> 48) as u16).wrapping_add(1));
            if self.region().commit_exchange(at, word, mine, MustFence::nothing())? {
                self.region().commit(at + INODE, 0, MustFence::nothing())?;
                self.open_file_cursor.store(file.0.wrapping_add(1), Ordering::Relaxed);
                return Ok(file);
            }
        }
        Err(Errno::NFILE)
    }

    /// The last descriptor anywhere is gone: frees the slot, and the inode if nothing else keeps it.
    pub fn close(&self, file: OpenFile) -> Result<()> {
        let at = self.live(file)?;
        let word = self.region().load(at)?;
        self.close_word(file, word)
    }

    fn close_word(&self, file: OpenFile, word: u64) -> Result<()> {
        let at = self.open_file_at(file)?;
        if word & STATE != LIVE {
            return Err(Errno::BADF);
        }
        let me = image::own(self.region())?;
        let closing = state_word(CLOSING, me, (word >> 48) as u16);
        if !self.region().commit_exchange(at, word, closing, MustFence::nothing())? {
            return Err(Errno::BADF);
        }
        self.finish_close(at, closing)
    }

    fn finish_close(&self, at: u64, closing: u64) -> Result<()> {
        let inode = InodeId::from_word(self.region().load(at + INODE)?);
        let lane = self.lane()?;
        match self.lock_inode(&lane, inode) {
            Ok(()) => {
                let opens = self.field(inode, inode::OPENS)?;
                self.set(inode, inode::OPENS, opens.saturating_sub(1))?;
                self.region().commit(at, closing & !0xffff, MustFence::nothing())?;
                self.release_if_unused(&lane, inode)
            }
            Err(error) => {
                self.region().commit(at, closing & !0xffff, MustFence::nothing())?;
                if error == Errno::STALE { Ok(()) } else { Err(error) }
            }
        }
    }

    /// Whether some open file that is really held refers to the inode, which is locked. Slots that nobody holds any
    /// more are freed on the way.
    pub(crate) fn is_open(&self, inode: InodeId) -> Result<bool> {
        let mut open = false;
        for index in 0..self.region().geometry().open_files as u32 {
            let at = self.open_file_at(OpenFile(index))?;
            let word = self.region().load(at)?;
            if word & STATE == FREE || self.region().load(at + INODE)? != inode.to_word() {
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
            None => self.tag_is_locked(file),
        }
    }

    fn is_own(&self, image: Image) -> Result<bool> {
        Ok(image::has_own(self.region()) && image::own(self.region())? == image)
    }

    /// Asks the kernel whether a descriptor of the placeholder is open anywhere.
    fn tag_is_locked(&self, file: OpenFile) -> Result<bool> {
        let mut path = [0; 64];
        let length = process::decimal(b"tags/", file.0 as u64, b"", &mut path);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let tag = match rustix::fs::openat(self.region().directory(), &path[..length], flags, Mode::empty()) {
            Ok(tag) => tag,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error),
        };
        match rustix::fs::flock(&tag, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error),
        }
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

    fn reap_one(&self, file: OpenFile, held: Option<&dyn Fn(u32) -> bool>) -> Result<bool> {
        let at = self.open_file_at(file)?;
        let word = self.region().load(at)?;
        match word & STATE {
            LIVE if !self.is_held(file, word, held)? => self.close_word(file, word).map(|()| true),
            OPENING | CLOSING if !self.is_own(opener(word))? && !image::is_alive(self.region(), opener(word))? => {
                // It may have been counted in the inode: too high a count costs a look, no more.
                let inode = InodeId::from_word(self.region().load(at + INODE)?);
                if !self.region().commit_exchange(at, word, word & !0xffff, MustFence::nothing())? {
                    return Ok(false);
                }
                let lane = self.lane()?;
                match self.lock_inode(&lane, inode) {
                    Ok(()) => self.release_if_unused(&lane, inode).map(|()| true),
                    Err(Errno::STALE) => Ok(true),
                    Err(error) => Err(error),
                }
            }
            _ => Ok(false),
        }
    }

    /// Reads into the pieces, in order. Fewer bytes than asked at the end of the file.
    pub fn read(&self, file: OpenFile, into: &[UserTarget<'_>], at: Position) -> Result<usize> {
        let (slot, flags) = self.flags(file)?;
        if !reads(flags) {
            return Err(Errno::BADF);
        }
        let inode = self.inode_of(file)?;
        if self.is_directory(inode)? {
            return Err(Errno::ISDIR);
        }
        let length = total(into.iter().map(UserTarget::len))?;
        let count = match at {
            Position::At(offset) => self.read_range(inode, into, offset, length)?,
            Position::Current => self.read_current(slot, inode, into, length)?,
        };
        if count > 0 && !flags.contains(OFlags::NOATIME) {
            self.set(inode, inode::ACCESSED, process::now() as u64)?;
        }
        Ok(count as usize)
    }

    fn read_current(&self, slot: u64, inode: InodeId, into: &[UserTarget<'_>], length: u64) -> Result<u64> {
        let position = self.region().word(slot + OFFSET)?;
        // Reserved first, so that processes that share the offset read different bytes.
        let (offset, wanted) = loop {
            let offset = position.load(Ordering::Acquire);
            let size = size_of(self.field(inode, inode::SIZE)?);
            let wanted = length.min(size.saturating_sub(offset));
            if position.compare_exchange(offset, offset + wanted, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                break (offset, wanted);
            }
        };
        let outcome = self.read_range(inode, into, offset, wanted);
        let count = *outcome.as_ref().unwrap_or(&0);
        if count < wanted {
            let _ = position.compare_exchange(offset + wanted, offset + count, Ordering::AcqRel, Ordering::Relaxed);
        }
        outcome
    }

    /// Writes the pieces, in order. Fewer bytes than given when space ends; `NOSPC` when there is none at all.
    pub fn write(&self, file: OpenFile, from: &[UserSource<'_>], at: Position) -> Result<usize> {
        let (slot, flags) = self.flags(file)?;
        if !writes(flags) {
            return Err(Errno::BADF);
        }
        let inode = self.inode_of(file)?;
        let length = total(from.iter().map(UserSource::len))?;
        let mut source = Source::new(from);
        if flags.contains(OFlags::APPEND) {
            let (count, start) = self.append_range(inode, &mut source, length)?;
            if at == Position::Current && count > 0 {
                self.region().word(slot + OFFSET)?.store(start + count, Ordering::Release);
            }
            return Ok(count as usize);
        }
        let count = match at {
            Position::At(offset) => self.write_range(inode, &mut source, offset, length)?,
            Position::Current => self.write_current(slot, inode, &mut source, length)?,
        };
        Ok(count as usize)
    }

    fn write_current(&self, slot: u64, inode: InodeId, source: &mut Source<'_, '_>, length: u64) -> Result<u64> {
        let position = self.region().word(slot + OFFSET)?;
        let offset = position.fetch_add(length, Ordering::AcqRel);
        let outcome = self.write_range(inode, source, offset, length);
        let count = *outcome.as_ref().unwrap_or(&0);
        if count < length {
            let _ = position.compare_exchange(offset + length, offset + count, Ordering::AcqRel, Ordering::Relaxed);
        }
        outcome
    }

    /// Moves the offset. `whence`: 0 from the start, 1 from here, 2 from the end, 3 to data, 4 to a hole.
    pub fn seek(&self, file: OpenFile, offset: i64, whence: u32) -> Result<u64> {
        let (slot, flags) = self.flags(file)?;
        if flags.contains(OFlags::PATH) {
            return Err(Errno::BADF);
        }
        let inode = self.inode_of(file)?;
        let position = self.region().word(slot + OFFSET)?;
        let is_directory = self.is_directory(inode)?;
        let base = match whence {
            0 => 0,
            1 => position.load(Ordering::Acquire) as i64,
            2 if is_directory => return Err(Errno::INVAL),
            2 => size_of(self.field(inode, inode::SIZE)?) as i64,
            3 | 4 => {
                let from = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
                let found = self.seek_data(inode, from, whence == 4)?;
                position.store(found, Ordering::Release);
                return Ok(found);
            }
            _ => return Err(Errno::INVAL),
        };
        let to = base.checked_add(offset).ok_or(Errno::OVERFLOW)?;
        // Cookies of directories use all 63 bits.
        if to < 0 || (!is_directory && to as u64 > SIZE_LARGEST) {
            return Err(Errno::INVAL);
        }
        position.store(to as u64, Ordering::Release);
        Ok(to as u64)
    }

    /// Sets the size of an open file.
    pub fn truncate_open(&self, file: OpenFile, length: u64) -> Result<()> {
        let (_, flags) = self.flags(file)?;
        if flags.contains(OFlags::PATH) {
            return Err(Errno::BADF);
        }
        let inode = self.inode_of(file)?;
        if !writes(flags) || self.mode(inode)? & inode::TYPE_MASK != inode::REGULAR {
            return Err(Errno::INVAL);
        }
        self.resize(inode, length)
    }

    /// Everything that was written is where it stays: memory needs no more.
    pub fn sync(&self, file: OpenFile) -> Result<()> {
        if self.flags(file)?.1.contains(OFlags::PATH) { Err(Errno::BADF) } else { Ok(()) }
    }

    /// For calls that need write permission on an open file.
    pub(crate) fn writable_inode(&self, file: OpenFile) -> Result<InodeId> {
        if !writes(self.flags(file)?.1) {
            return Err(Errno::BADF);
        }
        self.inode_of(file)
    }

    /// Whether any open file could write the inode.
    pub(crate) fn has_writer(&self, inode: InodeId) -> Result<bool> {
        for index in 0..self.region().geometry().open_files as u32 {
            let at = self.open_file_at(OpenFile(index))?;
            let word = self.region().load(at)?;
            if word & STATE == LIVE && self.region().load(at + INODE)? == inode.to_word() {
                let flags = OFlags::from_bits_retain(self.region().load(at + FLAGS)? as u32);
                if writes(flags) && self.is_held(OpenFile(index), word, None)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Offset of a directory stream: the cookie where reading goes on.
    pub(crate) fn directory_of(&self, file: OpenFile) -> Result<InodeId> {
        if self.flags(file)?.1.contains(OFlags::PATH) {
            return Err(Errno::BADF);
        }
        let inode = self.inode_of(file)?;
        if self.is_directory(inode)? { Ok(inode) } else { Err(Errno::NOTDIR) }
    }
}

const _: () = assert!(STATE as usize == CLOSING as usize);
