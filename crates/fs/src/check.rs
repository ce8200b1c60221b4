//! Checking a region: walks everything and says in words what is wrong. Changes nothing but what a sweep reclaims.

use crate::checksum::Checksum;
use crate::directory::{CHILD, NEXT};
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, size_of};
use crate::map_word::{EXTENTS_PER_NODE, HEIGHT_LARGEST, INDEX_WORDS, Target};
use crate::{NAME_LONGEST, Result};
use core::fmt;
use lifeboat_region::image::{self, Image};
use lifeboat_region::layout::{BLOCK, CELL, ENTRY, EXTENT, FILE_LOCK_WAITS, RENAME_LOCK, SWEEP_LOCK};
use lifeboat_region::mapping::Scratch;
use lifeboat_region::owner::{Kind, State};
use lifeboat_region::space::{self, Class};
use lifeboat_region::superblock::SuperblockError;
use lifeboat_region::{Errno, MustFence, lock, recovery};

/// One thing that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A superblock copy does not count; the other does.
    Superblock(u8, SuperblockError),
    /// A lock word that no lock can have.
    Lock(u64),
    /// A word of an inode's map or index that points to nothing possible; inode number, offset of the word.
    Pointer(u64, u64),
    /// A unit is live, but nothing refers to it; its offset.
    Leak(u64),
    /// A unit is referred to, but is not live; inode number, offset of the unit.
    Dangling(u64, u64),
    /// A unit is referred to twice; inode number, offset of the unit.
    Shared(u64, u64),
    /// An inode has another number of names than it says: inode number, says, has.
    Links(u64, u64, u64),
    /// A directory has another number of entries than it says: inode number, says, has.
    Names(u64, u64, u64),
    /// A file says that it has other space than it has: inode number, says, has (units of 512 bytes).
    Blocks(u64, u64, u64),
    /// A name refers to an inode that does not exist; number of the directory, of the inode.
    Nowhere(u64, u64),
    /// A directory is not below the root; its number.
    Detached(u64),
    /// A checksum word that none can have; inode number, offset of the word.
    Checksum(u64, u64),
    /// The extended attributes of an inode are not what was written; its number, offset of the word that points to them.
    Attributes(u64, u64),
    /// Something could not be examined; offset, error number.
    Unreadable(u64, i32),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Superblock(copy, error) => {
                write!(
                    f,
                    "superblock copy {copy}: {error}; the other copy is used, `region check --repair` rewrites it"
                )
            }
            Finding::Lock(at) => {
                write!(
                    f,
                    "lock word at offset {at:#x} is damaged; `region check --repair` frees it when nobody is attached"
                )
            }
            Finding::Pointer(inode, at) => write!(f, "inode {inode}: the map word at offset {at:#x} is damaged"),
            Finding::Leak(at) => write!(f, "space at offset {at:#x} is taken, but nothing refers to it"),
            Finding::Dangling(inode, at) => write!(f, "inode {inode} refers to free space at offset {at:#x}"),
            Finding::Shared(inode, at) => {
                write!(f, "inode {inode} refers to space at offset {at:#x} that another has, too")
            }
            Finding::Links(inode, says, has) => write!(f, "inode {inode} says it has {says} links, but has {has}"),
            Finding::Names(inode, says, has) => write!(f, "directory {inode} says it has {says} names, but has {has}"),
            Finding::Blocks(inode, says, has) => {
                write!(f, "inode {inode} says it has {says} blocks of 512 bytes, but has {has}")
            }
            Finding::Nowhere(dir, inode) => {
                write!(f, "a name in directory {dir} refers to inode {inode}, which does not exist")
            }
            Finding::Detached(inode) => write!(f, "directory {inode} is not below the root"),
            Finding::Checksum(inode, at) => write!(f, "inode {inode}: the checksum word at offset {at:#x} is damaged"),
            Finding::Attributes(inode, at) => {
                write!(f, "inode {inode}: the extended attributes behind the word at offset {at:#x} are damaged")
            }
            Finding::Unreadable(at, error) => {
                write!(f, "what is at offset {at:#x} could not be examined (error {error})")
            }
        }
    }
}

/// What a check saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckSummary {
    /// Inodes.
    pub inodes: u64,
    /// Names.
    pub names: u64,
    /// Units of space in use.
    pub units: u64,
    /// Findings reported.
    pub findings: u64,
    /// Units that an earlier death had left and that were freed first.
    pub reclaimed: u64,
}

struct Walk<'w> {
    fs: &'w FileSystem,
    /// One bit for every 64 bytes: referred to.
    marks: Scratch,
    /// Names found of the inode in each cell.
    names: Scratch,
    report: &'w mut dyn FnMut(Finding),
    summary: CheckSummary,
}

/// Walks the whole region. Other processes should be at rest: what they are changing may look wrong.
pub fn check(fs: &FileSystem, report: &mut dyn FnMut(Finding)) -> Result<CheckSummary> {
    let length = fs.region().length();
    // A damaged lock stops the sweep; the walk says which one it is.
    let reclaimed = match fs.sweep() {
        Err(Errno::UCLEAN) => 0,
        other => other?,
    };
    let mut walk = Walk {
        fs,
        marks: Scratch::new(length / ENTRY / 64 + 1)?,
        names: Scratch::new(length / CELL / 2 + 1)?,
        report,
        summary: CheckSummary { reclaimed, ..CheckSummary::default() },
    };
    walk.superblocks()?;
    walk.each_live_inode(Walk::contents)?;
    walk.each_live_inode(Walk::links)?;
    walk.units()?;
    Ok(walk.summary)
}

/// Repairs what has one right answer: superblock copies; lock words, if no other process is attached (a damaged lock may
/// be held). Reports what it repaired, and how many.
pub fn repair(fs: &FileSystem, report: &mut dyn FnMut(Finding)) -> Result<u64> {
    let region = fs.region();
    let mut repaired = 0;
    let mut note = |finding| {
        repaired += 1;
        report(finding);
    };
    let copies = region.superblock_copies()?;
    for (number, copy) in copies.into_iter().enumerate() {
        if let Err(error) = copy {
            note(Finding::Superblock(number as u8, error));
        }
    }
    if copies.iter().any(|copy| copy.is_err()) {
        region.rewrite_superblocks()?;
    }
    let own = image::own(region)?;
    let _ = recovery::recover_all(region, fs);
    let mut others = false;
    let mut seen = |at: Image, _: image::Holder| others |= at != own;
    image::attached(region, &mut seen)?;
    if others {
        return Ok(repaired);
    }
    let mut free = |at: u64| -> Result<()> {
        if lock::decode(region, region.load(at)?).is_err() {
            region.commit(at, 0, MustFence::nothing())?;
            note(Finding::Lock(at));
        }
        Ok(())
    };
    for at in [RENAME_LOCK, SWEEP_LOCK, FILE_LOCK_WAITS] {
        free(at)?;
    }
    space::each_unit(region, |unit, owner| {
        let is_inode = owner.state == State::Live && owner.kind == Kind::Inode && unit.class == Class::Cell;
        if is_inode { free(unit.at + inode::LOCK) } else { Ok(()) }
    })?;
    Ok(repaired)
}

impl Walk<'_> {
    fn find(&mut self, finding: Finding) {
        self.summary.findings += 1;
        (self.report)(finding);
    }

    fn superblocks(&mut self) -> Result<()> {
        let copies = self.fs.region().superblock_copies()?;
        for (number, copy) in copies.into_iter().enumerate() {
            if let Err(error) = copy {
                self.find(Finding::Superblock(number as u8, error));
            }
        }
        for at in [RENAME_LOCK, SWEEP_LOCK, FILE_LOCK_WAITS] {
            self.lock(at)?;
        }
        Ok(())
    }

    fn lock(&mut self, at: u64) -> Result<()> {
        if lock::decode(self.fs.region(), self.fs.region().load(at)?).is_err() {
            self.find(Finding::Lock(at));
        }
        Ok(())
    }

    fn each_live_inode(&mut self, mut each: impl FnMut(&mut Self, InodeId) -> Result<()>) -> Result<()> {
        let fs = self.fs;
        space::each_unit(fs.region(), |unit, owner| {
            if owner.state == State::Live && owner.kind == Kind::Inode && unit.class == Class::Cell {
                let inode = InodeId::new(unit.at / CELL, owner.generation);
                if let Err(error) = each(self, inode) {
                    self.find(Finding::Unreadable(unit.at, error.raw_os_error()));
                }
            }
            Ok(())
        })
    }

    /// Marks a unit as referred to. False when it cannot be what it is said to be.
    fn mark(&mut self, inode: InodeId, class: Class, at: u64, word_at: u64) -> Result<bool> {
        let Ok(owner_at) = space::find_owner(self.fs.region(), class, at) else {
            self.find(Finding::Pointer(inode.number(), word_at));
            return Ok(false);
        };
        let word = self.fs.region().load(owner_at)?;
        let owner = lifeboat_region::owner::Owner::decode(word);
        if !owner.is_some_and(|owner| owner.state == State::Live && owner.holder as u64 == inode.number()) {
            self.find(Finding::Dangling(inode.number(), at));
            return Ok(false);
        }
        if self.marks.set_bit(at / ENTRY) {
            self.find(Finding::Shared(inode.number(), at));
            return Ok(false);
        }
        Ok(true)
    }

    fn contents(&mut self, inode: InodeId) -> Result<()> {
        self.summary.inodes += 1;
        self.lock(inode.at() + inode::LOCK)?;
        self.marks.set_bit(inode.at() / ENTRY);
        let root_at = inode.at() + inode::ROOT;
        match self.fs.mode(inode)? & inode::TYPE_MASK {
            inode::DIRECTORY => {
                let mut names = 0;
                self.directory_word(inode, root_at, 0, &mut names)?;
                let says = size_of(self.fs.field(inode, inode::SIZE)?);
                if says != names {
                    self.find(Finding::Names(inode.number(), says, names));
                }
            }
            inode::REGULAR | inode::LINK | inode::SOCKET => {
                let mut blocks = 0;
                self.checksum(inode, inode.at() + inode::ROOT_CHECKSUM)?;
                self.file_word(inode, root_at, HEIGHT_LARGEST + 1, &mut blocks)?;
                let says = self.fs.field(inode, inode::BLOCKS)?;
                if says != blocks {
                    self.find(Finding::Blocks(inode.number(), says, blocks));
                }
            }
            _ => {}
        }
        self.attributes(inode)
    }

    fn attributes(&mut self, inode: InodeId) -> Result<()> {
        let at = inode.at() + inode::ATTRIBUTES;
        let fs = self.fs;
        let good = fs.each_attribute_unit(inode, |class, unit| self.mark(inode, class, unit, at))?;
        if !good || !fs.attributes_are_whole(inode)? {
            self.find(Finding::Attributes(inode.number(), at));
        }
        Ok(())
    }

    fn checksum(&mut self, inode: InodeId, at: u64) -> Result<()> {
        if Checksum::decode(self.fs.region().load(at)?).is_err() {
            self.find(Finding::Checksum(inode.number(), at));
        }
        Ok(())
    }

    fn file_word(&mut self, inode: InodeId, at: u64, above: u8, blocks: &mut u64) -> Result<()> {
        let Ok(target) = Target::decode(self.fs.region().load(at)?) else {
            self.find(Finding::Pointer(inode.number(), at));
            return Ok(());
        };
        match target {
            Target::Hole => {}
            Target::Extent(unit) => {
                if self.mark(inode, Class::Extent, unit, at)? {
                    *blocks += EXTENT / 512;
                }
            }
            Target::Block(unit) => {
                if self.mark(inode, Class::Block, unit, at)? {
                    *blocks += BLOCK / 512;
                }
            }
            Target::Blocks(node) => {
                if self.mark(inode, Class::Cell, node, at)? {
                    for index in 0..EXTENT / BLOCK {
                        self.file_word(inode, node + index * 8, 0, blocks)?;
                    }
                }
            }
            Target::Extents(node) => {
                if self.mark(inode, Class::Cell, node, at)? {
                    for index in 0..EXTENTS_PER_NODE {
                        self.file_word(inode, node + index * 16, 0, blocks)?;
                        self.checksum(inode, node + index * 16 + 8)?;
                    }
                }
            }
            Target::Index(node, height) if height < above && height > 0 => {
                if self.mark(inode, Class::Cell, node, at)? {
                    for index in 0..INDEX_WORDS {
                        self.file_word(inode, node + index * 8, height, blocks)?;
                    }
                }
            }
            _ => self.find(Finding::Pointer(inode.number(), at)),
        }
        Ok(())
    }

    fn directory_word(&mut self, dir: InodeId, at: u64, depth: u32, names: &mut u64) -> Result<()> {
        match Target::decode(self.fs.region().load(at)?) {
            Ok(Target::Hole) => Ok(()),
            Ok(Target::Index(node, height)) if depth < 12 && height as u32 == depth + 1 => {
                if self.mark(dir, Class::Cell, node, at)? {
                    for index in 0..INDEX_WORDS {
                        self.directory_word(dir, node + index * 8, depth + 1, names)?;
                    }
                }
                Ok(())
            }
            Ok(Target::Entry(_)) => self.chain(dir, at, names),
            _ => {
                self.find(Finding::Pointer(dir.number(), at));
                Ok(())
            }
        }
    }

    fn chain(&mut self, dir: InodeId, head_at: u64, names: &mut u64) -> Result<()> {
        let mut at = head_at;
        // Ends at the latest when an entry is met twice.
        while let Ok(Target::Entry(entry)) = Target::decode(self.fs.region().load(at)?) {
            if !self.mark(dir, Class::Entry, entry, at)? {
                return Ok(());
            }
            self.entry(dir, entry)?;
            *names += 1;
            at = entry + NEXT;
        }
        if self.fs.region().load(at)? != 0 {
            self.find(Finding::Pointer(dir.number(), at));
        }
        Ok(())
    }

    fn entry(&mut self, dir: InodeId, entry: u64) -> Result<()> {
        self.summary.names += 1;
        let info = self.fs.region().load(entry + crate::directory::INFO)?;
        let long_at = (info >> 24) << 6;
        if long_at != 0 {
            self.mark(dir, Class::Cell, long_at, entry)?;
        }
        let mut name = [0; NAME_LONGEST];
        if long_at != 0 || info as u8 <= 32 {
            self.fs.entry(entry, &mut name)?;
        } else {
            self.find(Finding::Pointer(dir.number(), entry));
        }
        let child = InodeId::from_word(self.fs.region().load(entry + CHILD)?);
        match self.fs.validate(child) {
            Ok(()) => {
                self.names.add(child.number());
            }
            Err(_) => self.find(Finding::Nowhere(dir.number(), child.number())),
        }
        if self.fs.validate(child).is_ok() && self.fs.is_directory(child)? {
            // `..` of the child is one more link of the directory.
            self.names.add(dir.number());
        }
        Ok(())
    }

    fn links(&mut self, inode: InodeId) -> Result<()> {
        let says = self.fs.field(inode, inode::LINKS)?;
        let mut has = self.names.count(inode.number()) as u64;
        if self.fs.is_directory(inode)? && says != 0 {
            // `.` is a link; the root's `..` is one, too.
            has += if inode == self.fs.root() { 2 } else { 1 };
            if !self.is_below_root(inode)? {
                self.find(Finding::Detached(inode.number()));
            }
        }
        if says != has {
            self.find(Finding::Links(inode.number(), says, has));
        }
        Ok(())
    }

    fn is_below_root(&self, inode: InodeId) -> Result<bool> {
        let mut dir = inode;
        for _ in 0..1 << 20 {
            if dir == self.fs.root() {
                return Ok(true);
            }
            dir = self.fs.parent(dir)?;
            if self.fs.validate(dir) == Err(Errno::STALE) {
                return Ok(false);
            }
        }
        Ok(false)
    }

    fn units(&mut self) -> Result<()> {
        let fs = self.fs;
        space::each_unit(fs.region(), |unit, owner| {
            if owner.state == State::Live {
                self.summary.units += 1;
                if !self.marks.has_bit(unit.at / ENTRY) {
                    self.find(Finding::Leak(unit.at));
                }
            }
            Ok(())
        })
    }
}
