//! The end of an inode: no name and no open file left.

use crate::Result;
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId};
use crate::map_word::{INDEX_WORDS, Target};
use crate::truncate::{Pruner, TASK_RELEASE};
use core::sync::atomic::{Ordering, fence};
use lifeboat_region::lane::Lane;
use lifeboat_region::layout::BLOCK;
use lifeboat_region::owner::{Kind, Owner};
use lifeboat_region::space::{self, Class};
use lifeboat_region::{DAMAGED, MustFence};

impl FileSystem {
    /// Takes an inode apart if it has no name and nobody has it open. The inode is locked; it is unlocked when taken
    /// apart. Its word for that counts; but not for a check, which counts names first.
    pub(crate) fn release_if_unused(&self, lane: &Lane<'_>, inode: InodeId) -> Result<()> {
        if self.links(inode)? != 0 || self.checks.load(Ordering::Relaxed) != 0 {
            return Ok(());
        }
        // Who opens or closes it without its lock sees it nameless, or is seen here (`open_count`).
        fence(Ordering::SeqCst);
        if self.field(inode, inode::OPENS)? != 0 && self.is_open(inode)? {
            return Ok(());
        }
        self.take_apart(lane, inode)
    }

    /// Frees everything that a nameless inode has, then the inode. Goes on where a killed one stopped.
    pub(crate) fn take_apart(&self, lane: &Lane<'_>, inode: InodeId) -> Result<()> {
        let mode = self.mode(inode)?;
        // Nothing is made in a directory without a name: if it has names itself, then its count of links is what is wrong.
        if mode & inode::TYPE_MASK == inode::DIRECTORY && !self.is_empty_directory(inode)? {
            return Err(DAMAGED);
        }
        lane.set_task(TASK_RELEASE, inode.to_word())?;
        // Whoever had a lock has no descriptor any more.
        self.remove_where(lane, inode, |_| true)?;
        self.remove_kernel_node_of(inode, mode);
        let mut pruner = Pruner::new(self, lane, inode);
        match mode & inode::TYPE_MASK {
            inode::REGULAR => pruner.cut(0)?,
            inode::DIRECTORY => self.prune_directory(&mut pruner, inode.at() + inode::ROOT, 0)?,
            inode::LINK | inode::SOCKET => {
                if let Target::Block(at) = Target::decode(self.field(inode, inode::ROOT)?)? {
                    pruner.unlink(Class::Block, at, inode.at() + inode::ROOT, (BLOCK / 512) as i64)?;
                }
            }
            _ => {}
        }
        pruner.flush()?;
        self.release_attributes(lane, inode)?;
        let owner_at = space::find_owner(self.region(), Class::Cell, inode.at())?;
        let owner = Owner::decode(self.region().load(owner_at)?).ok_or(DAMAGED)?;
        self.region().commit(owner_at, owner.in_limbo().encode(), MustFence::nothing())?;
        lane.clear_task()?;
        self.unlock_inode(lane, inode)?;
        self.settle(lane, inode, &[owner_at])
    }

    /// Frees the index nodes of an empty directory.
    fn prune_directory(&self, pruner: &mut Pruner<'_, '_>, link_at: u64, depth: u32) -> Result<()> {
        match Target::decode(self.region().load(link_at)?)? {
            Target::Hole => Ok(()),
            Target::Index(node, height) if depth <= 12 && height as u32 == depth + 1 => {
                space::expect(self.region(), Class::Cell, node, Kind::Index, pruner.inode().number())?;
                for child in 0..INDEX_WORDS {
                    self.prune_directory(pruner, node + child * 8, depth + 1)?;
                }
                pruner.unlink(Class::Cell, node, link_at, 0)
            }
            // A name in a directory that was found empty is not ours to throw away.
            _ => Err(DAMAGED),
        }
    }
}
