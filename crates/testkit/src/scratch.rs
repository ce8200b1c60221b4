//! Directories and regions that go away with the test, also when it fails.

use crate::volume::User;
use lifeboat_fs::FileSystem;
use lifeboat_kernels::{Level, tuning};
use lifeboat_region::{FormatOptions, Region};
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Once, OnceLock};

/// The name that everything made by this test run carries: the same in its child processes.
pub fn tag() -> &'static str {
    static TAG: OnceLock<String> = OnceLock::new();
    TAG.get_or_init(|| std::env::var(crate::child::RUN).unwrap_or_else(|_| format!("testkit-{}", std::process::id())))
}

/// The user who runs the tests.
pub fn this_user() -> User {
    let mut groups = vec![0_u32; 1024];
    // SAFETY: the length is the vector's; the id calls cannot fail.
    unsafe {
        let count = libc::getgroups(groups.len() as i32, groups.as_mut_ptr());
        groups.truncate(count.max(0) as usize);
        User { uid: libc::geteuid(), gid: libc::getegid(), groups }
    }
}

/// Whether the tests run with root's rights.
pub fn is_root() -> bool {
    this_user().uid == 0
}

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A directory that is removed with all that is in it.
#[derive(Debug)]
pub struct ScratchDirectory(PathBuf);

impl ScratchDirectory {
    /// A new directory in `parent`, open to all users.
    pub fn new(parent: &str, label: &str) -> Self {
        let path = PathBuf::from(format!("{parent}/{}-{label}-{}", tag(), next_number()));
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        let made = Self(path);
        std::fs::set_permissions(&made.0, std::fs::Permissions::from_mode(0o777)).expect("rights of our directory");
        made
    }

    /// In `/dev/shm`: a tmpfs, the file system to be compared with.
    pub fn on_tmpfs(label: &str) -> Self {
        Self::new("/dev/shm", label)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes a directory below it, open to all users.
    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path).expect("a directory in our directory");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("rights of our directory");
        path
    }
}

impl Drop for ScratchDirectory {
    fn drop(&mut self) {
        if std::fs::remove_dir_all(&self.0).is_err() {
            // A test may have taken away our own rights in it.
            allow_all(&self.0);
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

fn allow_all(directory: &Path) {
    let _ = std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            allow_all(&entry.path());
        }
    }
}

/// A region with an empty file system, in a directory of its own, to be attached by any process of this user.
#[derive(Debug)]
pub struct ScratchRegion(ScratchDirectory);

impl ScratchRegion {
    /// A region of `size` bytes, a multiple of 2 MiB. Its pages come when they are touched.
    pub fn new(label: &str, size: u64) -> Self {
        Self::spread(label, size, 1)
    }

    /// As [`ScratchRegion::new`]; the region says that it was spread over so many memory nodes.
    pub fn spread(label: &str, size: u64, memory_nodes: u32) -> Self {
        let made = Self(ScratchDirectory::on_tmpfs(label));
        let directory = made.path();
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700)).expect("rights of our directory");
        for part in ["memory", "images", "tags"] {
            DirBuilder::new().mode(0o700).create(directory.join(part)).expect("a directory in our directory");
        }
        let path = directory.join("memory/region");
        let file: File = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .expect("the region's file");
        file.set_len(size).expect("the region's size");
        let options =
            FormatOptions { name: label.as_bytes(), uid: this_user().uid, identity: next_number() + 1, memory_nodes };
        // SAFETY: the file stays open over the call.
        let descriptor = unsafe { rustix::fd::BorrowedFd::borrow_raw(file.as_raw_fd()) };
        lifeboat_region::format(descriptor, &options).expect("a new region");
        let region = Region::attach(directory.as_os_str().as_bytes()).expect("attach a new region");
        FileSystem::format(&region).expect("a new file system");
        made
    }

    /// The region's directory.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The file that is the region's memory.
    pub fn file(&self) -> PathBuf {
        self.path().join("memory/region")
    }

    /// Its file system, attached by this process.
    pub fn attach(&self) -> FileSystem {
        attach(self.path()).expect("attach a scratch region")
    }
}

/// Limits this process to the instructions that the environment allows, as the programs under test do; gives the level
/// in use.
pub fn limit_kernels() -> Level {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        if let Some(value) = std::env::var_os(tuning::LEVEL_KEY) {
            tuning::limit_level_to(value.as_bytes()).expect("the name of a level");
        }
    });
    lifeboat_kernels::level()
}

/// Attaches the region in this directory, with its mount at [`PREFIX`]. The error is one line of text.
pub fn attach(directory: &Path) -> Result<FileSystem, String> {
    limit_kernels();
    let region = Region::attach(directory.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    FileSystem::attach(region, PREFIX.as_bytes()).map_err(|error| format!("no file system: {error}"))
}

/// Where regions are mounted that are only used by calls within the process.
pub const PREFIX: &str = "/lifeboat";

/// What a check of the whole region found.
#[derive(Debug, Default)]
pub struct Checked(Vec<String>);

impl Checked {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for Checked {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first: Vec<&str> = self.0.iter().take(20).map(String::as_str).collect();
        write!(out, "the check finds {} faults: {}", self.0.len(), first.join("; "))
    }
}

/// Checks the whole region, as `lifeboat region check` does.
pub fn check(files: &FileSystem) -> Checked {
    let mut found = Checked::default();
    let seen = lifeboat_fs::check(files, &mut |finding| found.0.push(finding.to_string()));
    if let Err(error) = seen {
        found.0.push(format!("it ended early: {error}"));
    }
    found
}
