//! A region mounted for the kernel, as users mount it.

use crate::command::{Mounted, lifeboat};
use crate::programs::is_installed;
use crate::report;
use crate::scratch::is_root;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::ptr::null;

/// A region mounted at the prefix of its `lifeboat exec`; unmounted and removed when dropped.
#[derive(Debug)]
pub struct FuseMounted(Mounted, Vec<(String, OsString)>);

impl FuseMounted {
    /// A new region of this size, mounted. `None`, with a counted line, where nobody may mount.
    pub fn new(label: &str, size: &str) -> Option<Self> {
        Self::with_environment(label, size, &[])
    }

    /// The same by a server with these variables.
    pub fn with_environment(label: &str, size: &str, variables: &[(&str, &OsStr)]) -> Option<Self> {
        if !may_mount() {
            return None;
        }
        let mounted = Mounted::new(label, size);
        let created = lifeboat(["region", "create", mounted.name(), "--size", size]).output().expect("start lifeboat");
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
        let variables = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let made = Self(mounted, variables);
        let output = made.mount();
        assert!(output.status.success(), "mount: {}", String::from_utf8_lossy(&output.stderr));
        Some(made)
    }

    /// The region and its prefix.
    pub fn region(&self) -> &Mounted {
        &self.0
    }

    /// Where it is mounted.
    pub fn at(&self) -> &Path {
        self.0.prefix()
    }

    /// Runs `lifeboat mount`.
    pub fn mount(&self) -> Output {
        let at = self.at().to_str().expect("our paths are text");
        let mut command = lifeboat(["mount", "--name", self.0.name(), at]);
        command.envs(self.1.iter().map(|(name, value)| (name, value))).output().expect("start lifeboat")
    }

    /// Runs `lifeboat unmount` with more arguments.
    pub fn unmount(&self, more: &[&str]) -> Output {
        let at = self.at().to_str().expect("our paths are text");
        lifeboat(["unmount", at].iter().chain(more)).output().expect("start lifeboat")
    }

    /// The process that serves the mount.
    pub fn server(&self) -> u32 {
        let list = std::fs::read_to_string(self.0.directory().join("mounts")).expect("the list of mounts");
        let line = list.lines().find(|line| line.ends_with(self.at().to_str().expect("text"))).expect("our mount");
        line.split(' ').next().and_then(|pid| pid.parse().ok()).expect("a process")
    }

    /// A new directory in the mount.
    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.at().join(name);
        std::fs::create_dir(&path).expect("a directory in the mount");
        path
    }
}

impl Drop for FuseMounted {
    fn drop(&mut self) {
        let orderly = self.unmount(&[]);
        let text = String::from_utf8_lossy(&orderly.stderr).into_owned();
        if !orderly.status.success() && !text.contains("no region is mounted") {
            report::line(&format!("{text}(now lazily)"));
            self.unmount(&["--lazy"]);
        }
    }
}

/// Says which test is skipped: its thread has its name.
fn skipped(why: &str) {
    let thread = std::thread::current();
    report::skipped(&format!("mounts, {}", thread.name().unwrap_or("a test")), why);
}

/// Whether this user may mount; says so in a counted line if not.
pub fn may_mount() -> bool {
    if !Path::new("/dev/fuse").exists() {
        skipped("no /dev/fuse");
        return false;
    }
    if is_root() {
        return true;
    }
    if !Path::new("/etc/mtab").exists() {
        skipped("fusermount3 does nothing without /etc/mtab (a link to /proc/self/mounts)");
        return false;
    }
    if std::fs::File::options().read(true).write(true).open("/dev/fuse").is_err() {
        skipped("/dev/fuse may not be opened");
        return false;
    }
    // SAFETY: the answer is only compared with null; no other thread of a test asks for a user.
    if unsafe { libc::getpwuid(libc::geteuid()) }.is_null() {
        skipped("fusermount3 serves only users with a name, and this one is a number");
        return false;
    }
    is_installed("fusermount3")
}

/// Lets ordinary users open `/dev/fuse` in what this thread starts, where the system keeps the device for root: a node of
/// its own, in a mount namespace that goes with the thread. False, with a counted line, where that cannot be done.
pub fn open_device_to_users(folder: &Path) -> bool {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let Ok(device) = std::fs::metadata("/dev/fuse") else { return false };
    if device.mode() & 0o006 == 0o006 {
        return true;
    }
    let node = folder.join("fuse");
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).expect("a path without NUL");
    let (node_path, at) = (path(&node), c"/dev/fuse");
    // SAFETY: all pointers are to C strings that live until the calls return; the namespace is this thread's alone.
    let done = unsafe {
        libc::mknod(node_path.as_ptr(), libc::S_IFCHR | 0o666, device.rdev()) == 0
            && libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(null(), c"/".as_ptr(), null(), libc::MS_REC | libc::MS_PRIVATE, null()) == 0
            && libc::mount(node_path.as_ptr(), at.as_ptr(), null(), libc::MS_BIND, null()) == 0
    };
    let opened = done && std::fs::set_permissions(&node, std::fs::Permissions::from_mode(0o666)).is_ok();
    if !opened {
        skipped("/dev/fuse is root's alone, and no other node can be put there");
    }
    opened
}
