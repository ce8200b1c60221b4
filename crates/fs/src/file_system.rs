//! The file system as one value: a region, the prefix under which programs see it, and the root.

use crate::claim::Claims;
use crate::inode::{self, InodeId};
use crate::read_targets::ReadTargets;
use crate::{Errno, NAME_LONGEST, Result};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use lifeboat_region::lane::Lane;
use lifeboat_region::layout::CELL;
use lifeboat_region::owner::{Kind, Owner, State};
use lifeboat_region::space::{self, Class};
use lifeboat_region::{DAMAGED, MustFence, Region, image, process, recovery};

/// Longest prefix of a mount.
pub const PREFIX_LONGEST: usize = 1024;

/// A file system in a region, attached by this process.
pub struct FileSystem {
    region: Region,
    root: InodeId,
    prefix: [u8; PREFIX_LONGEST],
    prefix_length: usize,
    predecessors_done: AtomicBool,
    pub(crate) open_file_cursor: AtomicU32,
    /// Whether this process ever asked for a lock of its own on a file.
    pub(crate) process_locks: AtomicBool,
    /// Checks under way: what closes and recovers then leaves inodes without links alone, whose names a check counts first.
    pub(crate) checks: AtomicU32,
    pub(crate) claims: Option<Claims>,
    /// Whether checksums are made while bytes are copied.
    pub(crate) sums_while_writing: bool,
    pub(crate) read_targets: ReadTargets,
}

impl FileSystem {
    /// Makes an empty file system in a region that has none: its root belongs to the region's owner, mode 0755.
    pub fn format(region: &Region) -> Result<()> {
        let lane = Lane::claim(region)?;
        let unit = lane.allocate_first(Class::Cell)?;
        let owner = Owner::decode(region.load(unit.owner_at)?).ok_or(DAMAGED)?;
        let number = unit.at / CELL;
        if number != first_cell(region) {
            return Err(Errno::EXIST);
        }
        region.zero(unit.at, CELL as usize)?.fence();
        let id = InodeId::new(number, owner.generation);
        let now = process::now() as u64;
        let ids = rustix::process::getuid().as_raw() as u64 | (rustix::process::getgid().as_raw() as u64) << 32;
        let fields = [
            (inode::MODE, (inode::DIRECTORY | 0o755) as u64),
            (inode::LINKS, inode::links_word(2)),
            (inode::IDS, ids),
            (inode::ACCESSED, now),
            (inode::MODIFIED, now),
            (inode::CHANGED, now),
            (inode::BORN, now),
            (inode::DEVICE, id.to_word()),
            (inode::VERSION, 1),
        ];
        for (field, value) in fields {
            region.commit(unit.at + field, value, MustFence::nothing())?;
        }
        region.commit(unit.owner_at, owner.linked(Kind::Inode, number as u32).encode(), MustFence::nothing())
    }

    /// The file system of `region`, which programs see under the absolute path `prefix`. [`DAMAGED`] when there is no
    /// root: the region was never formatted, or is damaged.
    pub fn attach(region: Region, prefix: &[u8]) -> Result<FileSystem> {
        if prefix.len() > PREFIX_LONGEST {
            return Err(Errno::NAMETOOLONG);
        }
        let number = first_cell(&region);
        let owner_at = space::find_owner(&region, Class::Cell, number * CELL)?;
        let owner = Owner::decode(region.load(owner_at)?).ok_or(DAMAGED)?;
        let root = InodeId::new(number, owner.generation);
        let mode = region.load(root.at() + inode::MODE)? as u32;
        let is_root = owner.state == State::Live && owner.kind == Kind::Inode && owner.holder as u64 == number;
        if !is_root || owner.generation != 0 || mode & inode::TYPE_MASK != inode::DIRECTORY {
            return Err(DAMAGED);
        }
        Ok(FileSystem::with_root(region, root, prefix))
    }

    /// As [`FileSystem::attach`], for a check: also of a region whose root is damaged.
    pub fn attach_to_check(region: Region) -> FileSystem {
        let root = InodeId::new(first_cell(&region), 0);
        FileSystem::with_root(region, root, b"/")
    }

    fn with_root(region: Region, root: InodeId, prefix: &[u8]) -> FileSystem {
        let mut bytes = [0; PREFIX_LONGEST];
        let prefix_length = prefix.len().min(PREFIX_LONGEST);
        bytes[..prefix_length].copy_from_slice(&prefix[..prefix_length]);
        FileSystem {
            region,
            root,
            prefix: bytes,
            prefix_length,
            predecessors_done: AtomicBool::new(false),
            open_file_cursor: AtomicU32::new(0),
            process_locks: AtomicBool::new(false),
            checks: AtomicU32::new(0),
            claims: None,
            sums_while_writing: true,
            read_targets: ReadTargets::new(),
        }
    }

    /// The same, but what it writes gets its checksums when it is sealed: until then nobody notices a byte that changes.
    pub fn with_sums_at_seal(self) -> FileSystem {
        FileSystem { sums_while_writing: false, ..self }
    }

    /// The region.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Absolute path under which programs see the root.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix[..self.prefix_length]
    }

    /// The root directory.
    pub fn root(&self) -> InodeId {
        self.root
    }

    /// In a forked child: takes an image slot of its own. Costs nothing when it has one.
    pub fn after_fork(&self) -> Result<()> {
        image::own(&self.region).map(|_| ())
    }

    /// Gives this process's image slot back: an orderly end. Later calls take a new one.
    pub fn detach(&self) {
        image::give_up(&self.region);
    }

    /// A lane for one operation.
    pub(crate) fn lane(&self) -> Result<Lane<'_>> {
        if !self.predecessors_done.load(Ordering::Relaxed) {
            self.predecessors_done.store(true, Ordering::Relaxed);
            recovery::recover_own_predecessors(&self.region, self)?;
        }
        match Lane::claim(&self.region) {
            Err(Errno::NOLCK) => {
                recovery::recover_all(&self.region, self)?;
                Lane::claim(&self.region)
            }
            other => other,
        }
    }

    pub(crate) fn set(&self, inode: InodeId, field: u64, value: u64) -> Result<()> {
        self.region.commit(inode.at() + field, value, MustFence::nothing())
    }
}

/// The root is the first cell of the first chunk.
fn first_cell(region: &Region) -> u64 {
    (region.geometry().data_at + Class::Cell.first_unit() * Class::Cell.size()) / CELL
}

const _: () = assert!(NAME_LONGEST == 255);
