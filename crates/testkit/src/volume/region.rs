//! The region's side: [`FileSystem`] called as the interception library calls it.

use super::{Answer, Attributes, Base, Subject, Time, UMASK, User, Volume};
use lifeboat_fs::{Caller, FileSystem, InodeId, LastLink, NewTime, OpenFile, Position, Stat};
use lifeboat_region::{Errno, UserSource, UserTarget};

/// A directory of a region's file system.
pub struct RegionVolume<'a> {
    files: &'a FileSystem,
    top: InodeId,
    user: User,
}

fn answer<T>(result: Result<T, Errno>) -> Answer<T> {
    result.map_err(|error| error.raw_os_error())
}

impl<'a> RegionVolume<'a> {
    /// The directory `top`, a path below the root (empty: the root itself), which exists. Calls are made as root until
    /// [`Volume::become_user`].
    pub fn over(files: &'a FileSystem, top: &[u8]) -> Answer<Self> {
        let user = super::super::scratch::this_user();
        let mut volume = Self { files, top: files.root(), user };
        if !top.is_empty() {
            volume.top = volume.find(None, top, true)?;
        }
        Ok(volume)
    }

    /// The root, for a caller whom no permission keeps out: what damage makes of permissions is not what is asked.
    pub fn for_everything(files: &'a FileSystem) -> Answer<Self> {
        let mut volume = Self::over(files, b"")?;
        (volume.user.uid, volume.user.gid) = (0, 0);
        Ok(volume)
    }

    /// The file system itself, for what has no kernel counterpart.
    pub fn files(&self) -> &FileSystem {
        self.files
    }

    fn caller(&self) -> Caller<'_> {
        Caller { uid: self.user.uid, gid: self.user.gid, groups: &self.user.groups, umask: UMASK, checked: false }
    }

    fn at(&self, base: Base<OpenFile>) -> Answer<InodeId> {
        base.map_or(Ok(self.top), |file| answer(self.files.inode_of(file)))
    }

    fn find(&self, base: Base<OpenFile>, path: &[u8], follow: bool) -> Answer<InodeId> {
        let last = if follow { LastLink::Follow } else { LastLink::Keep };
        answer(self.files.resolve(&self.caller(), self.at(base)?, path, last))
    }

    /// What the other side meets on the way to a path, before the kernel looks at the rest of the arguments: its calls on
    /// extended attributes start from the working directory.
    fn enter_base(&self, of: Subject<'_, OpenFile>) -> Answer<()> {
        match of {
            Subject::Open(_) => Ok(()),
            Subject::Path(_, b"", _) => Err(libc::ENOENT),
            Subject::Path(_, path, _) if path.len() >= libc::PATH_MAX as usize => Err(libc::ENAMETOOLONG),
            Subject::Path(base, ..) => {
                let at = self.at(base)?;
                if answer(self.files.stat(at))?.mode & libc::S_IFMT != libc::S_IFDIR {
                    return Err(libc::ENOTDIR);
                }
                answer(self.files.access(&self.caller(), at, 1))
            }
        }
    }

    /// The inode that an extended attribute belongs to.
    fn subject(&self, of: Subject<'_, OpenFile>) -> Answer<InodeId> {
        match of {
            Subject::Open(file) => self.changeable(file),
            Subject::Path(base, path, follow) => self.find(base, path, follow),
        }
    }

    /// The inode of an open file through which attributes may change: `O_PATH` descriptors are not such, as the
    /// interception library answers too.
    fn changeable(&self, file: OpenFile) -> Answer<InodeId> {
        if self.flags(file)? & libc::O_PATH != 0 {
            return Err(libc::EBADF);
        }
        answer(self.files.inode_of(file))
    }
}

fn attributes(found: &Stat) -> Attributes {
    Attributes {
        number: found.number,
        mode: found.mode,
        links: u64::from(found.links),
        uid: found.uid,
        gid: found.gid,
        device: found.device,
        size: found.size,
        blocks: found.blocks,
        accessed: found.accessed,
        modified: found.modified,
        changed: found.changed,
    }
}

fn new_time(time: Time) -> NewTime {
    match time {
        Time::Keep => NewTime::Keep,
        Time::Now => NewTime::Now,
        Time::At(at) => NewTime::At(at),
    }
}

/// The kernel looks at neither path nor file when there is nothing to set; nor does the interception library.
fn keeps_both(accessed: Time, modified: Time) -> bool {
    (accessed, modified) == (Time::Keep, Time::Keep)
}

fn position(at: Option<u64>) -> Position {
    at.map_or(Position::Current, Position::At)
}

impl Volume for RegionVolume<'_> {
    type File = OpenFile;

    fn become_user(&mut self, user: &User) {
        // Writing asks for the ids of the thread itself.
        super::switch_thread_to(user);
        self.user = user.clone();
    }

    fn open(&self, base: Base<OpenFile>, path: &[u8], flags: i32, mode: u32) -> Answer<OpenFile> {
        answer(self.files.open(&self.caller(), self.at(base)?, path, flags | libc::O_CLOEXEC, mode))
    }

    fn close(&self, file: OpenFile) -> Answer<()> {
        answer(self.files.close(file))
    }

    fn read(&self, file: OpenFile, length: usize, at: Option<u64>) -> Answer<Vec<u8>> {
        // Filled with a mark, so that bytes which the call counts but does not write are seen.
        let mut buffer = vec![0xa5_u8; length];
        let target = [UserTarget::from_slice(&mut buffer)];
        let count = answer(self.files.read(file, &target, position(at)))?;
        buffer.truncate(count);
        Ok(buffer)
    }

    fn write(&self, file: OpenFile, data: &[u8], at: Option<u64>) -> Answer<usize> {
        // Two pieces, as `writev` has them: the seam must not show.
        let (head, tail) = data.split_at(data.len() / 3);
        let source = [UserSource::from_slice(head), UserSource::from_slice(tail)];
        answer(self.files.write(file, &source, position(at)))
    }

    fn seek(&self, file: OpenFile, offset: i64, whence: i32) -> Answer<u64> {
        answer(self.files.seek(file, offset, whence as u32))
    }

    fn truncate_open(&self, file: OpenFile, length: u64) -> Answer<()> {
        answer(self.files.truncate_open(file, length))
    }

    fn allocate(&self, file: OpenFile, mode: i32, offset: u64, length: u64) -> Answer<()> {
        answer(self.files.allocate(file, mode as u32, offset, length))
    }

    fn sync(&self, file: OpenFile) -> Answer<()> {
        answer(self.files.sync(file))
    }

    fn list(&self, file: OpenFile) -> Answer<Vec<(Vec<u8>, u8)>> {
        // As `fdopendir` sees at once.
        if self.stat_open(file)?.kind() != libc::S_IFDIR {
            return Err(libc::ENOTDIR);
        }
        let mut names = Vec::new();
        let mut cookie = 0;
        loop {
            let next = match self.files.read_dir(file, cookie) {
                // libc's `readdir` calls a removed directory empty.
                Err(Errno::NOENT) if cookie == 0 => None,
                other => answer(other)?,
            };
            let Some(entry) = next else { break };
            let name = &entry.name[..usize::from(entry.name_len)];
            if name != b"." && name != b".." {
                names.push((name.to_vec(), entry.kind));
            }
            cookie = entry.next;
        }
        names.sort();
        Ok(names)
    }

    fn flags(&self, file: OpenFile) -> Answer<i32> {
        answer(self.files.flags_of(file))
    }

    fn set_flags(&self, file: OpenFile, flags: i32) -> Answer<()> {
        // As `fcntl` does before it asks any file system.
        if self.flags(file)? & libc::O_PATH != 0 {
            return Err(libc::EBADF);
        }
        answer(self.files.set_flags(file, flags))
    }

    fn stat_open(&self, file: OpenFile) -> Answer<Attributes> {
        answer(self.files.inode_of(file).and_then(|inode| self.files.stat(inode))).map(|found| attributes(&found))
    }

    fn chmod_open(&self, file: OpenFile, mode: u32) -> Answer<()> {
        answer(self.files.chmod(&self.caller(), self.changeable(file)?, mode))
    }

    fn chown_open(&self, file: OpenFile, uid: Option<u32>, gid: Option<u32>) -> Answer<()> {
        answer(self.files.chown(&self.caller(), self.changeable(file)?, uid, gid))
    }

    fn set_times_open(&self, file: OpenFile, accessed: Time, modified: Time) -> Answer<()> {
        if keeps_both(accessed, modified) {
            return Ok(());
        }
        let inode = self.changeable(file)?;
        answer(self.files.set_times(&self.caller(), inode, new_time(accessed), new_time(modified)))
    }

    fn link_open(&self, file: OpenFile, base: Base<OpenFile>, path: &[u8]) -> Answer<()> {
        let old = answer(self.files.inode_of(file))?;
        answer(self.files.link(&self.caller(), old, self.at(base)?, path))
    }

    fn mkdir(&self, base: Base<OpenFile>, path: &[u8], mode: u32) -> Answer<()> {
        answer(self.files.mkdir(&self.caller(), self.at(base)?, path, mode))
    }

    fn rmdir(&self, base: Base<OpenFile>, path: &[u8]) -> Answer<()> {
        answer(self.files.rmdir(&self.caller(), self.at(base)?, path))
    }

    fn unlink(&self, base: Base<OpenFile>, path: &[u8]) -> Answer<()> {
        answer(self.files.unlink(&self.caller(), self.at(base)?, path))
    }

    fn rename(&self, base: Base<OpenFile>, old: &[u8], new: &[u8], flags: u32) -> Answer<()> {
        let at = self.at(base)?;
        answer(self.files.rename(&self.caller(), at, old, at, new, flags))
    }

    fn link(&self, base: Base<OpenFile>, old: &[u8], new: &[u8], follow: bool) -> Answer<()> {
        let old = self.find(base, old, follow)?;
        answer(self.files.link(&self.caller(), old, self.at(base)?, new))
    }

    fn symlink(&self, target: &[u8], base: Base<OpenFile>, path: &[u8]) -> Answer<()> {
        answer(self.files.symlink(&self.caller(), target, self.at(base)?, path))
    }

    fn readlink(&self, base: Base<OpenFile>, path: &[u8]) -> Answer<Vec<u8>> {
        let inode = self.find(base, path, false)?;
        let mut target = vec![0_u8; 4096];
        let length = answer(self.files.readlink(inode, &mut target))?;
        target.truncate(length);
        Ok(target)
    }

    fn mknod(&self, base: Base<OpenFile>, path: &[u8], mode: u32, device: u64) -> Answer<()> {
        answer(self.files.mknod(&self.caller(), self.at(base)?, path, mode, device))
    }

    fn stat(&self, base: Base<OpenFile>, path: &[u8], follow: bool) -> Answer<Attributes> {
        let inode = self.find(base, path, follow)?;
        answer(self.files.stat(inode)).map(|found| attributes(&found))
    }

    fn access(&self, base: Base<OpenFile>, path: &[u8], mode: i32) -> Answer<()> {
        answer(self.files.access(&self.caller(), self.find(base, path, true)?, mode as u32))
    }

    fn chmod(&self, base: Base<OpenFile>, path: &[u8], mode: u32) -> Answer<()> {
        answer(self.files.chmod(&self.caller(), self.find(base, path, true)?, mode))
    }

    fn chown(&self, base: Base<OpenFile>, path: &[u8], uid: Option<u32>, gid: Option<u32>, follow: bool) -> Answer<()> {
        answer(self.files.chown(&self.caller(), self.find(base, path, follow)?, uid, gid))
    }

    fn set_times(&self, base: Base<OpenFile>, path: &[u8], accessed: Time, modified: Time, follow: bool) -> Answer<()> {
        if keeps_both(accessed, modified) {
            return Ok(());
        }
        let inode = self.find(base, path, follow)?;
        answer(self.files.set_times(&self.caller(), inode, new_time(accessed), new_time(modified)))
    }

    fn truncate(&self, base: Base<OpenFile>, path: &[u8], length: u64) -> Answer<()> {
        answer(self.files.truncate(&self.caller(), self.find(base, path, true)?, length))
    }

    fn set_attribute(&self, of: Subject<'_, OpenFile>, name: &[u8], value: &[u8], flags: i32) -> Answer<()> {
        self.enter_base(of)?;
        answer(lifeboat_fs::check_attribute(name, value.len(), flags))?;
        let inode = self.subject(of)?;
        answer(self.files.set_attribute(&self.caller(), inode, name, &UserSource::from_slice(value), flags))
    }

    fn get_attribute(&self, of: Subject<'_, OpenFile>, name: &[u8], room: usize) -> Answer<Vec<u8>> {
        self.enter_base(of)?;
        answer(lifeboat_fs::check_attribute(name, 0, 0))?;
        let inode = self.subject(of)?;
        let mut value = vec![0_u8; room];
        let target = UserTarget::from_slice(&mut value);
        let length = answer(self.files.get_attribute(&self.caller(), inode, name, &target))?;
        value.resize(length, 0);
        Ok(value)
    }

    fn list_attributes(&self, of: Subject<'_, OpenFile>) -> Answer<Vec<Vec<u8>>> {
        self.enter_base(of)?;
        let inode = self.subject(of)?;
        let mut list = vec![0_u8; 65536];
        let target = UserTarget::from_slice(&mut list);
        let length = answer(self.files.list_attributes(&self.caller(), inode, &target))?;
        Ok(super::names_of(&list[..length]))
    }

    fn remove_attribute(&self, of: Subject<'_, OpenFile>, name: &[u8]) -> Answer<()> {
        self.enter_base(of)?;
        answer(lifeboat_fs::check_attribute(name, 0, 0))?;
        let inode = self.subject(of)?;
        answer(self.files.remove_attribute(&self.caller(), inode, name))
    }
}
