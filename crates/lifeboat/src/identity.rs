//! On whose behalf the command works.

use lifeboat_fs::Caller;

/// Effective ids, groups and umask of this process.
#[derive(Debug)]
pub struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    umask: u32,
}

impl Identity {
    /// Asks the kernel.
    pub fn own() -> Identity {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim();
        Identity {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: field("Groups:").split_whitespace().filter_map(|gid| gid.parse().ok()).collect(),
            umask: u32::from_str_radix(field("Umask:"), 8).unwrap_or(0o022),
        }
    }

    /// For calls of the file system.
    pub fn caller(&self) -> Caller<'_> {
        Caller { uid: self.uid, gid: self.gid, groups: &self.groups, umask: self.umask, checked: false }
    }

    /// Permission bits that new files outside the region do not get.
    pub fn umask(&self) -> u32 {
        self.umask
    }
}
