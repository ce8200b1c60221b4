//! The proof that a test left nothing behind: no file in `/dev/shm`, no mount, no process.

use crate::child::RUN;
use crate::scratch::tag;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Files and mounts that others may have made meanwhile count only with this variable set, as whoever has the machine
/// to himself does.
const STRICT: &str = "LIFEBOAT_STRICT_RESIDUE";

static ONE_TEST_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Looks around when made; fails the test when something is left at its end. Make it first, so that it is dropped last.
/// Tests that hold one run one at a time within their test binary.
#[derive(Debug)]
pub struct NoResidue {
    before: Surroundings,
    _alone: MutexGuard<'static, ()>,
}

#[derive(Debug)]
struct Surroundings {
    files: BTreeSet<String>,
    mounts: BTreeSet<String>,
    processes: BTreeSet<String>,
}

impl NoResidue {
    /// Looks around.
    #[must_use]
    pub fn begin() -> Self {
        // A test that failed under the lock has cleaned up all the same.
        let alone = ONE_TEST_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Self { before: Surroundings::now(), _alone: alone }
    }

    /// What is there now and was not there before; waits a little for processes that are just ending.
    fn left(&self) -> Vec<String> {
        let end = Instant::now() + Duration::from_secs(3);
        loop {
            let left = Surroundings::now().beyond(&self.before);
            if left.is_empty() || Instant::now() > end {
                return left;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for NoResidue {
    fn drop(&mut self) {
        let left = self.left();
        if left.is_empty() {
            return;
        }
        let strict = std::env::var_os(STRICT).is_some();
        let (ours, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|what| strict || what.contains(tag()));
        for what in others {
            crate::report::note("residue", &format!("appeared meanwhile, not by name of this run: {what}"));
        }
        if ours.is_empty() {
            return;
        }
        let text = format!("left behind: {}", ours.join(", "));
        if std::thread::panicking() {
            crate::report::line(&text);
        } else {
            panic!("{text}");
        }
    }
}

impl Surroundings {
    fn now() -> Self {
        Self { files: files(), mounts: mounts(), processes: processes() }
    }

    fn beyond(&self, before: &Self) -> Vec<String> {
        let new = |kind: &str, now: &BTreeSet<String>, then: &BTreeSet<String>| {
            now.difference(then).map(|what| format!("{kind} {what}")).collect::<Vec<_>>()
        };
        let mut all = new("file", &self.files, &before.files);
        all.extend(new("mount", &self.mounts, &before.mounts));
        all.extend(new("process", &self.processes, &before.processes));
        all
    }
}

/// What is in `/dev/shm`, and in the users' directories for regions there. Such a directory itself may stay.
fn files() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let of_a_user = name.strip_prefix("lifeboat-").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
        if !of_a_user {
            found.insert(path.display().to_string());
            continue;
        }
        let inside = std::fs::read_dir(&path).into_iter().flatten().flatten();
        found.extend(inside.map(|below| below.path().display().to_string()));
    }
    found
}

fn mounts() -> BTreeSet<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_string).collect()
}

/// Processes that this run started, at whatever depth: they inherited its mark in the environment.
fn processes() -> BTreeSet<String> {
    let mark = format!("{RUN}={}", tag());
    let own = std::process::id().to_string();
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid == own || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()) {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            found.insert(format!("{pid} of {} ({line})", tag()));
        }
    }
    found
}
