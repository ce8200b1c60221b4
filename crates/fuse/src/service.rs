//! The region as the kernel's FUSE driver sees it.
//!
//! Permissions are the kernel's business (`default_permissions`): it asks for the attributes anew at every step, since
//! nothing it learns here is good for longer than the call, and so checks by the caller's real credentials, groups and
//! capabilities, exactly as it does on tmpfs. What arrives here is allowed already.

use crate::attributes::{BLOCK_SIZE, new_time, to_kernel};
use crate::change::Change;
use crate::extended::Found;
use crate::locks::{Asked, Locks};
use crate::nodes::Nodes;
use crate::open_files::OpenFiles;
use fuser::{
    CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLock,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use lifeboat_fs::{Caller, Errno, FileSystem, InodeId, NAME_LONGEST, OpenFile, Stat};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// For calls that make nothing: whatever the kernel has allowed.
pub(crate) const CHECKED_ROOT: Caller<'static> = Caller { uid: 0, gid: 0, groups: &[], umask: 0, checked: true };
/// Nothing is good for longer than the call: others change the region without the kernel's knowing.
const AT_ONCE: Duration = Duration::ZERO;
/// The most bytes of one write request.
const WRITE_LARGEST: u32 = 1 << 20;
/// Longest target of a symbolic link.
const TARGET_LONGEST: usize = lifeboat_fs::PATH_LONGEST;

/// A region served to the kernel.
pub(crate) struct Service {
    pub(crate) files: Arc<FileSystem>,
    pub(crate) nodes: Nodes,
    pub(crate) open: OpenFiles,
    pub(crate) locks: Arc<Locks>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Service").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

/// The kernel's number for an error.
pub(crate) fn errno(error: Errno) -> fuser::Errno {
    match error.raw_os_error() {
        // A path that leaves the mount: single names never do.
        number if number >= 4000 => fuser::Errno::EIO,
        number => fuser::Errno::from_i32(number),
    }
}

/// Who a new file belongs to.
fn owner(request: &Request) -> Caller<'static> {
    Caller { uid: request.uid(), gid: request.gid(), ..CHECKED_ROOT }
}

fn generation(id: InodeId) -> Generation {
    Generation(id.to_word() >> 40)
}

/// Our open files are named by their slot.
pub(crate) fn slot(handle: FileHandle) -> OpenFile {
    OpenFile(handle.0 as u32)
}

fn handle(file: OpenFile) -> FileHandle {
    FileHandle(u64::from(file.0))
}

impl Service {
    pub(crate) fn new(files: FileSystem) -> Service {
        Service {
            nodes: Nodes::new(files.root()),
            open: OpenFiles::default(),
            locks: Arc::default(),
            files: Arc::new(files),
        }
    }

    /// Answers a look-up, and counts it.
    fn answer_entry(
        &self,
        (parent, name): (INodeNo, &OsStr),
        found: lifeboat_fs::Result<(InodeId, Stat)>,
        reply: ReplyEntry,
    ) {
        match found {
            Ok((id, stat)) => {
                self.nodes.remember(&self.files, id, parent.0, name.as_bytes());
                reply.entry(&AT_ONCE, &to_kernel(&stat), generation(id));
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn answer_attributes(&self, ino: INodeNo, reply: ReplyAttr) {
        match self.nodes.find(ino.0).and_then(|id| self.files.stat(id)) {
            Ok(stat) => reply.attr(&AT_ONCE, &to_kernel(&stat)),
            Err(error) => reply.error(errno(error)),
        }
    }
}

fn answer_empty(done: lifeboat_fs::Result<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn answer_count(done: lifeboat_fs::Result<usize>, reply: ReplyWrite) {
    match done {
        Ok(count) => reply.written(count as u32),
        Err(error) => reply.error(errno(error)),
    }
}

fn answer_attribute(found: lifeboat_fs::Result<Found>, reply: ReplyXattr) {
    match found {
        Ok(Found::Length(length)) => reply.size(length as u32),
        Ok(Found::Bytes(bytes)) => reply.data(&bytes),
        Err(error) => reply.error(errno(error)),
    }
}

impl Filesystem for Service {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each as far as this kernel has it. Direct I/O with shared mappings is younger than the rest.
        for wanted in [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            InitFlags::FUSE_POSIX_LOCKS,
        ] {
            let _ = config.add_capabilities(wanted);
        }
        let _ = config.set_max_write(WRITE_LARGEST);
        Ok(())
    }

    fn destroy(&mut self) {
        self.files.detach();
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.answer_entry((parent, name), self.look_up(parent.0, name.as_bytes()), reply);
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.nodes.forget(&self.files, ino.0, count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.answer_attributes(ino, reply);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let new = Change { mode, uid, gid, size, accessed: new_time(accessed), modified: new_time(modified) };
        let done = self.nodes.find(ino.0).and_then(|id| self.change(request, id, handle.map(slot), &new));
        match done {
            Ok(()) => self.answer_attributes(ino, reply),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let mut target = [0; TARGET_LONGEST];
        match self.nodes.find(ino.0).and_then(|id| self.files.readlink(id, &mut target)) {
            Ok(length) => reply.data(&target[..length]),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let made = self.make(parent.0, name.as_bytes(), |dir, name| {
            self.files.mknod(&owner(request), dir, name, mode, u64::from(device))
        });
        self.answer_entry((parent, name), made, reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let made = self.make(parent.0, name.as_bytes(), |dir, name| self.files.mkdir(&owner(request), dir, name, mode));
        self.answer_entry((parent, name), made, reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        let made =
            self.make(parent.0, name.as_bytes(), |dir, name| self.files.symlink(&owner(request), target, dir, name));
        self.answer_entry((parent, name), made, reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let made = self.nodes.find(ino.0).and_then(|old| {
            self.make(parent.0, name.as_bytes(), |dir, name| self.files.link(&CHECKED_ROOT, old, dir, name))
        });
        self.answer_entry((parent, name), made, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(self.remove(parent.0, name.as_bytes(), false), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(self.remove(parent.0, name.as_bytes(), true), reply);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (old, new) = ((parent.0, name.as_bytes()), (new_parent.0, new_name.as_bytes()));
        answer_empty(self.rename_names(&owner(request), old, new, flags.bits()), reply);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.nodes.find(ino.0).and_then(|id| {
            let file = self.open_known(id, flags.0)?;
            if flags.0 & libc::O_TRUNC != 0 {
                self.lose_set_ids(request, id)?;
            }
            Ok(file)
        });
        match opened {
            Ok(file) => reply.opened(handle(file), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        match self.create_file(&owner(request), request.pid(), parent.0, name.as_bytes(), flags, mode) {
            Ok((id, stat, file)) => {
                self.nodes.remember(&self.files, id, parent.0, name.as_bytes());
                let flags = FopenFlags::FOPEN_DIRECT_IO;
                reply.created(&AT_ONCE, &to_kernel(&stat), generation(id), handle(file), flags);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        file: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.read_into(slot(file), offset, size as usize, |read| match read {
            Ok(bytes) => reply.data(bytes),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        file: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        answer_count(self.write_from(request, ino.0, slot(file), offset, data, (write_flags, flags.0)), reply);
    }

    fn flush(&self, _: &Request, ino: INodeNo, _: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        let done = self.nodes.find(ino.0).and_then(|id| self.locks.drop_owner(&self.files, id, owner.0));
        answer_empty(done, reply);
    }

    fn getlk(
        &self,
        _: &Request,
        ino: INodeNo,
        through: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let (through, range) = (slot(through), (start, end));
        match self.nodes.find(ino.0) {
            Ok(id) => self.find_lock(&Asked { id, through, owner: owner.0, pid, range, kind }, reply),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setlk(
        &self,
        request: &Request,
        ino: INodeNo,
        through: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        _: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let (through, range, pid) = (slot(through), (start, end), request.pid());
        match self.nodes.find(ino.0) {
            Ok(id) => self.set_lock(&Asked { id, through, owner: owner.0, pid, range, kind }, sleep, reply),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        file: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let unlocked = self.nodes.find(ino.0).and_then(|id| self.locks.drop_through(&self.files, id, slot(file)));
        answer_empty(self.close(slot(file)).and(unlocked), reply);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.nodes.find(ino.0).and_then(|id| self.open_known(id, libc::O_DIRECTORY)) {
            Ok(file) => reply.opened(handle(file), FopenFlags::empty()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, file: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.list(slot(file), offset, reply);
    }

    fn releasedir(&self, _: &Request, _: INodeNo, file: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        answer_empty(self.close(slot(file)), reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let usage = self.files.usage();
        let (unit, total) = (u64::from(BLOCK_SIZE), usage.inodes_used + usage.inodes_free);
        let (blocks, free) = (usage.bytes_total / unit, usage.bytes_free / unit);
        reply.statfs(blocks, free, free, total, usage.inodes_free, BLOCK_SIZE, NAME_LONGEST as u32, BLOCK_SIZE);
    }

    fn setxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, _: u32, reply: ReplyEmpty) {
        answer_empty(self.set_attribute(ino.0, name.as_bytes(), value, flags), reply);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        answer_attribute(self.attribute(ino.0, name.as_bytes(), size), reply);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        answer_attribute(self.attributes(request, ino.0, size), reply);
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(self.remove_attribute(ino.0, name.as_bytes()), reply);
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        file: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let done = self.with_patience(|| self.files.allocate(slot(file), mode as u32, offset, length));
        let done = done.and_then(|()| self.lose_set_ids(request, self.nodes.find(ino.0)?));
        answer_empty(done, reply);
    }

    fn lseek(&self, _: &Request, _: INodeNo, file: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match self.files.seek(slot(file), offset, whence as u32) {
            Ok(at) => reply.offset(at as i64),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        from: FileHandle,
        from_offset: u64,
        ino: INodeNo,
        to: FileHandle,
        to_offset: u64,
        length: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        answer_count(self.copy((slot(from), from_offset), (ino.0, slot(to), to_offset), length), reply);
    }
}
