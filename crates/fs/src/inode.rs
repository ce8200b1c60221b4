//! Inodes: one cell of 256 bytes each. The byte map is in ARCHITECTURE.md.

use crate::file_system::FileSystem;
use crate::{Errno, Result};
use lifeboat_region::DAMAGED;
use lifeboat_region::lane::Lane;
use lifeboat_region::layout::CELL;
use lifeboat_region::owner::{Kind, Owner, State};
use lifeboat_region::space::{self, Class};
use lifeboat_region::witness::Words;

/// Lock word.
pub(crate) const LOCK: u64 = 0;
/// Odd while a directory is being changed, or what lies beyond a file's size is zeroed or unlinked.
pub(crate) const SEQUENCE: u64 = lifeboat_region::layout::INODE_SEQUENCE;
/// Bytes in 0..48, truncations in 48..64.
pub(crate) const SIZE: u64 = 16;
/// Map word: the file's map, or the directory's index.
pub(crate) const ROOT: u64 = 24;
/// Checksum word of the only extent of a small file.
pub(crate) const ROOT_CHECKSUM: u64 = 32;
/// Type and permissions in 0..32, flags in 32..64.
pub(crate) const MODE: u64 = 40;
/// Hard links in 0..32, their complement in 32..64: what has none left is freed, so a flipped bit must not say so.
pub(crate) const LINKS: u64 = 48;
/// User in 0..32, group in 32..64.
pub(crate) const IDS: u64 = 56;
/// Time of last access.
pub(crate) const ACCESSED: u64 = 64;
/// Time of last change of contents.
pub(crate) const MODIFIED: u64 = 72;
/// Time of last change of the inode.
pub(crate) const CHANGED: u64 = 80;
/// Time of creation.
pub(crate) const BORN: u64 = 88;
/// Device number; in a directory the inode id of its parent.
pub(crate) const DEVICE: u64 = 96;
/// Open files; never too low, too high after a kill.
pub(crate) const OPENS: u64 = 104;
/// Allocated space in units of 512 bytes.
pub(crate) const BLOCKS: u64 = 112;
/// Version in 0..32, dataset in 32..64.
pub(crate) const VERSION: u64 = 120;
/// Blocks end to end in 0..32, blocks as of seal in 32..64.
pub(crate) const SEAL: u64 = 128;
/// File locks (volatile): changes in 0..31, somebody waits 31, first record in 32..48, run id 48..64.
pub(crate) const FILE_LOCKS: u64 = 136;
/// Map word: the block of extended attributes (`attribute_block`).
pub(crate) const ATTRIBUTES: u64 = 144;
/// Target of a short symbolic link, to the end of the cell.
pub(crate) const INLINE: u64 = 160;
/// Bytes of the longest inline target.
pub(crate) const INLINE_LONGEST: usize = (CELL - INLINE) as usize;

/// Flag: sealed.
pub(crate) const SEALED: u64 = 1 << 32;

/// Flag: has no name yet, but may get one (`O_TMPFILE` without `O_EXCL`).
pub(crate) const LINKABLE: u64 = 1 << 33;

/// Most hard links of an inode.
pub(crate) const LINKS_LARGEST: u64 = 1 << 31;

/// Largest size: 48 bits.
pub(crate) const SIZE_LARGEST: u64 = (1 << 48) - 1;

pub(crate) const TYPE_MASK: u32 = 0o170_000;
pub(crate) const FIFO: u32 = 0o010_000;
pub(crate) const CHARACTER: u32 = 0o020_000;
pub(crate) const DIRECTORY: u32 = 0o040_000;
pub(crate) const BLOCK_DEVICE: u32 = 0o060_000;
pub(crate) const REGULAR: u32 = 0o100_000;
pub(crate) const LINK: u32 = 0o120_000;
pub(crate) const SOCKET: u32 = 0o140_000;

/// Which inode: its number (what `st_ino` says) and the generation that keeps a reused number apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct InodeId(u64);

impl InodeId {
    pub(crate) const fn new(number: u64, generation: u32) -> InodeId {
        InodeId(number | (generation as u64) << 40)
    }

    /// What `st_ino` says.
    pub const fn number(self) -> u64 {
        self.0 & ((1 << 40) - 1)
    }

    /// One word that [`InodeId::from_word`] takes back.
    pub const fn to_word(self) -> u64 {
        self.0
    }

    /// The id of a word; any word is some id, and an id of nothing answers `ESTALE` where it is used.
    pub const fn from_word(word: u64) -> InodeId {
        InodeId(word)
    }

    pub(crate) const fn generation(self) -> u32 {
        (self.0 >> 40) as u32
    }

    /// Offset of the inode's cell.
    pub(crate) const fn at(self) -> u64 {
        self.number() * CELL
    }
}

/// Bytes and truncation count of a size word.
pub(crate) const fn size_of(word: u64) -> u64 {
    word & SIZE_LARGEST
}

pub(crate) const fn size_word(size: u64, truncations: u64) -> u64 {
    size & SIZE_LARGEST | truncations << 48
}

/// Hard links of a word; [`DAMAGED`] when the complement does not agree, or no inode has so many.
pub(crate) fn links_of(word: u64) -> Result<u64> {
    let links = word as u32;
    if links == !((word >> 32) as u32) && links as u64 <= LINKS_LARGEST { Ok(links as u64) } else { Err(DAMAGED) }
}

/// The word for so many hard links.
pub(crate) const fn links_word(links: u64) -> u64 {
    links as u32 as u64 | (!(links as u32) as u64) << 32
}

/// `d_type` of a mode.
pub(crate) const fn entry_kind(mode: u32) -> u8 {
    ((mode & TYPE_MASK) >> 12) as u8
}

/// What a path answers whose inode is gone by now.
pub(crate) fn gone(error: Errno) -> Errno {
    if error == Errno::STALE { Errno::NOENT } else { error }
}

/// As [`FileSystem::validate`].
#[inline]
pub(crate) fn validate(words: &impl Words, inode: InodeId) -> Result<()> {
    let owner_at = owner_of(words, inode)?;
    is_still(words, inode, owner_at)
}

/// Where the owner word of the inode's cell lies.
#[inline(always)]
fn owner_of(words: &impl Words, inode: InodeId) -> Result<u64> {
    space::find_owner(words, Class::Cell, inode.at()).map_err(|_| Errno::STALE)
}

/// Whether the owner word, which lies there, is that of the inode.
#[inline(always)]
fn is_still(words: &impl Words, inode: InodeId, owner_at: u64) -> Result<()> {
    let word = words.load(owner_at)?;
    if Owner::is_inode(word, inode.number(), inode.generation()) { Ok(()) } else { whose(word, inode) }
}

/// What an owner word says that is not that of this inode.
#[cold]
#[inline(never)]
fn whose(word: u64, inode: InodeId) -> Result<()> {
    let owner = Owner::decode(word).ok_or(Errno::UCLEAN)?;
    if owner.state != State::Live || owner.kind != Kind::Inode || owner.generation != inode.generation() {
        return Err(Errno::STALE);
    }
    if owner.holder as u64 == inode.number() { Ok(()) } else { Err(DAMAGED) }
}

impl FileSystem {
    /// Word at byte `field` of the inode.
    pub(crate) fn field(&self, inode: InodeId, field: u64) -> Result<u64> {
        self.region().load(inode.at() + field)
    }

    /// Words at these bytes of the inode, in this order.
    #[inline(always)]
    pub(crate) fn fields<const N: usize>(&self, inode: InodeId, fields: [u64; N]) -> Result<[u64; N]> {
        self.region().load_all(inode.at(), fields)
    }

    /// Whether the inode exists; `STALE` when its cell holds something else by now.
    pub(crate) fn validate(&self, inode: InodeId) -> Result<()> {
        validate(self.region(), inode)
    }

    /// As [`FileSystem::validate`]; `NOENT` when it is gone.
    pub(crate) fn exists(&self, inode: InodeId) -> Result<()> {
        self.validate(inode).map_err(gone)
    }

    /// Whether the inode exists and has a name. Asked without a lock: its cell may become another's at any moment, so the
    /// words are read before the owner is asked whose they were.
    pub(crate) fn has_name(&self, inode: InodeId) -> Result<bool> {
        let links = self.field(inode, LINKS);
        match self.validate(inode) {
            Err(Errno::STALE) => Ok(false),
            Err(error) => Err(error),
            Ok(()) => Ok(links_of(links?)? != 0),
        }
    }

    /// What was found of an inode without a lock counts only if the inode is still there; `STALE` otherwise: its cell may
    /// hold something else by now.
    pub(crate) fn while_there<T>(&self, inode: InodeId, found: Result<T>) -> Result<T> {
        self.validate(inode)?;
        found
    }

    /// As [`FileSystem::while_there`] for what removal takes apart: `NOENT` when the inode is gone, and when damage was
    /// met and it has no name any more.
    pub(crate) fn unless_removed<T>(&self, inode: InodeId, found: Result<T>) -> Result<T> {
        match self.while_there(inode, found).map_err(gone) {
            Err(DAMAGED) if !self.has_name(inode)? => Err(Errno::NOENT),
            found => found,
        }
    }

    /// Hard links. The inode is locked.
    pub(crate) fn links(&self, inode: InodeId) -> Result<u64> {
        links_of(self.field(inode, LINKS)?)
    }

    pub(crate) fn mode(&self, inode: InodeId) -> Result<u32> {
        Ok(self.field(inode, MODE)? as u32)
    }

    pub(crate) fn is_directory(&self, inode: InodeId) -> Result<bool> {
        Ok(self.mode(inode)? & TYPE_MASK == DIRECTORY)
    }

    /// Locks an inode that may vanish at any moment: announced first, so that its cell cannot be reused while we wait.
    pub(crate) fn lock_inode(&self, lane: &Lane<'_>, inode: InodeId) -> Result<()> {
        self.while_announced(lane, inode, || lane.lock(inode.at() + LOCK, self).map(|()| true)).map(|_| ())
    }

    /// Announces the inode while `lock` is tried, and looks whether it is there before and afterwards; from the first look to the
    /// withdrawal its cell is no other's, so its owner word stays where it was found.
    fn while_announced(&self, lane: &Lane<'_>, inode: InodeId, lock: impl FnOnce() -> Result<bool>) -> Result<bool> {
        lane.announce_waiting(inode.to_word())?;
        let result = owner_of(self.region(), inode).and_then(|owner_at| {
            is_still(self.region(), inode, owner_at)?;
            let won = lock()?;
            is_still(self.region(), inode, owner_at).map(|()| won).inspect_err(|_| {
                let _ = lane.unlock(inode.at() + LOCK);
            })
        });
        lane.withdraw()?;
        result
    }

    /// As [`FileSystem::lock_inode`], without waiting: false when somebody has it locked.
    pub(crate) fn try_lock_inode(&self, lane: &Lane<'_>, inode: InodeId) -> Result<bool> {
        self.while_announced(lane, inode, || lane.try_lock(inode.at() + LOCK))
    }

    /// Locks an inode; false when somebody has it locked and `wait` is false.
    pub(crate) fn lock_inode_if(&self, lane: &Lane<'_>, inode: InodeId, wait: bool) -> Result<bool> {
        if wait { self.lock_inode(lane, inode).map(|()| true) } else { self.try_lock_inode(lane, inode) }
    }

    /// Locks several inodes in the order of their numbers. Duplicates are locked once.
    pub(crate) fn lock_inodes(&self, lane: &Lane<'_>, inodes: &mut [InodeId]) -> Result<()> {
        inodes.sort_unstable_by_key(|inode| inode.number());
        let mut last = None;
        for &inode in inodes.iter() {
            if last == Some(inode) {
                continue;
            }
            if let Err(error) = self.lock_inode(lane, inode) {
                lane.unlock_all()?;
                return Err(error);
            }
            last = Some(inode);
        }
        Ok(())
    }

    pub(crate) fn unlock_inode(&self, lane: &Lane<'_>, inode: InodeId) -> Result<()> {
        lane.unlock(inode.at() + LOCK)
    }
}
