//! What the kernel has behind a name of the region: the FIFO or the socket itself lies beside the placeholders of open
//! files, named by its inode, and goes with it.

use crate::file_system::FileSystem;
use crate::inode::{self, InodeId};
use crate::{Errno, Result};
use core::mem::MaybeUninit;
use lifeboat_region::process;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

/// First letter of the names of FIFOs.
const FIFO: u8 = b'p';
/// First letter of the names of sockets.
const SOCKET: u8 = b's';

/// Tells a FIFO that is being made from one that others may open.
const UNFINISHED: u8 = b'-';

/// How often two threads of one number may get in each other's way.
const MEETINGS: u32 = 16;

/// Name of a node of the kernel's.
pub struct KernelNode {
    text: [u8; 64],
    length: usize,
}

impl KernelNode {
    fn new(letter: u8, inode: InodeId) -> KernelNode {
        let mut text = [0; 64];
        let length = process::decimal(&[letter], inode.to_word(), b"", &mut text);
        KernelNode { text, length }
    }

    /// Of the FIFO behind an inode.
    pub fn of_fifo(inode: InodeId) -> KernelNode {
        KernelNode::new(FIFO, inode)
    }

    /// Of the socket behind an inode.
    pub fn of_socket(inode: InodeId) -> KernelNode {
        KernelNode::new(SOCKET, inode)
    }

    /// The name in the folder of placeholders.
    pub fn name(&self) -> &[u8] {
        &self.text[..self.length]
    }

    /// The inode of a FIFO by the name of its node.
    pub fn fifo_named(name: &[u8]) -> Option<InodeId> {
        let (&first, number) = name.split_first()?;
        (first == FIFO).then_some(())?;
        process::parse_decimal(number).map(InodeId::from_word)
    }

    /// The inode of a socket by the name of its node.
    pub fn socket_named(name: &[u8]) -> Option<InodeId> {
        let (&first, number) = name.split_first()?;
        (first == SOCKET).then_some(())?;
        process::parse_decimal(number).map(InodeId::from_word)
    }
}

/// The inode that a name in the folder belongs to; `None` for placeholders.
fn owner_of(name: &[u8]) -> Option<InodeId> {
    let (&first, rest) = name.split_first()?;
    matches!(first, FIFO | SOCKET).then_some(())?;
    let number = rest.split(|&byte| byte == UNFINISHED).next()?;
    process::parse_decimal(number).map(InodeId::from_word)
}

impl FileSystem {
    /// Makes the FIFO behind an inode, unless it is there. Everybody who can come here may open it: whether a program
    /// may is the inode's to say. `EBADF` when somebody closed the region's descriptors.
    pub fn make_fifo(&self, inode: InodeId) -> Result<()> {
        let tags = self.region().tags().ok_or(Errno::NXIO)?;
        let node = KernelNode::of_fifo(inode);
        // `pINODE-THREAD`, so that nobody sees it before its mode is right, which the program's umask may have changed.
        let (mut beginning, mut unfinished) = ([0; 64], [0; 64]);
        let length = process::decimal(&[FIFO], inode.to_word(), &[UNFINISHED], &mut beginning);
        let thread = rustix::thread::gettid().as_raw_nonzero().get() as u64;
        let length = process::decimal(&beginning[..length], thread, b"", &mut unfinished);
        let unfinished = &unfinished[..length];
        let mode = Mode::from_raw_mode(0o666);
        let mut made = Err(Errno::NOENT);
        // Left by a dead thread of this number, or that of a living one in another pid namespace.
        for _ in 0..MEETINGS {
            made = rustix::fs::mknodat(tags, unfinished, FileType::Fifo, mode, 0)
                .and_then(|()| rustix::fs::chmodat(tags, unfinished, mode, AtFlags::empty()))
                .and_then(|()| rustix::fs::linkat(tags, unfinished, tags, node.name(), AtFlags::empty()));
            let exists = rustix::fs::accessat(tags, node.name(), rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok();
            let _ = rustix::fs::unlinkat(tags, unfinished, AtFlags::empty());
            match made {
                _ if exists => return Ok(()),
                Err(Errno::EXIST | Errno::NOENT) => {}
                _ => break,
            }
        }
        made
    }

    /// Takes the FIFO away again if the inode was removed while it was being made or opened.
    pub fn drop_fifo_if_removed(&self, inode: InodeId) {
        if self.validate(inode) == Err(Errno::STALE) {
            self.remove_kernel_node(&KernelNode::of_fifo(inode));
        }
    }

    fn remove_kernel_node(&self, node: &KernelNode) {
        if let Some(tags) = self.region().tags() {
            let _ = rustix::fs::unlinkat(tags, node.name(), AtFlags::empty());
        }
    }

    /// An inode comes to its end.
    pub(crate) fn remove_kernel_node_of(&self, inode: InodeId, mode: u32) {
        match mode & inode::TYPE_MASK {
            inode::FIFO => self.remove_kernel_node(&KernelNode::of_fifo(inode)),
            inode::SOCKET => self.remove_kernel_node(&KernelNode::of_socket(inode)),
            _ => {}
        }
    }

    /// Removes nodes whose inode is gone: of processes that died while they made one.
    pub(crate) fn sweep_kernel_nodes(&self) -> Result<()> {
        let Some(tags) = self.region().tags() else { return Ok(()) };
        // A descriptor of its own: several processes share the offset of the other one.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // No descriptor is left, or somebody closed the region's: another sweep will come.
        let Ok(folder) = rustix::fs::openat(tags, c".", flags, Mode::empty()) else { return Ok(()) };
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut entries = rustix::fs::RawDir::new(&folder, &mut buffer);
        while let Some(Ok(entry)) = entries.next() {
            if let Some(inode) = owner_of(entry.file_name().to_bytes())
                && self.validate(inode) == Err(Errno::STALE)
            {
                let _ = rustix::fs::unlinkat(tags, entry.file_name(), AtFlags::empty());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_found_by_its_name_and_placeholders_are_left_alone() {
        let inode = InodeId::from_word(1 << 63 | 77);
        assert_eq!(KernelNode::fifo_named(KernelNode::of_fifo(inode).name()), Some(inode));
        assert_eq!(KernelNode::socket_named(KernelNode::of_socket(inode).name()), Some(inode));
        assert_eq!(owner_of(KernelNode::of_fifo(inode).name()), Some(inode));
        assert_eq!(owner_of(b"p77-1234"), Some(InodeId::from_word(77)));
        for name in [b"77".as_slice(), b"", b"p", b"px", b"filler", b"s77x"] {
            assert_eq!(owner_of(name), None);
        }
    }
}
