//! Small memory limits: a control group of our own, version 1 or 2, removed afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A control group with a memory limit. Its processes have to be gone before it is dropped.
#[derive(Debug)]
pub struct MemoryCgroup {
    directory: PathBuf,
    version: u8,
}

impl MemoryCgroup {
    /// A group that may hold `limit` bytes. The error says why there can be none (no rights, no such controller).
    pub fn new(limit: u64) -> Result<Self, String> {
        let (parent, version) = parent()?;
        let directory = parent.join(crate::scratch::tag());
        fs::create_dir(&directory).map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        let group = Self { directory, version };
        let file = if version == 2 { "memory.max" } else { "memory.limit_in_bytes" };
        fs::write(group.directory.join(file), limit.to_string())
            .map_err(|error| format!("cannot set {file} in {}: {error}", group.directory.display()))?;
        Ok(group)
    }

    /// The same command, started inside the group.
    pub fn command(&self, program: &Path) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        shell.arg(self.directory.join("cgroup.procs")).arg(program).env(crate::child::RUN, crate::scratch::tag());
        shell
    }

    /// How often the kernel killed a process of the group for its memory.
    pub fn kills(&self) -> u64 {
        let file = if self.version == 2 { "memory.events" } else { "memory.oom_control" };
        self.counter(file, "oom_kill")
    }

    /// How often the limit was hit.
    pub fn hits(&self) -> u64 {
        if self.version == 2 {
            return self.counter("memory.events", "max");
        }
        let text = fs::read_to_string(self.directory.join("memory.failcnt")).unwrap_or_default();
        text.trim().parse().unwrap_or(u64::MAX)
    }

    fn counter(&self, file: &str, name: &str) -> u64 {
        let text = fs::read_to_string(self.directory.join(file)).unwrap_or_default();
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        found.unwrap_or(u64::MAX)
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // Ended processes leave the group a moment later.
        for _ in 0..100 {
            if fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        crate::report::line(&format!("left behind: control group {}", self.directory.display()));
    }
}

/// Where a group can be made: below this process's own in version 1, beside it in version 2, whose groups with processes
/// may have no children with limits.
fn parent() -> Result<(PathBuf, u8), String> {
    let membership = fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("/proc/self/cgroup: {error}"))?;
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let path = path.trim_start_matches('/');
        if controllers.split(',').any(|name| name == "memory") {
            let top = mount_of("cgroup", "memory").ok_or("the memory controller is not mounted")?;
            let own = top.join(path);
            return Ok((if own.is_dir() { own } else { top }, 1));
        }
    }
    let top = mount_of("cgroup2", "").ok_or("no control groups are mounted")?;
    let path = membership.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let own = top.join(path);
    let parent = own.parent().filter(|parent| parent.starts_with(&top)).map_or(top.clone(), Path::to_path_buf);
    let given = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
    if given.split_whitespace().any(|name| name == "memory") {
        Ok((parent, 2))
    } else {
        Err(format!("{} gives its children no memory controller", parent.display()))
    }
}

fn mount_of(kind: &str, option: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let found = *fields.get(2)? == kind && (option.is_empty() || fields.get(3)?.split(',').any(|o| o == option));
        found.then(|| PathBuf::from(fields[1]))
    })
}

/// Bytes of memory that this process may still take without being killed: the smallest of what its control groups and
/// the machine leave.
pub fn memory_left() -> u64 {
    let mut least = meminfo("MemAvailable:").unwrap_or(u64::MAX);
    let Ok((own, version)) = own_group() else { return least };
    let (limit, usage) = if version == 2 {
        ("memory.max", "memory.current")
    } else {
        ("memory.limit_in_bytes", "memory.usage_in_bytes")
    };
    for group in own.ancestors() {
        let read = |file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
        if let (Some(limit), Some(usage)) = (read(limit), read(usage)) {
            least = least.min(limit.saturating_sub(usage));
        }
    }
    least
}

fn own_group() -> Result<(PathBuf, u8), String> {
    let membership = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
    let (_, version) = parent().or_else(|error| mount_of("cgroup2", "").map(|top| (top, 2)).ok_or(error))?;
    let (top, path) = if version == 1 {
        let path =
            membership.lines().find(|line| line.split(':').nth(1).is_some_and(|c| c.split(',').any(|n| n == "memory")));
        (mount_of("cgroup", "memory"), path.and_then(|line| line.splitn(3, ':').nth(2)))
    } else {
        (mount_of("cgroup2", ""), membership.lines().find_map(|line| line.strip_prefix("0::")))
    };
    let top = top.ok_or("no control groups are mounted")?;
    Ok((top.join(path.unwrap_or_default().trim_start_matches('/')), version))
}

/// Bytes of memory that the machine could still give, if the kernel says it.
pub fn machine_available() -> Option<u64> {
    meminfo("MemAvailable:")
}

fn meminfo(field: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}
