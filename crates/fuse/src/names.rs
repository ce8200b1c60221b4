//! Names: looking up, making, removing, renaming, opening.

use crate::callers::Groups;
use crate::service::{CHECKED_ROOT, Service};
use lifeboat_fs::{Caller, Errno, InodeId, LastLink, OpenFile, Result, Stat, rename};
use std::time::Duration;

/// How long a full region waits for the kernel to forget what was removed, in steps of [`PATIENCE_STEP`].
const PATIENCE_STEPS: u32 = 50;
const PATIENCE_STEP: Duration = Duration::from_millis(1);

impl Service {
    pub(crate) fn look_up(&self, parent: u64, name: &[u8]) -> Result<(InodeId, Stat)> {
        let dir = self.nodes.find(parent)?;
        let id = self.files.resolve(&CHECKED_ROOT, dir, name, LastLink::Keep)?;
        Ok((id, self.files.stat(id)?))
    }

    /// Makes a name by `make` and looks it up.
    pub(crate) fn make(
        &self,
        parent: u64,
        name: &[u8],
        make: impl Fn(InodeId, &[u8]) -> Result<()>,
    ) -> Result<(InodeId, Stat)> {
        let dir = self.nodes.find(parent)?;
        self.with_patience(|| make(dir, name))?;
        self.look_up(parent, name)
    }

    /// Removes a name; what it named stays while the kernel remembers it.
    pub(crate) fn remove(&self, parent: u64, name: &[u8], directory: bool) -> Result<()> {
        let dir = self.nodes.find(parent)?;
        self.losing_a_name(dir, name, || match directory {
            true => self.files.rmdir(&CHECKED_ROOT, dir, name),
            false => self.files.unlink(&CHECKED_ROOT, dir, name),
        })
    }

    /// A whiteout belongs to `who`.
    pub(crate) fn rename_names(
        &self,
        who: &Caller<'_>,
        old: (u64, &[u8]),
        new: (u64, &[u8]),
        flags: u32,
    ) -> Result<()> {
        let (old_dir, new_dir) = (self.nodes.find(old.0)?, self.nodes.find(new.0)?);
        let rename = || self.with_patience(|| self.files.rename(who, old_dir, old.1, new_dir, new.1, flags));
        if flags & (rename::NO_REPLACE | rename::EXCHANGE) != 0 {
            return rename();
        }
        self.losing_a_name(new_dir, new.1, rename)
    }

    /// Runs `remove`, by which `name` in `dir` may lose what it names.
    fn losing_a_name(&self, dir: InodeId, name: &[u8], remove: impl FnOnce() -> Result<()>) -> Result<()> {
        // Whatever is wrong here is found again, and answered, by what is to be done.
        let found = self.files.resolve(&CHECKED_ROOT, dir, name, LastLink::Keep).ok();
        let last = found.filter(|&id| self.files.stat(id).is_ok_and(|stat| is_last_name(&stat)));
        let held = match last {
            Some(id) => self.nodes.hold(&self.files, id)?.then_some(id),
            None => None,
        };
        let done = remove();
        if let (Some(id), Err(_)) = (held, done) {
            self.nodes.release(&self.files, id);
        }
        done
    }

    /// Runs `call`; when space is short, waits a little for the kernel to forget what was removed before.
    pub(crate) fn with_patience<T>(&self, call: impl Fn() -> Result<T>) -> Result<T> {
        for _ in 0..PATIENCE_STEPS {
            match call() {
                Err(Errno::NOSPC | Errno::NFILE) if self.nodes.any_held() => std::thread::sleep(PATIENCE_STEP),
                other => return other,
            }
        }
        call()
    }

    /// Opens an inode as the kernel has allowed.
    pub(crate) fn open_known(&self, id: InodeId, flags: i32) -> Result<OpenFile> {
        // Appending is asked for at each write; the rest has been acted upon.
        let flags = flags & (libc::O_ACCMODE | libc::O_TRUNC | libc::O_NOATIME | libc::O_DIRECTORY);
        self.claim_to_open(id, flags)?;
        self.with_patience(|| self.files.open_inode(&CHECKED_ROOT, id, flags))
    }

    /// Before `id` is written: its name is this node's, where names are claimed.
    pub(crate) fn claim(&self, id: InodeId) -> Result<()> {
        self.claim_to_open(id, libc::O_WRONLY)
    }

    /// Before `id` is opened with these flags, too.
    fn claim_to_open(&self, id: InodeId, flags: i32) -> Result<()> {
        if !self.files.has_claims() {
            return Ok(());
        }
        let name = self.nodes.name_of(id);
        self.files.claim_to_open(id, flags, name.as_ref().map(|(dir, name)| (*dir, &**name)))
    }

    /// `O_CREAT` of a name that the kernel has found free.
    pub(crate) fn create_file(
        &self,
        owner: &Caller<'_>,
        pid: u32,
        parent: u64,
        name: &[u8],
        flags: i32,
        mode: u32,
    ) -> Result<(InodeId, Stat, OpenFile)> {
        let dir = self.nodes.find(parent)?;
        let kept = flags & (libc::O_ACCMODE | libc::O_NOATIME);
        let new = kept | libc::O_CREAT | libc::O_EXCL;
        let file = match self.with_patience(|| self.files.open(owner, dir, name, new, mode)) {
            Err(Errno::EXIST) if flags & libc::O_EXCL == 0 => {
                // Somebody else has made it meanwhile: may this caller open it? The kernel has not looked.
                let groups = Groups::of(pid);
                let caller = Caller { groups: groups.as_slice(), checked: false, ..*owner };
                self.files.open(&caller, dir, name, kept | flags & libc::O_TRUNC | libc::O_NOFOLLOW, 0)
            }
            other => other,
        }?;
        let described = self.files.inode_of(file).and_then(|id| Ok((id, self.files.stat(id)?)));
        match described {
            Ok((id, stat)) => Ok((id, stat, file)),
            Err(error) => {
                self.files.close(file)?;
                Err(error)
            }
        }
    }
}

fn is_last_name(stat: &Stat) -> bool {
    stat.links <= 1 || stat.mode & libc::S_IFMT == libc::S_IFDIR
}
