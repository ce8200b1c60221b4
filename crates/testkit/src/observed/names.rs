//! What a system call names: descriptors, paths, and where these lie.

use super::Entry;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where something lies that a call names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Where {
    /// In the region's own directory, on a file system that is memory of this node.
    Region(PathBuf),
    /// Memory without a name.
    Memory,
    /// A table of this node's kernel: what a process is about.
    Kernel(PathBuf),
    /// Nowhere: no such descriptor is open.
    Nowhere,
    /// Anywhere else.
    Elsewhere(PathBuf),
}

/// One system call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// What it names.
    pub named: Vec<Where>,
    /// Whether it is one of those that name nothing else than what was looked at here; all others may reach anywhere.
    pub is_known: bool,
    /// Whether it can neither change nor lock what it names.
    pub only_looks: bool,
}

impl Call {
    /// Why it might leave the node.
    pub fn leaves(&self) -> Option<String> {
        if !self.is_known {
            return Some(format!("{}, which can reach anywhere", self.name));
        }
        let far = self.named.iter().find_map(|named| match named {
            Where::Elsewhere(path) => Some(path),
            // Settings may do anything.
            Where::Kernel(path) if !self.only_looks => Some(path),
            _ => None,
        })?;
        Some(format!("{} of {}", self.name, far.display()))
    }
}

/// Which arguments name something.
#[derive(Clone, Copy)]
enum Names {
    Nothing,
    /// A descriptor.
    Open(usize),
    /// Two descriptors.
    BothOpen(usize, usize),
    /// A path.
    Path(usize),
    /// Two paths.
    BothPaths(usize, usize),
    /// A path, seen from the directory in the argument before it.
    Below(usize),
    /// Two of these.
    BothBelow(usize, usize),
    /// A descriptor, unless the memory has no name.
    Mapped,
}

use Names::{Below, BothBelow, BothOpen, BothPaths, Mapped, Nothing, Open};

type Row = (i64, &'static str, Names);

/// Calls that look only.
const LOOKS: &[Row] = &[
    (libc::SYS_read, "read", Open(0)),
    (libc::SYS_pread64, "pread64", Open(0)),
    (libc::SYS_readv, "readv", Open(0)),
    (libc::SYS_preadv, "preadv", Open(0)),
    (libc::SYS_lseek, "lseek", Open(0)),
    (libc::SYS_fstat, "fstat", Open(0)),
    (libc::SYS_fstatfs, "fstatfs", Open(0)),
    (libc::SYS_getdents64, "getdents64", Open(0)),
    (libc::SYS_close, "close", Open(0)),
    (libc::SYS_dup, "dup", Open(0)),
    (libc::SYS_dup2, "dup2", BothOpen(0, 1)),
    (libc::SYS_dup3, "dup3", BothOpen(0, 1)),
    (libc::SYS_stat, "stat", Names::Path(0)),
    (libc::SYS_lstat, "lstat", Names::Path(0)),
    (libc::SYS_statfs, "statfs", Names::Path(0)),
    (libc::SYS_access, "access", Names::Path(0)),
    (libc::SYS_readlink, "readlink", Names::Path(0)),
    (libc::SYS_execve, "execve", Names::Path(0)),
    (libc::SYS_newfstatat, "newfstatat", Below(1)),
    (libc::SYS_statx, "statx", Below(1)),
    (libc::SYS_faccessat, "faccessat", Below(1)),
    (libc::SYS_faccessat2, "faccessat2", Below(1)),
    (libc::SYS_readlinkat, "readlinkat", Below(1)),
    (libc::SYS_mmap, "mmap", Mapped),
    (libc::SYS_munmap, "munmap", Nothing),
    (libc::SYS_mprotect, "mprotect", Nothing),
    (libc::SYS_pkey_mprotect, "pkey_mprotect", Nothing),
    (libc::SYS_mremap, "mremap", Nothing),
    (libc::SYS_madvise, "madvise", Nothing),
    (libc::SYS_mincore, "mincore", Nothing),
    (libc::SYS_brk, "brk", Nothing),
    (libc::SYS_memfd_create, "memfd_create", Nothing),
    (libc::SYS_futex, "futex", Nothing),
    (libc::SYS_sched_yield, "sched_yield", Nothing),
    (libc::SYS_sched_getaffinity, "sched_getaffinity", Nothing),
    (libc::SYS_nanosleep, "nanosleep", Nothing),
    (libc::SYS_clock_nanosleep, "clock_nanosleep", Nothing),
    (libc::SYS_clock_gettime, "clock_gettime", Nothing),
    (libc::SYS_gettimeofday, "gettimeofday", Nothing),
    (libc::SYS_getrandom, "getrandom", Nothing),
    (libc::SYS_membarrier, "membarrier", Nothing),
    (libc::SYS_rt_sigaction, "rt_sigaction", Nothing),
    (libc::SYS_rt_sigprocmask, "rt_sigprocmask", Nothing),
    (libc::SYS_rt_sigreturn, "rt_sigreturn", Nothing),
    (libc::SYS_sigaltstack, "sigaltstack", Nothing),
    (libc::SYS_getpid, "getpid", Nothing),
    (libc::SYS_gettid, "gettid", Nothing),
    (libc::SYS_getuid, "getuid", Nothing),
    (libc::SYS_geteuid, "geteuid", Nothing),
    (libc::SYS_getgid, "getgid", Nothing),
    (libc::SYS_getegid, "getegid", Nothing),
    (libc::SYS_getgroups, "getgroups", Nothing),
    (libc::SYS_prlimit64, "prlimit64", Nothing),
    (libc::SYS_uname, "uname", Nothing),
    (libc::SYS_umask, "umask", Nothing),
    (libc::SYS_arch_prctl, "arch_prctl", Nothing),
    (libc::SYS_set_tid_address, "set_tid_address", Nothing),
    (libc::SYS_set_robust_list, "set_robust_list", Nothing),
    (libc::SYS_rseq, "rseq", Nothing),
    (libc::SYS_poll, "poll", Nothing),
    (libc::SYS_prctl, "prctl", Nothing),
    (libc::SYS_exit_group, "exit_group", Nothing),
];

/// Calls that may change or lock what they name.
const CHANGES: &[Row] = &[
    (libc::SYS_write, "write", Open(0)),
    (libc::SYS_pwrite64, "pwrite64", Open(0)),
    (libc::SYS_writev, "writev", Open(0)),
    (libc::SYS_pwritev, "pwritev", Open(0)),
    (libc::SYS_ftruncate, "ftruncate", Open(0)),
    (libc::SYS_fallocate, "fallocate", Open(0)),
    (libc::SYS_fsync, "fsync", Open(0)),
    (libc::SYS_fdatasync, "fdatasync", Open(0)),
    (libc::SYS_sync_file_range, "sync_file_range", Open(0)),
    (libc::SYS_flock, "flock", Open(0)),
    (libc::SYS_fcntl, "fcntl", Open(0)),
    (libc::SYS_fchmod, "fchmod", Open(0)),
    (libc::SYS_fchmodat, "fchmodat", Below(1)),
    (libc::SYS_open, "open", Names::Path(0)),
    (libc::SYS_openat, "openat", Below(1)),
    (libc::SYS_openat2, "openat2", Below(1)),
    (libc::SYS_mkdir, "mkdir", Names::Path(0)),
    (libc::SYS_mkdirat, "mkdirat", Below(1)),
    (libc::SYS_unlink, "unlink", Names::Path(0)),
    (libc::SYS_unlinkat, "unlinkat", Below(1)),
    (libc::SYS_rename, "rename", BothPaths(0, 1)),
    (libc::SYS_renameat, "renameat", BothBelow(1, 3)),
    (libc::SYS_renameat2, "renameat2", BothBelow(1, 3)),
    (libc::SYS_symlink, "symlink", Names::Path(1)),
    (libc::SYS_symlinkat, "symlinkat", Below(2)),
];

/// Names of some that can reach anywhere.
const FAR: &[(i64, &str)] = &[
    (libc::SYS_ioctl, "ioctl"),
    (libc::SYS_socket, "socket"),
    (libc::SYS_connect, "connect"),
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_recvfrom, "recvfrom"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_recvmsg, "recvmsg"),
    (libc::SYS_clone, "clone"),
    (libc::SYS_kill, "kill"),
];

/// Reads what this call names, as the process is about to make it.
pub(super) fn call(thread: i32, entry: &Entry, region: &Path) -> Result<Call, String> {
    let find = |rows: &'static [Row]| rows.iter().find(|(number, ..)| *number == entry.number);
    let looks = find(LOOKS);
    let Some((number, name, names)) = looks.or_else(|| find(CHANGES)) else {
        let name = FAR.iter().find(|(number, _)| *number == entry.number).map(|(_, name)| (*name).to_owned());
        let name = name.unwrap_or_else(|| format!("system call {}", entry.number));
        return Ok(Call { name, named: Vec::new(), is_known: false, only_looks: false });
    };
    let look = Look { thread, arguments: entry.arguments, region };
    let opens_to_read = match *number {
        libc::SYS_open => look.arguments[1] & WRITING == 0,
        libc::SYS_openat => look.arguments[2] & WRITING == 0,
        _ => false,
    };
    let only_looks = looks.is_some() || opens_to_read;
    Ok(Call { name: full_name(name, entry), named: look.named(*names)?, is_known: true, only_looks })
}

const WRITING: u64 = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u64;

/// With what `fcntl` is asked for: locks are to be seen.
fn full_name(name: &str, entry: &Entry) -> String {
    let what = match (entry.number, entry.arguments[1] as i32) {
        (libc::SYS_fcntl, libc::F_SETLK | libc::F_SETLKW) => "a lock",
        (libc::SYS_fcntl, libc::F_OFD_SETLK | libc::F_OFD_SETLKW) => "a lock of an open file",
        (libc::SYS_fcntl, libc::F_GETLK | libc::F_OFD_GETLK) => "a question for locks",
        (libc::SYS_fcntl, libc::F_GETFD | libc::F_GETFL) => "flags",
        (libc::SYS_fcntl, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) => "a copy",
        (libc::SYS_fcntl, other) => return format!("{name} ({other})"),
        _ => return name.to_owned(),
    };
    format!("{name} ({what})")
}

/// A look at one call.
struct Look<'a> {
    thread: i32,
    arguments: [u64; 6],
    region: &'a Path,
}

impl Look<'_> {
    fn named(&self, names: Names) -> Result<Vec<Where>, String> {
        let paths = |all: &[(i32, usize)]| all.iter().map(|&(directory, path)| self.path(directory, path)).collect();
        let descriptor = |index: usize| self.arguments[index] as i32;
        match names {
            Nothing => Ok(Vec::new()),
            Open(index) => Ok(vec![self.descriptor(descriptor(index))]),
            BothOpen(one, two) => Ok(vec![self.descriptor(descriptor(one)), self.descriptor(descriptor(two))]),
            Mapped if self.arguments[3] & libc::MAP_ANONYMOUS as u64 != 0 => Ok(Vec::new()),
            Mapped => Ok(vec![self.descriptor(descriptor(4))]),
            Names::Path(index) => paths(&[(libc::AT_FDCWD, index)]),
            BothPaths(one, two) => paths(&[(libc::AT_FDCWD, one), (libc::AT_FDCWD, two)]),
            Below(index) => paths(&[(descriptor(index - 1), index)]),
            BothBelow(one, two) => paths(&[(descriptor(one - 1), one), (descriptor(two - 1), two)]),
        }
    }

    fn descriptor(&self, number: i32) -> Where {
        let link = format!("/proc/{}/fd/{number}", self.thread);
        match std::fs::read_link(&link) {
            Ok(at) => self.place(at, file_system(&link)),
            Err(_) => Where::Nowhere,
        }
    }

    /// A path as the process would find it; nothing needs to be there.
    fn path(&self, directory: i32, index: usize) -> Result<Where, String> {
        let own = match self.arguments[index] {
            // `fstat` by another name.
            0 => String::new(),
            address => text_at(self.thread, address)?,
        };
        if own.is_empty() && directory != libc::AT_FDCWD {
            return Ok(self.descriptor(directory));
        }
        let from = match directory {
            libc::AT_FDCWD => format!("/proc/{}/cwd", self.thread),
            number => format!("/proc/{}/fd/{number}", self.thread),
        };
        let full = self.not_of_this_process(std::fs::read_link(from).unwrap_or_default().join(own));
        // Links are followed as far as something is there: where the path leads counts, not how it is written.
        let there = full.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
        let Some((above, real)) = there else { return Ok(Where::Elsewhere(full)) };
        let rest = full.strip_prefix(above).unwrap_or(Path::new(""));
        let kind = real.to_str().and_then(file_system);
        let at = if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        Ok(self.place(at, kind))
    }

    /// `/proc/self` is the tracer here.
    fn not_of_this_process(&self, path: PathBuf) -> PathBuf {
        let thread = self.thread;
        let own =
            [("/proc/self", format!("/proc/{thread}")), ("/proc/thread-self", format!("/proc/{thread}/task/{thread}"))];
        let found = own.iter().find_map(|(own, real)| Some(Path::new(real).join(path.strip_prefix(own).ok()?)));
        found.unwrap_or(path)
    }

    fn place(&self, at: PathBuf, kind: Option<libc::c_long>) -> Where {
        match kind {
            Some(libc::TMPFS_MAGIC | libc::HUGETLBFS_MAGIC) if at.starts_with(self.region) => Where::Region(at),
            Some(libc::TMPFS_MAGIC | libc::HUGETLBFS_MAGIC) if at.as_os_str().as_bytes().starts_with(b"/memfd:") => {
                Where::Memory
            }
            Some(libc::PROC_SUPER_MAGIC) => Where::Kernel(at),
            _ => Where::Elsewhere(at),
        }
    }
}

/// Of which kind the file system is that has what is there.
fn file_system(path: &str) -> Option<libc::c_long> {
    let path = CString::new(path).ok()?;
    // SAFETY: all zeros is a valid value; the call fills it, and reads the path, which is a C string.
    let (answer, about) = unsafe {
        let mut about: libc::statfs = std::mem::zeroed();
        (libc::statfs(path.as_ptr(), &mut about), about)
    };
    (answer == 0).then_some(about.f_type)
}

/// What the process shares by mappings that is neither in the region nor memory without a name.
pub(super) fn shared_from_elsewhere(thread: i32, region: &Path) -> Result<Vec<PathBuf>, String> {
    let table = std::fs::read_to_string(format!("/proc/{thread}/maps")).map_err(|error| format!("maps: {error}"))?;
    // From the sixth word on, a file's path: addresses, rights, offset, device, inode, path.
    let shared = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_shared = words.get(1).is_some_and(|rights| rights.ends_with('s'));
        is_shared.then(|| line.find('/').map(|at| PathBuf::from(&line[at..])))?
    });
    let of_the_node = |path: &PathBuf| {
        let text = path.as_os_str().as_bytes();
        path.starts_with(region) || text.starts_with(b"/memfd:") || text == b"/dev/zero (deleted)"
    };
    Ok(shared.filter(|path| !of_the_node(path)).collect())
}

/// The text at this address of the thread's memory.
pub(super) fn text_at(thread: i32, address: u64) -> Result<String, String> {
    let wrong = |error| format!("no text at {address:#x}: {error}");
    let memory = std::fs::File::open(format!("/proc/{thread}/mem")).map_err(wrong)?;
    let mut text = Vec::new();
    // Up to the end of its page at a time: what lies behind may not be there.
    while text.len() < libc::PATH_MAX as usize {
        let at = address + text.len() as u64;
        let mut part = vec![0; 4096 - (at % 4096) as usize];
        let length = memory.read_at(&mut part, at).map_err(wrong)?;
        let end = part[..length].iter().position(|&byte| byte == 0);
        text.extend_from_slice(&part[..end.unwrap_or(length)]);
        if end.is_some() || length == 0 {
            break;
        }
    }
    Ok(OsString::from_vec(text).to_string_lossy().into_owned())
}
