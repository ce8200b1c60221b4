//! Changing attributes, and what a change does to set-id bits.
//!
//! The kernel takes those bits away itself where they grant something to everybody who may execute the file. Two cases are
//! left to us: calls that the kernel does not look into, and set-group-id on a file that its group cannot execute (a mark
//! for locks), which a caller outside the group takes away.

use crate::callers::is_in_group;
use crate::service::{CHECKED_ROOT, Service};
use fuser::Request;
use lifeboat_fs::{InodeId, NewTime, OpenFile, Result, Stat};

/// What is to be changed.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) accessed: NewTime,
    pub(crate) modified: NewTime,
}

impl Service {
    /// Changes what the kernel has allowed to change. `file` says that a size is set through an open file, which always
    /// changes times.
    pub(crate) fn change(&self, request: &Request, id: InodeId, file: Option<OpenFile>, new: &Change) -> Result<()> {
        let changes_times = new.accessed != NewTime::Keep || new.modified != NewTime::Keep;
        let changes_owner = new.uid.is_some() || new.gid.is_some();
        let says_nothing = !changes_owner && !changes_times && new.size.is_none() && new.mode.is_none();
        let before = self.files.stat(id)?;
        // A change of nothing is one of the time of change (`chown` to nobody else), or the kernel's look before
        // `fallocate` at set-id bits, which it would take away were it not for the case that is left to us. From a
        // stranger the two cannot be told apart, and the second must succeed.
        let is_strangers = request.uid() != 0 && request.uid() != before.uid;
        if says_nothing && is_strangers && without_set_ids(request, before.mode, before.gid) != before.mode {
            return Ok(());
        }
        if changes_owner || says_nothing {
            self.files.chown(&CHECKED_ROOT, id, new.uid, new.gid)?;
        }
        if let Some(size) = new.size {
            match file {
                Some(file) => self.with_patience(|| self.files.truncate_open(file, size))?,
                None => {
                    self.claim(id)?;
                    self.with_patience(|| self.files.truncate(&CHECKED_ROOT, id, size))?;
                }
            }
        }
        if let Some(mode) = new.mode {
            self.files.chmod(&CHECKED_ROOT, id, mode)?;
        }
        if changes_owner || says_nothing || new.size.is_some() {
            self.lose_set_ids_as(request, id, before.gid)?;
        }
        self.files.set_times(&CHECKED_ROOT, id, new.accessed, new.modified)
    }

    /// After a change of contents by `request`.
    pub(crate) fn lose_set_ids(&self, request: &Request, id: InodeId) -> Result<()> {
        let Stat { gid, .. } = self.files.stat(id)?;
        self.lose_set_ids_as(request, id, gid)
    }

    /// After a change by `request` of a file whose group was `gid`. Root keeps the bits; whether others have the
    /// capability to keep them is not known here.
    fn lose_set_ids_as(&self, request: &Request, id: InodeId, gid: u32) -> Result<()> {
        if request.uid() == 0 { Ok(()) } else { self.drop_set_ids(request, id, gid) }
    }

    /// The kernel says that a writer may not keep the bits.
    pub(crate) fn drop_set_ids_of_writer(&self, request: &Request, id: InodeId) -> Result<()> {
        let Stat { gid, .. } = self.files.stat(id)?;
        self.drop_set_ids(request, id, gid)
    }

    fn drop_set_ids(&self, request: &Request, id: InodeId, gid: u32) -> Result<()> {
        let stat = self.files.stat(id)?;
        let kept = without_set_ids(request, stat.mode, gid);
        if kept == stat.mode { Ok(()) } else { self.files.chmod(&CHECKED_ROOT, id, kept & 0o7777) }
    }
}

/// What a change by the caller leaves of the mode of a file whose group is `gid`.
fn without_set_ids(request: &Request, mode: u32, gid: u32) -> u32 {
    if mode & libc::S_IFMT == libc::S_IFDIR || mode & (libc::S_ISUID | libc::S_ISGID) == 0 {
        return mode;
    }
    let is_mark = mode & libc::S_IXGRP == 0;
    let keeps_group = mode & libc::S_ISGID == 0 || (is_mark && is_in_group(request, gid));
    mode & !libc::S_ISUID & if keeps_group { !0 } else { !libc::S_ISGID }
}
