//! Texts that belong to an inode, in its own cell when short, in a block otherwise: targets of symbolic links, and the
//! addresses that sockets were bound to.

use crate::file_system::FileSystem;
use crate::inode::{self, INLINE, INLINE_LONGEST, InodeId};
use crate::map_word::Target;
use crate::namespace::NewInode;
use crate::types::Caller;
use crate::{Errno, Result};
use lifeboat_region::lane::{Lane, Transaction};
use lifeboat_region::layout::BLOCK;
use lifeboat_region::owner::Kind;
use lifeboat_region::space::{self, Class};
use lifeboat_region::{DAMAGED, MustFence};

impl FileSystem {
    /// Puts a target into a new link's inode, which is still private.
    pub(crate) fn store_target(
        &self,
        lane: &Lane<'_>,
        transaction: &mut Transaction<'_, '_>,
        link: InodeId,
        target: &[u8],
    ) -> Result<MustFence> {
        let region = self.region();
        let nothing = MustFence::nothing;
        region.commit(link.at() + inode::SIZE, target.len() as u64, nothing())?;
        if target.len() <= INLINE_LONGEST {
            return region.write_bytes(link.at() + INLINE, target);
        }
        let block = lane.allocate(Class::Block, None)?;
        self.link_unit(transaction, &block, Kind::Data, link)?;
        region.commit(link.at() + inode::ROOT, Target::Block(block.at).encode(), nothing())?;
        region.commit(link.at() + inode::BLOCKS, BLOCK / 512, nothing())?;
        region.write_bytes(block.at, target)
    }

    /// Makes the name of a socket. `address` is what the program called it, which whoever asks for the socket's name is told.
    pub fn make_socket(&self, who: &Caller<'_>, dir: InodeId, path: &[u8], mode: u32, address: &[u8]) -> Result<()> {
        let new = NewInode { mode: inode::SOCKET | mode & 0o7777, device: 0, links: 1, flags: 0 };
        self.create(who, dir, path, &new, |lane, transaction, id| self.store_target(lane, transaction, id, address))
    }

    /// Copies the address that a socket was bound to into `out`; its length, cut to what fits. Nothing is known of sockets
    /// that the kernel's mount made. `INVAL` when it is no socket.
    pub fn socket_address(&self, socket: InodeId, out: &mut [u8]) -> Result<usize> {
        self.text(socket, inode::SOCKET, out)
    }

    /// Copies the target of a symbolic link into `out`; its length, cut to what fits. `INVAL` when it is no link.
    pub fn readlink(&self, link: InodeId, out: &mut [u8]) -> Result<usize> {
        self.text(link, inode::LINK, out)
    }

    fn text(&self, link: InodeId, kind: u32, out: &mut [u8]) -> Result<usize> {
        self.unless_removed(link, self.text_as_it_is(link, kind, out))
    }

    fn text_as_it_is(&self, link: InodeId, kind: u32, out: &mut [u8]) -> Result<usize> {
        if self.mode(link)? & inode::TYPE_MASK != kind {
            return Err(Errno::INVAL);
        }
        let length = inode::size_of(self.field(link, inode::SIZE)?) as usize;
        let at = match Target::decode(self.field(link, inode::ROOT)?)? {
            Target::Hole if length <= INLINE_LONGEST => link.at() + INLINE,
            Target::Block(at) if length <= crate::PATH_LONGEST => {
                space::expect(self.region(), Class::Block, at, Kind::Data, link.number())?;
                at
            }
            _ => return Err(DAMAGED),
        };
        let length = length.min(out.len());
        self.region().read_bytes(at, &mut out[..length])?;
        Ok(length)
    }
}
