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
use crate::inode::InodeId;
use crate::open_count::{ClosedInPlace, ONE_LESS};
use crate::{Errno, Result};
use core::sync::atomic::Ordering;
use lifeboat_region::MustFence;
use lifeboat_region::image::{self, Image};
use lifeboat_region::lane::Lane;
use lifeboat_region::layout::OPEN_FILE;
use rustix::fs::OFlags;

pub(crate) const FREE: u64 = 0;
pub(crate) const OPENING: u64 = 1;
pub(crate) const LIVE: u64 = 2;
pub(crate) const CLOSING: u64 = 3;
pub(crate) const STATE: u64 = 3;
pub(crate) const TAGGED: u64 = 4;

pub(crate) const INODE: u64 = 8;
pub(crate) const OFFSET: u64 = 16;
pub(crate) const FLAGS: u64 = 24;
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
pub(crate) enum Slot {
    /// It is open still: its inode is locked.
    Open,
    Free,
    Kept,
}

impl Slot {
    /// What the state word of an open file becomes.
    fn word_after(self, word: u64) -> u64 {
        match self {
            Slot::Open => word,
            Slot::Free => word & !0xffff,
            Slot::Kept => word & !(STATE | TAGGED) | OPENING,
        }
    }
}

fn state_word(state: u64, image: Image, generation: u16) -> u64 {
    state | (image.slot as u64) << 16 | (image.generation as u64) << 32 | (generation as u64) << 48
}

pub(crate) fn opener(word: u64) -> Image {
    Image { slot: (word >> 16) as u16 as u32, generation: (word >> 32) as u16 }
}

pub(crate) fn generation(word: u64) -> u16 {
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

pub(crate) fn flags_of_word(word: u64) -> Result<OFlags> {
    let flags = OFlags::from_bits_retain(word as u32);
    if flags_word(flags) == word { Ok(flags) } else { Err(Errno::UCLEAN) }
}

/// The inode that these words of a slot name.
fn inode_of_words(inode: u64, check: u64) -> Result<InodeId> {
    if check == !inode { Ok(InodeId::from_word(inode)) } else { Err(Errno::UCLEAN) }
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
    #[inline(always)]
    pub(crate) fn opened(&self, file: OpenFile) -> Result<(u64, OFlags, Result<InodeId>)> {
        let at = self.open_file_at(file)?;
        let [state, flags, inode, check] = self.region().load_all(at, [0, FLAGS, INODE, INODE_CHECK])?;
        if state & STATE != LIVE {
            return Err(Errno::BADF);
        }
        Ok((at, flags_of_word(flags)?, inode_of_words(inode, check)))
    }

    /// The inode of an open file.
    pub fn inode_of(&self, file: OpenFile) -> Result<InodeId> {
        let at = self.live(file)?;
        self.slot_inode(at)
    }

    /// The inode that the slot at `at` names; `UCLEAN` when its two words do not agree.
    pub(crate) fn slot_inode(&self, at: u64) -> Result<InodeId> {
        let [inode, check] = self.region().load_all(at, [INODE, INODE_CHECK])?;
        inode_of_words(inode, check)
    }

    fn set_slot_inode(&self, at: u64, inode: u64) -> Result<()> {
        self.region().commit(at + INODE, inode, MustFence::nothing())?;
        self.region().commit(at + INODE_CHECK, !inode, MustFence::nothing())
    }

    /// Whether the slot at `at` may name the inode: one of its words may be damaged.
    pub(crate) fn may_name(&self, at: u64, inode: InodeId) -> Result<bool> {
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
        self.set_slot_inode(self.open_file_at(file)?, inode.to_word())?;
        let opened = match self.open_in_place(file, inode, wish) {
            Ok(false) => self.open_locked(file, inode, wish),
            opened => opened.map(|_| ()),
        };
        match opened {
            Ok(()) => Ok(file),
            Err(error) => {
                self.give_slot_back(file, wish)?;
                Err(error)
            }
        }
    }

    fn open_locked(&self, file: OpenFile, inode: InodeId, wish: Wish) -> Result<()> {
        let lane = self.lane()?;
        self.lock_inode(&lane, inode)?;
        self.count_opens(inode, 1)?;
        if writes(wish.flags) {
            self.unseal_locked(&lane, inode)?;
        }
        self.publish_slot(file, inode, wish)
    }

    /// Takes back what [`FileSystem::publish_slot`] said of a slot.
    pub(crate) fn retract_slot(&self, file: OpenFile) -> Result<()> {
        let at = self.open_file_at(file)?;
        let word = self.region().load(at)?;
        self.region().commit(at, word & !STATE | OPENING, MustFence::nothing())
    }

    /// The slot, which this process has reserved, is an open file of the inode.
    pub(crate) fn publish_slot(&self, file: OpenFile, inode: InodeId, wish: Wish) -> Result<()> {
        let at = self.open_file_at(file)?;
        let word = self.region().load(at)?;
        self.set_slot_inode(at, inode.to_word())?;
        self.region().commit(at + OFFSET, 0, MustFence::nothing())?;
        self.region().commit(at + FLAGS, flags_word(wish.flags - ONCE), MustFence::nothing())?;
        self.region().commit(at, word & !STATE | LIVE, MustFence::nothing())
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
    /// when the slot is not kept: another process opened the file, or numbers may come to be short. An error keeps nothing.
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
    pub(crate) fn close_word(&self, file: OpenFile, word: u64, wait: bool, wanted: Slot) -> Result<Slot> {
        let at = self.open_file_at(file)?;
        if word & STATE != LIVE {
            return Err(Errno::BADF);
        }
        let me = image::own(self.region())?;
        let wanted = if opener(word) == me { wanted } else { Slot::Free };
        if wait && let Ok(inode) = self.slot_inode(at) {
            match self.close_in_place(file, inode, word, wanted.word_after(word))? {
                ClosedInPlace::No => {}
                ClosedInPlace::Yes(end) => return self.kept_unless_failed(file, wanted, end),
            }
        }
        // Before the slot says that it is being closed: without a lane it stays open.
        let lane = self.lane()?;
        let closing = state_word(CLOSING, me, generation(word));
        if !self.region().commit_exchange(at, word, closing, MustFence::nothing())? {
            return Err(Errno::BADF);
        }
        let slot = self.finish_close(&lane, file, closing, wait, wanted)?;
        if slot == Slot::Open {
            self.region().commit(at, word, MustFence::nothing())?;
        }
        Ok(slot)
    }

    /// The slot, given up by this thread, is `wanted`; but nobody keeps it for a call that fails.
    fn kept_unless_failed(&self, file: OpenFile, wanted: Slot, end: Result<()>) -> Result<Slot> {
        if end.is_err() && wanted == Slot::Kept {
            self.free_kept(file)?;
        }
        end.map(|()| wanted)
    }

    /// The slot of an open file, with this state word, becomes what `after` says. False when somebody else was faster.
    pub(crate) fn give_slot_up(&self, file: OpenFile, live: u64, after: u64) -> Result<bool> {
        let at = self.open_file_at(file)?;
        let won = self.region().commit_exchange(at, live, after, MustFence::nothing())?;
        if won && after & STATE == OPENING {
            self.set_slot_inode(at, 0)?;
        }
        Ok(won)
    }

    fn finish_close(&self, lane: &Lane<'_>, file: OpenFile, closing: u64, wait: bool, wanted: Slot) -> Result<Slot> {
        let locked = self
            .slot_inode(self.open_file_at(file)?)
            .and_then(|inode| self.lock_inode_if(lane, inode, wait).map(|locked| locked.then_some(inode)));
        match locked {
            Ok(None) => Ok(Slot::Open),
            Ok(Some(inode)) => {
                self.remove_locks_of_open_file(lane, inode, file.0, generation(closing))?;
                self.give_slot_up(file, closing, wanted.word_after(closing))?;
                self.count_opens(inode, ONE_LESS)?;
                self.kept_unless_failed(file, wanted, self.release_if_unused(lane, inode))
            }
            Err(error) => {
                self.give_slot_up(file, closing, Slot::Free.word_after(closing))?;
                if error == Errno::STALE { Ok(Slot::Free) } else { Err(error) }
            }
        }
    }

    /// For calls that need write permission on an open file.
    pub(crate) fn writable_inode(&self, file: OpenFile) -> Result<InodeId> {
        if !writes(self.flags(file)?.1) {
            return Err(Errno::BADF);
        }
        self.inode_of(file)
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
