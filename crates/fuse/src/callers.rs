//! Supplementary groups of a process, which the kernel's requests do not carry.

use fuser::Request;

/// Whether the caller is in the group, as far as `/proc` shows.
pub(crate) fn is_in_group(request: &Request, group: u32) -> bool {
    request.gid() == group || Groups::of(request.pid()).as_slice().contains(&group)
}

/// The groups of one caller.
#[derive(Debug)]
pub(crate) struct Groups(Vec<u32>);

impl Groups {
    /// As `/proc` has them; none for a process that is gone or not visible here.
    pub(crate) fn of(pid: u32) -> Groups {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or("");
        Groups(line.split_whitespace().filter_map(|group| group.parse().ok()).collect())
    }

    pub(crate) fn as_slice(&self) -> &[u32] {
        &self.0
    }
}
