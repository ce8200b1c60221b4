//! What the kernel remembers: inodes that it has looked up and not yet forgotten.
//!
//! The kernel's name for an inode is its number, which is also `st_ino`; the generation goes beside it. A number that was
//! freed and given away again by others so never leads to the wrong file: its old id is refused, and the kernel learns the
//! new generation at the next look-up.
//!
//! An inode that loses its last name through the mount while the kernel remembers it is *held*: an open file of the
//! region (`O_PATH`) keeps it until the kernel forgets it, because somebody may have it as working directory or open
//! without our knowing. A daemon that dies leaves such open files to recovery, as every process does.

use crate::service::CHECKED_ROOT;
use lifeboat_fs::{Errno, FileSystem, InodeId, OpenFile, Result};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The kernel's number for the root.
const ROOT: u64 = 1;
/// Parts of the table, each with a lock of its own.
const SHARDS: usize = 16;
/// `O_PATH`
const PATH_ONLY: i32 = libc::O_PATH;

/// A name in a directory.
type Name = (InodeId, Box<[u8]>);

/// One remembered inode.
#[derive(Debug)]
struct Node {
    id: InodeId,
    lookups: u64,
    /// Where it was found last, as the kernel tells no names when it opens. Kept only where names are claimed.
    name: Option<Name>,
    hold: Option<OpenFile>,
}

/// All remembered inodes.
#[derive(Debug)]
pub(crate) struct Nodes {
    root: InodeId,
    shards: [Mutex<HashMap<u64, Node>>; SHARDS],
    held: AtomicUsize,
}

impl Nodes {
    /// Nothing but the root, which is never forgotten.
    pub(crate) fn new(root: InodeId) -> Nodes {
        Nodes { root, shards: Default::default(), held: AtomicUsize::new(0) }
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Node>> {
        self.shards[number as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The inode that the kernel calls `number`. `STALE` when it was never looked up.
    pub(crate) fn find(&self, number: u64) -> Result<InodeId> {
        if number == ROOT {
            return Ok(self.root);
        }
        self.shard(number).get(&number).map(|node| node.id).ok_or(Errno::STALE)
    }

    /// Where `id` was found last.
    pub(crate) fn name_of(&self, id: InodeId) -> Option<Name> {
        self.shard(id.number()).get(&id.number()).filter(|node| node.id == id)?.name.clone()
    }

    /// One more look-up of `id`, as `name` in the directory that the kernel calls `parent`, was answered. An inode of the
    /// same number that is gone makes place.
    pub(crate) fn remember(&self, files: &FileSystem, id: InodeId, parent: u64, name: &[u8]) {
        let parent = if files.has_claims() { self.find(parent).ok() } else { None };
        let name: Option<Name> = parent.map(|dir| (dir, name.into()));
        let mut shard = self.shard(id.number());
        let hold = match shard.entry(id.number()) {
            Entry::Vacant(place) => {
                place.insert(Node { id, lookups: 1, name, hold: None });
                None
            }
            Entry::Occupied(mut place) => {
                let node = place.get_mut();
                node.lookups += 1;
                node.name = name;
                let outdated = node.id != id;
                node.id = id;
                if outdated { node.hold.take() } else { None }
            }
        };
        drop(shard);
        self.let_go(files, hold);
    }

    /// The kernel forgets `count` look-ups.
    pub(crate) fn forget(&self, files: &FileSystem, number: u64, count: u64) {
        let mut shard = self.shard(number);
        let Entry::Occupied(mut place) = shard.entry(number) else { return };
        place.get_mut().lookups = place.get().lookups.saturating_sub(count);
        if place.get().lookups > 0 {
            return;
        }
        let hold = place.remove().hold;
        drop(shard);
        self.let_go(files, hold);
    }

    /// Before `id` may lose its last name: keeps it while the kernel remembers it. Tells whether it was not held before.
    pub(crate) fn hold(&self, files: &FileSystem, id: InodeId) -> Result<bool> {
        let is_wanted = |node: &Node| node.id == id && node.hold.is_none();
        if !self.shard(id.number()).get(&id.number()).is_some_and(is_wanted) {
            return Ok(false);
        }
        let file = files.open_inode(&CHECKED_ROOT, id, PATH_ONLY)?;
        let mut shard = self.shard(id.number());
        match shard.get_mut(&id.number()).filter(|node| is_wanted(node)) {
            Some(node) => {
                node.hold = Some(file);
                self.held.fetch_add(1, Ordering::SeqCst);
                Ok(true)
            }
            None => {
                drop(shard);
                files.close(file)?;
                Ok(false)
            }
        }
    }

    /// Undoes [`Nodes::hold`]: the name stayed.
    pub(crate) fn release(&self, files: &FileSystem, id: InodeId) {
        let hold = self.shard(id.number()).get_mut(&id.number()).and_then(|node| node.hold.take());
        self.let_go(files, hold);
    }

    /// Whether inodes without a name may be waiting for the kernel to forget them.
    pub(crate) fn any_held(&self) -> bool {
        self.held.load(Ordering::SeqCst) > 0
    }

    fn let_go(&self, files: &FileSystem, hold: Option<OpenFile>) {
        if let Some(file) = hold {
            // What cannot be freed now is freed by recovery when this process ends.
            let _ = files.close(file);
            self.held.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
