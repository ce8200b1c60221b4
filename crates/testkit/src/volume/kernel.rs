//! The kernel's side: plain system calls through libc, below one directory.

use super::{Answer, Attributes, Base, Subject, Time, UMASK, User, Volume};
use libc::{AT_FDCWD, c_int};
use std::ffi::{CStr, CString};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A directory of a kernel file system (or of a mount that libc's calls are led to).
#[derive(Debug)]
pub struct KernelVolume {
    top: RawFd,
    switches_users: bool,
}

/// The answer of a call that gives -1 and errno.
fn answer<T: PartialOrd + From<i8>>(returned: T) -> Answer<T> {
    if returned < T::from(0) {
        return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO));
    }
    Ok(returned)
}

/// Our paths are made by tests and hold no NUL byte.
fn c_string(path: &[u8]) -> CString {
    CString::new(path).expect("no NUL byte in a test's path")
}

impl KernelVolume {
    /// The directory `top`, which exists. Sets the process's umask. With `switches_users`, [`Volume::become_user`]
    /// changes the calling thread's ids, which takes root.
    pub fn over(top: &Path, switches_users: bool) -> std::io::Result<Self> {
        let path = c_string(top.as_os_str().as_bytes());
        // SAFETY: the path is a C string; umask cannot fail.
        let descriptor = unsafe {
            libc::umask(UMASK);
            libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC)
        };
        if descriptor < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Self { top: descriptor, switches_users })
    }

    fn at(&self, base: Base<RawFd>) -> RawFd {
        base.unwrap_or(self.top)
    }

    /// For calls that have no form with a directory: the working directory serves, which nothing else in these processes
    /// relies on.
    fn enter_base(&self, base: Base<RawFd>, path: &[u8]) -> Answer<CString> {
        if path.is_empty() {
            return Err(libc::ENOENT);
        }
        // What the kernel sees before it looks at any directory.
        if path.len() >= libc::PATH_MAX as usize {
            return Err(libc::ENAMETOOLONG);
        }
        // SAFETY: a plain number.
        answer(unsafe { libc::fchdir(self.at(base)) })?;
        Ok(c_string(path))
    }

    /// Runs one of the three forms that calls on extended attributes have.
    fn on_subject(
        &self,
        of: Subject<'_, RawFd>,
        open: impl FnOnce(RawFd) -> isize,
        followed: impl FnOnce(*const libc::c_char) -> isize,
        kept: impl FnOnce(*const libc::c_char) -> isize,
    ) -> Answer<usize> {
        let done = match of {
            Subject::Open(file) => open(file),
            Subject::Path(base, path, follow) => {
                let path = self.enter_base(base, path)?;
                if follow { followed(path.as_ptr()) } else { kept(path.as_ptr()) }
            }
        };
        answer(done).map(|count| count as usize)
    }

    /// Zeros a range as `FALLOC_FL_ZERO_RANGE` says: tmpfs has no such call, so it is made from writes.
    fn zero_range(&self, file: RawFd, mode: c_int, offset: u64, length: u64) -> Answer<()> {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE;
        self.allocate(file, keep_size, offset, length)?;
        let size = self.stat_open(file)?.size;
        let end = (offset + length).min(size);
        if offset < end {
            let flags = self.flags(file)?;
            self.set_flags(file, flags & !libc::O_APPEND)?;
            let done = self.write(file, &vec![0; (end - offset) as usize], Some(offset));
            self.set_flags(file, flags)?;
            done?;
        }
        Ok(())
    }
}

impl Drop for KernelVolume {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours and used nowhere else.
        unsafe { libc::close(self.top) };
    }
}

fn nanoseconds(seconds: i64, fraction: i64) -> i64 {
    seconds.wrapping_mul(1_000_000_000).wrapping_add(fraction)
}

fn attributes(found: &libc::stat64) -> Attributes {
    Attributes {
        number: found.st_ino,
        mode: found.st_mode,
        links: found.st_nlink,
        uid: found.st_uid,
        gid: found.st_gid,
        device: found.st_rdev,
        size: found.st_size as u64,
        blocks: found.st_blocks as u64,
        accessed: nanoseconds(found.st_atime, found.st_atime_nsec),
        modified: nanoseconds(found.st_mtime, found.st_mtime_nsec),
        changed: nanoseconds(found.st_ctime, found.st_ctime_nsec),
    }
}

fn timespec(time: Time) -> libc::timespec {
    match time {
        Time::Keep => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
        Time::Now => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
        Time::At(at) => libc::timespec { tv_sec: at.div_euclid(1_000_000_000), tv_nsec: at.rem_euclid(1_000_000_000) },
    }
}

fn id(wanted: Option<u32>) -> u32 {
    wanted.unwrap_or(u32::MAX)
}

fn link_flag(follow: bool) -> c_int {
    if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW }
}

// SAFETY for the whole implementation: every path is a C string that lives over its call, every buffer is passed with
// its own length, and descriptors that are not open are answered by EBADF.
impl Volume for KernelVolume {
    type File = RawFd;

    fn become_user(&mut self, user: &User) {
        if !self.switches_users {
            return;
        }
        super::switch_thread_to(user);
    }

    fn open(&self, base: Base<RawFd>, path: &[u8], flags: i32, mode: u32) -> Answer<RawFd> {
        let path = c_string(path);
        // SAFETY: see above.
        answer(unsafe { libc::openat64(self.at(base), path.as_ptr(), flags | libc::O_CLOEXEC, mode) })
    }

    fn close(&self, file: RawFd) -> Answer<()> {
        // SAFETY: see above.
        answer(unsafe { libc::close(file) }).map(drop)
    }

    fn read(&self, file: RawFd, length: usize, at: Option<u64>) -> Answer<Vec<u8>> {
        let mut buffer = vec![0_u8; length];
        // SAFETY: see above.
        let count = answer(unsafe {
            match at {
                None => libc::read(file, buffer.as_mut_ptr().cast(), length),
                Some(at) => libc::pread64(file, buffer.as_mut_ptr().cast(), length, at as i64),
            }
        })?;
        buffer.truncate(count as usize);
        Ok(buffer)
    }

    fn write(&self, file: RawFd, data: &[u8], at: Option<u64>) -> Answer<usize> {
        // SAFETY: see above.
        let count = answer(unsafe {
            match at {
                None => libc::write(file, data.as_ptr().cast(), data.len()),
                Some(at) => libc::pwrite64(file, data.as_ptr().cast(), data.len(), at as i64),
            }
        })?;
        Ok(count as usize)
    }

    fn seek(&self, file: RawFd, offset: i64, whence: i32) -> Answer<u64> {
        // SAFETY: see above.
        answer(unsafe { libc::lseek64(file, offset, whence) }).map(|at| at as u64)
    }

    fn truncate_open(&self, file: RawFd, length: u64) -> Answer<()> {
        // SAFETY: see above.
        answer(unsafe { libc::ftruncate64(file, length as i64) }).map(drop)
    }

    fn allocate(&self, file: RawFd, mode: i32, offset: u64, length: u64) -> Answer<()> {
        // SAFETY: see above.
        let done = answer(unsafe { libc::fallocate64(file, mode, offset as i64, length as i64) }).map(drop);
        if done == Err(libc::EOPNOTSUPP) && mode & !libc::FALLOC_FL_KEEP_SIZE == libc::FALLOC_FL_ZERO_RANGE {
            return self.zero_range(file, mode, offset, length);
        }
        done
    }

    fn sync(&self, file: RawFd) -> Answer<()> {
        // SAFETY: see above.
        answer(unsafe { libc::fsync(file) }).map(drop)
    }

    fn list(&self, file: RawFd) -> Answer<Vec<(Vec<u8>, u8)>> {
        // SAFETY: the stream takes over a descriptor of its own and is closed before this returns; `readdir64` gives a
        // pointer that is valid until the next call, and its name ends with NUL.
        unsafe {
            let own = answer(libc::fcntl(file, libc::F_DUPFD_CLOEXEC, 0))?;
            let stream = libc::fdopendir(own);
            if stream.is_null() {
                let error = answer(-1_i32).map(drop);
                libc::close(own);
                return error.map(|()| Vec::new());
            }
            libc::rewinddir(stream);
            let mut names = Vec::new();
            let end = loop {
                *libc::__errno_location() = 0;
                let entry = libc::readdir64(stream);
                if entry.is_null() {
                    break *libc::__errno_location();
                }
                let name = CStr::from_ptr((*entry).d_name.as_ptr()).to_bytes();
                if name != b"." && name != b".." {
                    names.push((name.to_vec(), (*entry).d_type));
                }
            };
            libc::closedir(stream);
            names.sort();
            if end == 0 { Ok(names) } else { Err(end) }
        }
    }

    fn flags(&self, file: RawFd) -> Answer<i32> {
        // SAFETY: see above.
        answer(unsafe { libc::fcntl(file, libc::F_GETFL) })
    }

    fn set_flags(&self, file: RawFd, flags: i32) -> Answer<()> {
        // SAFETY: see above.
        answer(unsafe { libc::fcntl(file, libc::F_SETFL, flags) }).map(drop)
    }

    fn stat_open(&self, file: RawFd) -> Answer<Attributes> {
        // SAFETY: all zeros is a valid `stat64`; see above.
        unsafe {
            let mut found: libc::stat64 = std::mem::zeroed();
            answer(libc::fstat64(file, &mut found))?;
            Ok(attributes(&found))
        }
    }

    fn chmod_open(&self, file: RawFd, mode: u32) -> Answer<()> {
        // SAFETY: see above.
        answer(unsafe { libc::fchmod(file, mode) }).map(drop)
    }

    fn chown_open(&self, file: RawFd, uid: Option<u32>, gid: Option<u32>) -> Answer<()> {
        // SAFETY: see above.
        answer(unsafe { libc::fchown(file, id(uid), id(gid)) }).map(drop)
    }

    fn set_times_open(&self, file: RawFd, accessed: Time, modified: Time) -> Answer<()> {
        let times = [timespec(accessed), timespec(modified)];
        // SAFETY: see above.
        answer(unsafe { libc::futimens(file, times.as_ptr()) }).map(drop)
    }

    fn link_open(&self, file: RawFd, base: Base<RawFd>, path: &[u8]) -> Answer<()> {
        let (old, new) = (c_string(format!("/proc/self/fd/{file}").as_bytes()), c_string(path));
        // SAFETY: see above.
        let done =
            unsafe { libc::linkat(AT_FDCWD, old.as_ptr(), self.at(base), new.as_ptr(), libc::AT_SYMLINK_FOLLOW) };
        answer(done).map(drop)
    }

    fn mkdir(&self, base: Base<RawFd>, path: &[u8], mode: u32) -> Answer<()> {
        let path = c_string(path);
        // SAFETY: see above.
        answer(unsafe { libc::mkdirat(self.at(base), path.as_ptr(), mode) }).map(drop)
    }

    fn rmdir(&self, base: Base<RawFd>, path: &[u8]) -> Answer<()> {
        let path = c_string(path);
        // SAFETY: see above.
        answer(unsafe { libc::unlinkat(self.at(base), path.as_ptr(), libc::AT_REMOVEDIR) }).map(drop)
    }

    fn unlink(&self, base: Base<RawFd>, path: &[u8]) -> Answer<()> {
        let path = c_string(path);
        // SAFETY: see above.
        answer(unsafe { libc::unlinkat(self.at(base), path.as_ptr(), 0) }).map(drop)
    }

    fn rename(&self, base: Base<RawFd>, old: &[u8], new: &[u8], flags: u32) -> Answer<()> {
        let (old, new, at) = (c_string(old), c_string(new), self.at(base));
        // SAFETY: see above.
        answer(unsafe { libc::renameat2(at, old.as_ptr(), at, new.as_ptr(), flags) }).map(drop)
    }

    fn link(&self, base: Base<RawFd>, old: &[u8], new: &[u8], follow: bool) -> Answer<()> {
        let (old, new, at) = (c_string(old), c_string(new), self.at(base));
        let flags = if follow { libc::AT_SYMLINK_FOLLOW } else { 0 };
        // SAFETY: see above.
        answer(unsafe { libc::linkat(at, old.as_ptr(), at, new.as_ptr(), flags) }).map(drop)
    }

    fn symlink(&self, target: &[u8], base: Base<RawFd>, path: &[u8]) -> Answer<()> {
        let (target, path) = (c_string(target), c_string(path));
        // SAFETY: see above.
        answer(unsafe { libc::symlinkat(target.as_ptr(), self.at(base), path.as_ptr()) }).map(drop)
    }

    fn readlink(&self, base: Base<RawFd>, path: &[u8]) -> Answer<Vec<u8>> {
        let path = c_string(path);
        let mut target = vec![0_u8; 4096];
        // SAFETY: see above.
        let length = answer(unsafe {
            libc::readlinkat(self.at(base), path.as_ptr(), target.as_mut_ptr().cast(), target.len())
        })?;
        target.truncate(length as usize);
        Ok(target)
    }

    fn mknod(&self, base: Base<RawFd>, path: &[u8], mode: u32, device: u64) -> Answer<()> {
        let path = c_string(path);
        // SAFETY: see above.
        answer(unsafe { libc::mknodat(self.at(base), path.as_ptr(), mode, device) }).map(drop)
    }

    fn stat(&self, base: Base<RawFd>, path: &[u8], follow: bool) -> Answer<Attributes> {
        let path = c_string(path);
        // SAFETY: all zeros is a valid `stat64`; see above.
        unsafe {
            let mut found: libc::stat64 = std::mem::zeroed();
            answer(libc::fstatat64(self.at(base), path.as_ptr(), &mut found, link_flag(follow)))?;
            Ok(attributes(&found))
        }
    }

    fn access(&self, base: Base<RawFd>, path: &[u8], mode: i32) -> Answer<()> {
        let path = c_string(path);
        // SAFETY: see above. By effective ids, as the region checks.
        answer(unsafe { libc::faccessat(self.at(base), path.as_ptr(), mode, libc::AT_EACCESS) }).map(drop)
    }

    fn chmod(&self, base: Base<RawFd>, path: &[u8], mode: u32) -> Answer<()> {
        let path = c_string(path);
        // SAFETY: see above.
        answer(unsafe { libc::fchmodat(self.at(base), path.as_ptr(), mode, 0) }).map(drop)
    }

    fn chown(&self, base: Base<RawFd>, path: &[u8], uid: Option<u32>, gid: Option<u32>, follow: bool) -> Answer<()> {
        let path = c_string(path);
        // SAFETY: see above.
        let done = unsafe { libc::fchownat(self.at(base), path.as_ptr(), id(uid), id(gid), link_flag(follow)) };
        answer(done).map(drop)
    }

    fn set_times(&self, base: Base<RawFd>, path: &[u8], accessed: Time, modified: Time, follow: bool) -> Answer<()> {
        let (path, times) = (c_string(path), [timespec(accessed), timespec(modified)]);
        // SAFETY: see above.
        answer(unsafe { libc::utimensat(self.at(base), path.as_ptr(), times.as_ptr(), link_flag(follow)) }).map(drop)
    }

    fn truncate(&self, base: Base<RawFd>, path: &[u8], length: u64) -> Answer<()> {
        let path = self.enter_base(base, path)?;
        // SAFETY: see above.
        answer(unsafe { libc::truncate64(path.as_ptr(), length as i64) }).map(drop)
    }

    fn set_attribute(&self, of: Subject<'_, RawFd>, name: &[u8], value: &[u8], flags: i32) -> Answer<()> {
        let (name, bytes, length) = (c_string(name), value.as_ptr().cast(), value.len());
        // SAFETY: see above.
        let open = |file| unsafe { libc::fsetxattr(file, name.as_ptr(), bytes, length, flags) as isize };
        // SAFETY: see above.
        let followed = |path| unsafe { libc::setxattr(path, name.as_ptr(), bytes, length, flags) as isize };
        // SAFETY: see above.
        let kept = |path| unsafe { libc::lsetxattr(path, name.as_ptr(), bytes, length, flags) as isize };
        self.on_subject(of, open, followed, kept).map(drop)
    }

    fn get_attribute(&self, of: Subject<'_, RawFd>, name: &[u8], room: usize) -> Answer<Vec<u8>> {
        let (name, mut value) = (c_string(name), vec![0_u8; room]);
        let bytes = value.as_mut_ptr().cast();
        // SAFETY: see above.
        let open = |file| unsafe { libc::fgetxattr(file, name.as_ptr(), bytes, room) };
        // SAFETY: see above.
        let followed = |path| unsafe { libc::getxattr(path, name.as_ptr(), bytes, room) };
        // SAFETY: see above.
        let kept = |path| unsafe { libc::lgetxattr(path, name.as_ptr(), bytes, room) };
        let length = self.on_subject(of, open, followed, kept)?;
        value.resize(length, 0);
        Ok(value)
    }

    fn list_attributes(&self, of: Subject<'_, RawFd>) -> Answer<Vec<Vec<u8>>> {
        let mut list = vec![0_u8; 65536];
        let (bytes, room) = (list.as_mut_ptr().cast(), list.len());
        // SAFETY: see above.
        let open = |file| unsafe { libc::flistxattr(file, bytes, room) };
        // SAFETY: see above.
        let followed = |path| unsafe { libc::listxattr(path, bytes, room) };
        // SAFETY: see above.
        let kept = |path| unsafe { libc::llistxattr(path, bytes, room) };
        let length = self.on_subject(of, open, followed, kept)?;
        Ok(super::names_of(&list[..length]))
    }

    fn remove_attribute(&self, of: Subject<'_, RawFd>, name: &[u8]) -> Answer<()> {
        let name = c_string(name);
        // SAFETY: see above.
        let open = |file| unsafe { libc::fremovexattr(file, name.as_ptr()) as isize };
        // SAFETY: see above.
        let followed = |path| unsafe { libc::removexattr(path, name.as_ptr()) as isize };
        // SAFETY: see above.
        let kept = |path| unsafe { libc::lremovexattr(path, name.as_ptr()) as isize };
        self.on_subject(of, open, followed, kept).map(drop)
    }
}
