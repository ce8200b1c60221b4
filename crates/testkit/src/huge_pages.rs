//! Huge pages for a test: those that the administrator set aside, else root's own for the time of the test.
//!
//! Whoever uses or changes them holds a lock on the kernel's own file for it, so that test programs that run side by side
//! do not take each other's pages or put back a number that is not theirs. The kernel frees the lock of who dies.

use std::fs::{self, File};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Set by a runner of tests that holds the lock and has set this many pages aside for them.
pub const PROMISED: &str = "LIFEBOAT_HUGE_PAGES";

const LOCK: &str = "/proc/sys/vm/nr_hugepages";
const FOLDER: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
const PATIENCE: Duration = Duration::from_secs(120);
const PAGE: u64 = 2 << 20;
/// What must be available beyond twice the pages.
const RESERVE: u64 = 256 << 20;

static ONE_TEST_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Free huge pages that no other test takes; what was set aside for them is put back when this is dropped.
#[derive(Debug)]
pub struct HugePages {
    added: u64,
    _lock: Option<File>,
    _alone: MutexGuard<'static, ()>,
}

/// Why there are none.
#[derive(Debug)]
pub struct NoHugePages {
    kind: &'static str,
    why: String,
}

impl NoHugePages {
    /// Says that `what` was not tested.
    pub fn skip(&self, what: &str) {
        crate::report::skipped(&format!("{what}, {}", self.kind), &self.why);
    }
}

impl HugePages {
    /// At least `count` free pages of 2 MiB.
    pub fn of(count: u64) -> Result<HugePages, NoHugePages> {
        let alone = ONE_TEST_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let promised = std::env::var(PROMISED).ok().and_then(|count| count.parse::<u64>().ok());
        if promised.is_some_and(|promised| promised >= count) {
            assert!(free() >= count, "{PROMISED} promises pages and {} are free", free());
            return Ok(HugePages { added: 0, _lock: None, _alone: alone });
        }
        let mut pages = HugePages { added: 0, _lock: lock(), _alone: alone };
        let missing = count.saturating_sub(free());
        if missing > 0 {
            pages.add(missing)?;
        }
        Ok(pages)
    }

    fn add(&mut self, missing: u64) -> Result<(), NoHugePages> {
        let no = |kind, why| Err(NoHugePages { kind, why });
        if !crate::scratch::is_root() {
            return no("as an ordinary user", format!("only {} huge pages are free (vm.nr_hugepages)", free()));
        }
        let available = crate::cgroup::machine_available().unwrap_or(0);
        if available < RESERVE + 2 * missing * PAGE {
            return no("memory short", format!("{available} bytes are available: too few to set huge pages aside"));
        }
        let before = set_aside();
        if let Err(error) = write_set_aside(before + missing) {
            return no("unwritable", format!("no huge pages can be set aside here: {error}"));
        }
        self.added = set_aside().saturating_sub(before);
        if self.added < missing {
            let why = format!("only {} of {missing} huge pages could be had: memory is in pieces", self.added);
            return no("memory short", why);
        }
        Ok(())
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if self.added > 0 {
            // Pages that somebody still uses are freed by the kernel when they come back.
            let wanted = set_aside().saturating_sub(self.added);
            if let Err(error) = write_set_aside(wanted) {
                crate::report::line(&format!("left behind: {} huge pages set aside: {error}", self.added));
            }
        }
    }
}

/// How many huge pages of 2 MiB are set aside on this machine.
pub fn set_aside() -> u64 {
    read("nr_hugepages")
}

/// How many of them are free and not promised to a mapping.
pub fn free() -> u64 {
    read("free_hugepages").saturating_sub(read("resv_hugepages"))
}

fn read(name: &str) -> u64 {
    let text = fs::read_to_string(format!("{FOLDER}/{name}")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn write_set_aside(count: u64) -> std::io::Result<()> {
    fs::write(format!("{FOLDER}/nr_hugepages"), count.to_string())
}

/// Keeps other tests away; nothing to be kept from where the kernel has no huge pages.
fn lock() -> Option<File> {
    let file = File::open(LOCK).ok()?;
    let end = Instant::now() + PATIENCE;
    while file.try_lock().is_err() {
        assert!(Instant::now() < end, "another test has held huge pages for {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(file)
}
