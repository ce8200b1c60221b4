//! Attributes: who owns a file, what may be done with it, when it changed.

use crate::file_system::FileSystem;
use crate::inode::{self, InodeId};
use crate::types::{Caller, NewTime, Stat, Usage};
use crate::walk::WRITE;
use crate::{Errno, Result};
use lifeboat_region::layout::CELL;
use lifeboat_region::{MustFence, process, space};

/// Set-user-id bit.
const SETUID: u32 = 0o4000;
/// Set-group-id bit.
pub(crate) const SETGID: u32 = 0o2000;
/// The group may execute.
pub(crate) const GROUP_EXECUTE: u32 = 0o010;

/// Whether a mode word has a bit that does not survive every write.
pub(crate) const fn has_set_ids(mode: u64) -> bool {
    mode as u32 & (SETUID | SETGID) != 0
}

impl FileSystem {
    /// Attributes of an inode.
    pub fn stat(&self, inode: InodeId) -> Result<Stat> {
        let mut stat = Stat::default();
        self.stat_into(inode, &mut stat).map(|()| stat)
    }

    /// As [`FileSystem::stat`], to a place of the caller's; nothing of it counts after an error.
    #[inline(always)]
    pub fn stat_into(&self, inode: InodeId, into: &mut Stat) -> Result<()> {
        self.unless_removed(inode, self.stat_as_it_is(inode, into))
    }

    #[inline(always)]
    fn stat_as_it_is(&self, inode: InodeId, into: &mut Stat) -> Result<()> {
        let [mode, links, ids, device, size, blocks, accessed, modified, changed, born] = self.fields(
            inode,
            [
                inode::MODE,
                inode::LINKS,
                inode::IDS,
                inode::DEVICE,
                inode::SIZE,
                inode::BLOCKS,
                inode::ACCESSED,
                inode::MODIFIED,
                inode::CHANGED,
                inode::BORN,
            ],
        )?;
        let kind = mode as u32 & inode::TYPE_MASK;
        // What a socket has is its address, not contents.
        let contents = |value: u64| if kind == inode::SOCKET { 0 } else { value };
        *into = Stat {
            number: inode.number(),
            mode: mode as u32,
            links: inode::links_of(links)? as u32,
            uid: ids as u32,
            gid: (ids >> 32) as u32,
            device: if kind == inode::DIRECTORY { 0 } else { device },
            size: contents(inode::size_of(size)),
            blocks: contents(blocks),
            accessed: accessed as i64,
            modified: modified as i64,
            changed: changed as i64,
            born: born as i64,
            sealed: mode & inode::SEALED != 0,
        };
        Ok(())
    }

    /// Checks permissions: `mode` has the bits of `access` (4 read, 2 write, 1 execute; 0 asks for existence).
    pub fn access(&self, who: &Caller<'_>, inode: InodeId, mode: u32) -> Result<()> {
        if mode & !7 != 0 {
            return Err(Errno::INVAL);
        }
        let permitted = if mode == 0 { Ok(()) } else { self.permit(who, inode, mode) };
        self.while_there(inode, permitted).map_err(inode::gone)
    }

    /// Sets several fields of an inode together, and its time of change. Times are no part of the transaction: writers set
    /// them without a lock, and a word that others change cannot be redone.
    fn change(&self, inode: InodeId, fields: impl FnOnce(&Self) -> Result<[(u64, u64); 2]>) -> Result<()> {
        let lane = self.lane()?;
        self.lock_inode(&lane, inode).map_err(inode::gone)?;
        let fields = fields(self)?;
        let mut transaction = lane.begin();
        for (field, value) in fields {
            match field {
                inode::ACCESSED | inode::MODIFIED => self.set(inode, field, value)?,
                _ => transaction.set(inode.at() + field, value)?,
            }
        }
        self.set(inode, inode::CHANGED, process::now() as u64)?;
        transaction.commit(MustFence::nothing())
    }

    /// Changes permission bits.
    pub fn chmod(&self, who: &Caller<'_>, inode: InodeId, mode: u32) -> Result<()> {
        self.change(inode, |fs| {
            let ids = fs.field(inode, inode::IDS)?;
            if !who.is_privileged() && who.uid != ids as u32 {
                return Err(Errno::PERM);
            }
            let old = fs.field(inode, inode::MODE)?;
            let mut bits = mode & 0o7777;
            if !who.may_set_group_id((ids >> 32) as u32) {
                bits &= !SETGID;
            }
            Ok([(inode::MODE, old & !0o7777 | bits as u64), (inode::IDS, ids)])
        })
    }

    /// Changes owner and group; `None` keeps.
    pub fn chown(&self, who: &Caller<'_>, inode: InodeId, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.change(inode, |fs| {
            let ids = fs.field(inode, inode::IDS)?;
            let (old_uid, old_gid) = (ids as u32, (ids >> 32) as u32);
            let (new_uid, new_gid) = (uid.unwrap_or(old_uid), gid.unwrap_or(old_gid));
            let mut mode = fs.field(inode, inode::MODE)?;
            let is_directory = mode as u32 & inode::TYPE_MASK == inode::DIRECTORY;
            let cleared = if is_directory { mode } else { without_set_ids(mode, who.may_set_group_id(old_gid)) };
            let may = who.is_privileged()
                || (uid.is_none() && gid.is_none() && cleared == mode)
                || (who.uid == old_uid && new_uid == old_uid && (new_gid == old_gid || who.in_group(new_gid)));
            if !may {
                return Err(Errno::PERM);
            }
            mode = cleared;
            Ok([(inode::IDS, new_uid as u64 | (new_gid as u64) << 32), (inode::MODE, mode)])
        })
    }

    /// Sets times. Setting both to now needs write permission, anything else ownership.
    pub fn set_times(&self, who: &Caller<'_>, inode: InodeId, accessed: NewTime, modified: NewTime) -> Result<()> {
        if accessed == NewTime::Keep && modified == NewTime::Keep {
            return self.exists(inode);
        }
        self.change(inode, |fs| {
            let owner = fs.field(inode, inode::IDS)? as u32;
            if !who.is_privileged() && who.uid != owner {
                if accessed != NewTime::Now || modified != NewTime::Now {
                    return Err(Errno::PERM);
                }
                fs.permit(who, inode, WRITE)?;
            }
            let value = |field, time| -> Result<(u64, u64)> {
                Ok((
                    field,
                    match time {
                        NewTime::Keep => fs.field(inode, field)?,
                        NewTime::Now => process::now() as u64,
                        NewTime::At(at) => at as u64,
                    },
                ))
            };
            Ok([value(inode::ACCESSED, accessed)?, value(inode::MODIFIED, modified)?])
        })
    }

    /// Set-id bits do not survive a write by somebody who is not root. Set-group-id of a file that its group cannot
    /// execute (a mark for locks) survives if the writer is in the group. The inode is locked.
    pub(crate) fn drop_set_ids(&self, inode: InodeId) -> Result<()> {
        let mode = self.field(inode, inode::MODE)?;
        if !has_set_ids(mode) || rustix::process::geteuid().as_raw() == 0 {
            return Ok(());
        }
        let group = (self.field(inode, inode::IDS)? >> 32) as u32;
        let without = without_set_ids(mode, process::is_in_group(group));
        if mode == without { Ok(()) } else { self.set(inode, inode::MODE, without) }
    }

    /// The same for an inode that this operation has not locked.
    pub(crate) fn drop_set_ids_unlocked(&self, inode: InodeId) -> Result<()> {
        if !has_set_ids(self.field(inode, inode::MODE)?) {
            return Ok(());
        }
        let lane = self.lane()?;
        self.lock_inode(&lane, inode)?;
        self.drop_set_ids(inode)
    }

    /// Space of the region. Counts every owner word.
    pub fn usage(&self) -> Usage {
        let Ok(used) = space::count(self.region()) else { return Usage::default() };
        let free = used.unopened + used.free_in_data;
        Usage {
            bytes_total: used.total,
            bytes_free: free,
            inodes_used: used.inodes,
            inodes_free: used.unopened / CELL + used.free_cells,
        }
    }
}

fn without_set_ids(mode: u64, may_set_group_id: bool) -> u64 {
    let mut bits = mode as u32;
    bits &= !SETUID;
    if bits & GROUP_EXECUTE != 0 || !may_set_group_id {
        bits &= !SETGID;
    }
    mode & !0xffff_ffff | bits as u64
}
