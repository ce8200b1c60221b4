//! One set of file-system calls with two implementations: the kernel's ([`KernelVolume`]) and the region's
//! ([`RegionVolume`]). Whatever is written against [`Volume`] can be held against a real file system.
//!
//! Every call answers with the errno as a plain number, so that answers of both sides compare.

mod kernel;
mod region;

pub use kernel::KernelVolume;
pub use region::RegionVolume;

/// What a call gives back, or its errno.
pub type Answer<T> = Result<T, i32>;

/// The errno that only [`RegionVolume`] gives: the path leaves the mount, the kernel would have to be asked.
pub const LEAVES_THE_MOUNT: i32 = 4000;

/// On whose behalf the calls are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// The names of a list of extended attributes, in order of their bytes.
fn names_of(list: &[u8]) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> =
        list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
    names.sort();
    names
}

/// Makes the calling thread this user, which takes root's rights (also if given up in this way before).
fn switch_thread_to(user: &User) {
    // The raw calls change this thread only; libc's would change all threads of the process.
    // SAFETY: plain numbers, and a group list with its own length.
    let changed = unsafe {
        libc::syscall(libc::SYS_setresuid, -1, 0, -1) == 0
            && libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()) == 0
            && libc::syscall(libc::SYS_setresgid, -1, user.gid, -1) == 0
            && libc::syscall(libc::SYS_setresuid, -1, user.uid, -1) == 0
    };
    assert!(changed, "cannot become user {user:?}: {}", std::io::Error::last_os_error());
}

/// Mode bits removed from new files on both sides; [`KernelVolume::over`] sets it for the whole process.
pub const UMASK: u32 = 0o022;

/// Attributes that both sides must agree on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number: says only which names are the same file.
    pub number: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Names of the file.
    pub links: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub device: u64,
    /// Bytes.
    pub size: u64,
    /// 512-byte units.
    pub blocks: u64,
    /// Last access, nanoseconds since 1970.
    pub accessed: i64,
    /// Last change of the content, nanoseconds since 1970.
    pub modified: i64,
    /// Last change of the inode, nanoseconds since 1970.
    pub changed: i64,
}

impl Attributes {
    /// Type bits of the mode.
    pub const fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }
}

/// A new time of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// Stays as it is.
    Keep,
    /// The clock's.
    Now,
    /// Nanoseconds since 1970.
    At(i64),
}

/// What an extended attribute belongs to.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'p, F> {
    /// An open file.
    Open(F),
    /// A path: where it starts, the path, whether a symbolic link at its end is followed.
    Path(Base<F>, &'p [u8], bool),
}

/// A place that a path starts from: an open directory, or the volume's top.
pub type Base<F> = Option<F>;

/// The calls. Paths are relative; `base` is where they start. `follow` says what becomes of a symbolic link at the end.
#[allow(missing_docs)] // They are the system calls of the same names.
pub trait Volume {
    /// An open file.
    type File: Copy + std::fmt::Debug;

    /// Makes all later calls on behalf of this user.
    fn become_user(&mut self, user: &User);

    fn open(&self, base: Base<Self::File>, path: &[u8], flags: i32, mode: u32) -> Answer<Self::File>;
    fn close(&self, file: Self::File) -> Answer<()>;
    fn read(&self, file: Self::File, length: usize, at: Option<u64>) -> Answer<Vec<u8>>;
    fn write(&self, file: Self::File, data: &[u8], at: Option<u64>) -> Answer<usize>;
    fn seek(&self, file: Self::File, offset: i64, whence: i32) -> Answer<u64>;
    fn truncate_open(&self, file: Self::File, length: u64) -> Answer<()>;
    fn allocate(&self, file: Self::File, mode: i32, offset: u64, length: u64) -> Answer<()>;
    fn sync(&self, file: Self::File) -> Answer<()>;
    /// All names but `.` and `..` with their `DT_*` kinds, in order of their bytes.
    fn list(&self, file: Self::File) -> Answer<Vec<(Vec<u8>, u8)>>;
    /// Access mode and status flags.
    fn flags(&self, file: Self::File) -> Answer<i32>;
    fn set_flags(&self, file: Self::File, flags: i32) -> Answer<()>;
    fn stat_open(&self, file: Self::File) -> Answer<Attributes>;
    fn chmod_open(&self, file: Self::File, mode: u32) -> Answer<()>;
    fn chown_open(&self, file: Self::File, uid: Option<u32>, gid: Option<u32>) -> Answer<()>;
    fn set_times_open(&self, file: Self::File, accessed: Time, modified: Time) -> Answer<()>;
    /// Gives an open file a name.
    fn link_open(&self, file: Self::File, base: Base<Self::File>, path: &[u8]) -> Answer<()>;

    fn mkdir(&self, base: Base<Self::File>, path: &[u8], mode: u32) -> Answer<()>;
    fn rmdir(&self, base: Base<Self::File>, path: &[u8]) -> Answer<()>;
    fn unlink(&self, base: Base<Self::File>, path: &[u8]) -> Answer<()>;
    fn rename(&self, base: Base<Self::File>, old: &[u8], new: &[u8], flags: u32) -> Answer<()>;
    fn link(&self, base: Base<Self::File>, old: &[u8], new: &[u8], follow: bool) -> Answer<()>;
    fn symlink(&self, target: &[u8], base: Base<Self::File>, path: &[u8]) -> Answer<()>;
    fn readlink(&self, base: Base<Self::File>, path: &[u8]) -> Answer<Vec<u8>>;
    fn mknod(&self, base: Base<Self::File>, path: &[u8], mode: u32, device: u64) -> Answer<()>;
    fn stat(&self, base: Base<Self::File>, path: &[u8], follow: bool) -> Answer<Attributes>;
    fn access(&self, base: Base<Self::File>, path: &[u8], mode: i32) -> Answer<()>;
    fn chmod(&self, base: Base<Self::File>, path: &[u8], mode: u32) -> Answer<()>;
    fn chown(
        &self,
        base: Base<Self::File>,
        path: &[u8],
        uid: Option<u32>,
        gid: Option<u32>,
        follow: bool,
    ) -> Answer<()>;
    fn set_times(
        &self,
        base: Base<Self::File>,
        path: &[u8],
        accessed: Time,
        modified: Time,
        follow: bool,
    ) -> Answer<()>;
    fn truncate(&self, base: Base<Self::File>, path: &[u8], length: u64) -> Answer<()>;

    fn set_attribute(&self, of: Subject<'_, Self::File>, name: &[u8], value: &[u8], flags: i32) -> Answer<()>;
    /// At most `room` bytes; the length alone, as zeros, for no room.
    fn get_attribute(&self, of: Subject<'_, Self::File>, name: &[u8], room: usize) -> Answer<Vec<u8>>;
    /// All names, in order of their bytes.
    fn list_attributes(&self, of: Subject<'_, Self::File>) -> Answer<Vec<Vec<u8>>>;
    fn remove_attribute(&self, of: Subject<'_, Self::File>, name: &[u8]) -> Answer<()>;
}
