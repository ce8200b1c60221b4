//! Open files: slots in the region, shared by every process that holds a descriptor of the open file description.
//!
//! | word | meaning |
//! |---|---|
//! | 0 | bits 0..2 state (free, opening, live, closing); 2 tagged; 16..32 slot and 32..48 generation of the image; 48..64 generation |
//! | 1 | inode id |
//! | 2 | offset |
//! | 3 | flags (`O_*`) 0..32, their complement 32..64 |
//! | 4 | complement of word 1: a flipped bit must not lead to another file |
//!
//! A slot's image is the one that opened it. It may keep the slot of a file that it closed for the next one that it opens: then the
//! slot is opening and names inode 0, and keeps its generation. A *tagged* slot also has a placeholder file whose kernel lock tells whether
//! some descriptor, in whatever process, still refers to it.

use crate::file_system::FileSystem;
use crate::inode::{self, InodeId};
use crate::{Errno, Result};
use core::sync::atomic::Ordering;
use lifeboat_region::MustFence;
use lifeboat_region::image::{self, Image};
use lifeboat_region::layout::OPEN_FILE;
use rustix::fs::OFlags;

const FREE: u64 = 0;
const OPENING: u64 = 1;
const LIVE: u64 = 2;
const CLOSING: u64 = 3;
const STATE: u64 = 3;
const TAGGED: u64 = 4;

pub(crate) const INODE: u64 = 8;
pub(crate) const OFFSET: u64 = 16;
const FLAGS: u64 = 24;
const INODE_CHECK: u64 = 32;

/// Flags that open acts on once and forgets.
const ONCE: OFlags =
    OFlags::CREATE.union(OFlags::EXCL).union(OFlags::TRUNC).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
/// Flags that can be changed later.
const CHANGEABLE: OFlags = OFlags::APPEND.union(OFlags::NONBLOCK).union(OFlags::DIRECT).union(OFlags::NOATIME);

/// An open file description: an index into the region's table, shared by all processes that hold a descriptor of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenFile(pub u32);

/// How a file is to be opened.
#[derive(Clone, Copy)]
pub(crate) struct Wish {
    pub(crate) flags: OFlags,
    /// A slot that this process kept, to be used if it is.
    pub(crate) kept: Option<OpenFile>,
}

impl Wish {
    pub(crate) const fn new(flags: OFlags) -> Wish {
        Wish { flags, kept: None }
    }
}

/// What became of the slot of an open file that was to be closed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// It is open still: its inode is locked.
    Open,
    Free,
    Kept,
}

fn state_word(state: u64, image: Image, generation: u16) -> u64 {
    state | (image.slot as u64) << 16 | (image.generation as u64) << 32 | (generation as u64) << 48
}

fn opener(word: u64) -> Image {
    Image { slot: (word >> 16) as u16 as u32, generation: (word >> 32) as u16 }
}

fn generation(word: u64) -> u16 {
    (word >> 48) as u16
}

fn mode_of(flags: OFlags) -> OFlags {
    flags & OFlags::RWMODE
}

pub(crate) fn writes(flags: OFlags) -> bool {
    !flags.contains(OFlags::PATH) && mode_of(flags) != OFlags::RDONLY
}

/// Whether a file may be other than it was once it has been opened so.
pub(crate) fn may_change(flags: OFlags) -> bool {
    writes(flags) || (flags.contains(OFlags::TRUNC) && !flags.contains(OFlags::PATH))
}

pub(crate) fn reads(flags: OFlags) -> bool {
    !flags.contains(OFlags::PATH) && mode_of(flags) != OFlags::WRONLY
}

const fn flags_word(flags: OFlags) -> u64 {
    flags.bits() as u64 | (!flags.bits() as u64) << 32
}

fn flags_of_word(word: u64) -> Result<OFlags> {
    let flags = OFlags::from_bits_retain(word as u32);
    if flags_word(flags) == word { Ok(flags) } else { Err(Errno::UCLEAN) }
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

    pub(crate) fn flags(&self, file: OpenFile) -> Result<(u64, OFlags)> {
        let at = self.live(file)?;
        Ok((at, flags_of_word(self.region().load(at + FLAGS)?)?))
    }

    /// Offset of the slot, flags and inode of an open file.
    #[inline]
    pub(crate) fn opened(&self, file: OpenFile) -> Result<(u64, OFlags, Result<InodeId>)> {
        let (at, flags) = self.flags(file)?;
        Ok((at, flags, self.slot_inode(at)))
    }

    /// The inode of an open file.
    pub fn inode_of(&self, file: OpenFile) -> Result<InodeId> {
        let at = self.live(file)?;
        self.slot_inode(at)
    }

    /// The inode that the slot at `at` names; `UCLEAN` when its two words do not agree.
    fn slot_inode(&self, at: u64) -> Result<InodeId> {
        let inode = self.region().load(at + INODE)?;
        if self.region().load(at + INODE_CHECK)? == !inode { Ok(InodeId::from_word(inode)) } else { Err(Errno::UCLEAN) }
    }

    fn set_slot_inode(&self, at: u64, inode: u64) -> Result<()> {
        self.region().commit(at + INODE, inode, MustFence::nothing())?;
        self.region().commit(at + INODE_CHECK, !inode, MustFence::nothing())
    }

    /// Whether the slot at `at` may name the inode: one of its words may be damaged.
    fn may_name(&self, at: u64, inode: InodeId) -> Result<bool> {
        let (word, check) = (self.region().load(at + INODE)?, self.region().load(at + INODE_CHECK)?);
        Ok(word == inode.to_word() || check == !inode.to_word())
    }

    /// Which of the open files that had this number it is.
    pub fn generation_of(&self, file: OpenFile) -> Result<u16> {
        Ok(generation(self.region().load(self.live(file)?)?))
    }

    /// Access mode and status flags, as `F_GETFL` tells them.
    pub fn flags_of(&self, file: OpenFile) -> Result<i32> {
        Ok(self.flags(file)?.1.bits() as i32)
    }

    /// Changes the status flags that can be changed, as `F_SETFL` does.
    pub fn set_flags(&self, file: OpenFile, flags: i32) -> Result<()> {
        let (at, now) = self.flags(file)?;
        if now.contains(OFlags::PATH) {
            return Err(Errno::BADF);
        }
        let wanted = OFlags::from_bits_retain(flags as u32) & CHANGEABLE;
        let next = (now - CHANGEABLE) | wanted;
        self.region().commit(at + FLAGS, flags_word(next), MustFence::nothing())
    }

    /// Says that a placeholder now shows whether the open file is still held (see the module's head).
    pub fn mark_tagged(&self, file: OpenFile) -> Result<()> {
        let at = self.live(file)?;
        self.region().word(at)?.fetch_or(TAGGED, Ordering::SeqCst);
        Ok(())
    }

    /// Takes a slot for the inode. `NFILE` when the table is full of open files.
    pub(crate) fn take_slot(&self, inode: InodeId, wish: Wish) -> Result<OpenFile> {
        let file = self.reserve_slot(wish)?;
        let at = self.open_file_at(file)?;
        self.set_slot_inode(at, inode.to_word())?;
        let lane = self.lane()?;
        let counted = self.lock_inode(&lane, inode).and_then(|()| {
            let opens = self.field(inode, inode::OPENS)?;
            self.set(inode, inode::OPENS, opens.saturating_add(1))
        });
        if let Err(error) = counted {
            self.give_slot_back(file, wish)?;
            return Err(error);
        }
        self.publish_slot(file, inode, wish)
    }

    pub(crate) fn publish_slot(&self, file: OpenFile, inode: InodeId, wish: Wish) -> Result<OpenFile> {
        let at = self.open_file_at(file)?;
        let word = self.region().load(at)?;
        self.set_slot_inode(at, inode.to_word())?;
        self.region().commit(at + OFFSET, 0, MustFence::nothing())?;
        self.region().commit(at + FLAGS, flags_word(wish.flags - ONCE), MustFence::nothing())?;
        self.region().commit(at, word & !STATE | LIVE, MustFence::nothing())?;
        Ok(file)
    }

    /// A slot for a file that is about to be opened: the kept one, if there is one.
    pub(crate) fn reserve_slot(&self, wish: Wish) -> Result<OpenFile> {
        if let Some(file) = wish.kept
            && self.kept_word(file)?.is_some()
        {
            return Ok(file);
        }
        match self.free_slot() {
            Err(Errno::NFILE) => {
                self.sweep()?;
                self.free_slot()
            }
            other => other,
        }
    }

    /// Nothing was opened: the reserved slot is free, or kept as before.
    pub(crate) fn give_slot_back(&self, file: OpenFile, wish: Wish) -> Result<()> {
        let at = self.open_file_at(file)?;
        if wish.kept == Some(file) {
            return self.set_slot_inode(at, 0);
        }
        let word = self.region().load(at)?;
        self.region().commit(at, word & !0xffff, MustFence::nothing())
    }

    /// The state word of a slot, if this process has reserved it or keeps it.
    fn kept_word(&self, file: OpenFile) -> Result<Option<u64>> {
        let word = self.region().load(self.open_file_at(file)?)?;
        Ok((word & STATE == OPENING && opener(word) == image::own(self.region())?).then_some(word))
    }

    /// Frees a slot that was kept: no file will be opened with it.
    pub fn free_kept(&self, file: OpenFile) -> Result<()> {
        match self.kept_word(file)? {
            Some(word) => self.region().commit(self.open_file_at(file)?, word & !0xffff, MustFence::nothing()),
            None => Ok(()),
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
            let mine = state_word(OPENING, me, generation(word).wrapping_add(1));
            if self.region().commit_exchange(at, word, mine, MustFence::nothing())? {
                self.set_slot_inode(at, 0)?;
                self.open_file_cursor.store(file.0.wrapping_add(1), Ordering::Relaxed);
                return Ok(file);
            }
        }
        Err(Errno::NFILE)
    }

    /// The last descriptor anywhere is gone: frees the slot, and the inode if nothing else keeps it.
    pub fn close(&self, file: OpenFile) -> Result<()> {
        let word = self.region().load(self.live(file)?)?;
        self.close_word(file, word, true, Slot::Free).map(|_| ())
    }

    /// As [`FileSystem::close`], but keeps the slot with its generation for [`FileSystem::open_with`], until [`FileSystem::free_kept`]. False
    /// when the slot is not kept: the inode has no name, or numbers may come to be short.
    pub fn close_and_keep(&self, file: OpenFile) -> Result<bool> {
        let word = self.region().load(self.live(file)?)?;
        // The other half is for those who keep nothing.
        let may_be_kept = (file.0 as u64) < self.region().geometry().open_files / 2;
        let slot = self.close_word(file, word, true, if may_be_kept { Slot::Kept } else { Slot::Free })?;
        Ok(slot == Slot::Kept)
    }

    /// Closes the open file of this generation if no descriptor of its placeholder is left in the system; one that was given to
    /// somebody else meanwhile is left alone, and so is one whose placeholder was deleted. `before`: run first.
    pub fn close_if_unheld(&self, file: OpenFile, which: u16, before: impl FnOnce()) -> Result<()> {
        let word = self.region().load(self.live(file)?)?;
        let tagged = word & TAGGED != 0 && generation(word) == which;
        if !tagged || self.region().is_tag_held(file.0, which)? != Some(false) {
            return Ok(());
        }
        before();
        self.close_word(file, word, true, Slot::Free).map(|_| ())
    }

    /// Closes the open file with this state word. `wanted`: what shall become of its slot. It stays open when its inode is locked
    /// and `wait` is false.
    fn close_word(&self, file: OpenFile, word: u64, wait: bool, wanted: Slot) -> Result<Slot> {
        let at = self.open_file_at(file)?;
        if word & STATE != LIVE {
            return Err(Errno::BADF);
        }
        let me = image::own(self.region())?;
        let closing = state_word(CLOSING, me, generation(word));
        if !self.region().commit_exchange(at, word, closing, MustFence::nothing())? {
            return Err(Errno::BADF);
        }
        let slot = self.finish_close(file, at, closing, wait, wanted)?;
        if slot == Slot::Open {
            self.region().commit(at, word, MustFence::nothing())?;
        }
        Ok(slot)
    }

    fn finish_close(&self, file: OpenFile, at: u64, closing: u64, wait: bool, wanted: Slot) -> Result<Slot> {
        let lane = self.lane()?;
        let locked = self
            .slot_inode(at)
            .and_then(|inode| self.lock_inode_if(&lane, inode, wait).map(|locked| locked.then_some(inode)));
        match locked {
            Ok(None) => Ok(Slot::Open),
            Ok(Some(inode)) => {
                self.remove_locks_of_open_file(&lane, inode, file.0, generation(closing))?;
                let opens = self.field(inode, inode::OPENS)?;
                self.set(inode, inode::OPENS, opens.saturating_sub(1))?;
                if wanted == Slot::Kept && self.links(inode)? != 0 {
                    self.set_slot_inode(at, 0)?;
                    self.region().commit(at, closing & !STATE | OPENING, MustFence::nothing())?;
                    return Ok(Slot::Kept);
                }
                self.region().commit(at, closing & !0xffff, MustFence::nothing())?;
                self.release_if_unused(&lane, inode).map(|()| Slot::Free)
            }
            Err(error) => {
                self.region().commit(at, closing & !0xffff, MustFence::nothing())?;
                if error == Errno::STALE { Ok(Slot::Free) } else { Err(error) }
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
            if word & STATE == LIVE && self.may_name(at, inode)? {
                let flags = flags_of_word(self.region().load(at + FLAGS)?)?;
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
