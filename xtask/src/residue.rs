//! What must not be left behind by tests and demonstrations.

use crate::{huge_pages, processes};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// What is in the places where something could be left.
pub struct Surroundings {
    found: BTreeSet<String>,
    counts: fn(&str) -> bool,
    /// How many huge pages are set aside, where that counts and can be told.
    huge_pages: Option<u64>,
}

/// Others may use the machine at the same time, so that what they make meanwhile is not ours; where nobody else does,
/// as in continuous integration (`CI` is set), everything counts.
fn could_be_from_tests(what: &str) -> bool {
    what.contains("lifeboat") || std::env::var_os("CI").is_some()
}

fn is_from_this_demonstration(what: &str) -> bool {
    what.contains(&format!("demo-{}", std::process::id()))
}

impl Surroundings {
    /// Looks around before tests.
    pub fn before_tests() -> Self {
        Self { found: look(), counts: could_be_from_tests, huge_pages: huge_pages::at_rest() }
    }

    /// Looks around before a demonstration.
    pub fn before_demonstration() -> Self {
        Self { found: look(), counts: is_from_this_demonstration, huge_pages: None }
    }

    /// What is there now and was not there before, and what we started and still runs (which is ended). Waits a little
    /// for what is just going away.
    pub fn left(&self) -> Vec<String> {
        let end = Instant::now() + Duration::from_secs(3);
        loop {
            let mut left: Vec<_> = look().difference(&self.found).filter(|what| (self.counts)(what)).cloned().collect();
            left.extend(
                processes::descendants().iter().map(|process| format!("process {} {}", process.pid, process.name)),
            );
            if left.is_empty() || Instant::now() > end {
                processes::end_all();
                left.extend(self.huge_pages_left());
                return left;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Surroundings {
    /// More huge pages than before, in the time of no test.
    pub fn huge_pages_left(&self) -> Option<String> {
        let (before, now) = (self.huge_pages?, huge_pages::at_rest()?);
        (now > before).then(|| format!("{} huge pages set aside (vm.nr_hugepages)", now - before))
    }
}

/// Files in /dev/shm and below the default prefix, and mounts.
fn look() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    add_files(Path::new("/dev/shm"), &mut found);
    add_files(Path::new("/lifeboat"), &mut found);
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
        if let Some(point) = line.split(' ').nth(4) {
            found.insert(format!("mount {point}"));
        }
    }
    found
}

fn add_files(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if directory {
            add_files(&path, found);
        }
        // A user's own directory for regions stays for the next region.
        let users = entry.file_name().to_string_lossy().starts_with("lifeboat-") && folder == Path::new("/dev/shm");
        if !(directory && users) {
            found.insert(format!("file {}", path.display()));
        }
    }
}
