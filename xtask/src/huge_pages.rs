//! Huge pages for tests: set aside for the programs of an ordinary user, who cannot do it himself, and put back.
//!
//! Whoever changes their number, here or in a test, holds a lock on the kernel's own file for it meanwhile; the kernel frees
//! the lock of who dies.

use crate::failure::{Context, Failure, Outcome};
use crate::processes;
use std::fs::{self, File};
use std::time::{Duration, Instant};

/// Tells a test program that this many pages are free and that the lock is held for it.
pub const PROMISED: &str = "LIFEBOAT_HUGE_PAGES";

const LOCK: &str = "/proc/sys/vm/nr_hugepages";
const FOLDER: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
const PAGE: u64 = 2 << 20;
/// What must be available beyond twice the pages.
const RESERVE: u64 = 256 << 20;
/// How long a test of somebody else may hold the lock.
const PATIENCE: Duration = Duration::from_secs(120);

/// Free huge pages, until dropped.
pub struct SetAside {
    added: u64,
    count: u64,
    _lock: File,
}

/// Why none can be set aside.
pub enum Refused {
    /// This machine does not allow it: no memory, no right.
    NotHere(String),
    /// An error.
    Failed(Failure),
}

impl SetAside {
    /// At least `count` free pages of 2 MiB.
    pub fn make(count: u64) -> Result<Self, Refused> {
        let lock = lock(PATIENCE).map_err(Refused::Failed)?;
        let lock = lock.ok_or_else(|| Refused::NotHere("this kernel has no huge pages".into()))?;
        let missing = count.saturating_sub(free());
        let mut made = Self { added: 0, count, _lock: lock };
        if missing == 0 {
            return Ok(made);
        }
        let available = available();
        if available < RESERVE + 2 * missing * PAGE {
            return Err(Refused::NotHere(format!("only {} MiB are available", available >> 20)));
        }
        let before = number();
        write(before + missing).map_err(|error| Refused::NotHere(error.to_string()))?;
        made.added = number().saturating_sub(before);
        if made.added < missing {
            return Err(Refused::NotHere(format!("only {} of {missing} could be had", made.added)));
        }
        Ok(made)
    }

    /// For the environment of the programs that may use them.
    pub fn promise(&self) -> (&'static str, String) {
        (PROMISED, self.count.to_string())
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        if self.added > 0
            && let Err(error) = write(number().saturating_sub(self.added))
        {
            eprintln!("xtask: left behind: {} huge pages: {error}", self.added);
        }
    }
}

/// How many pages are set aside at a moment when no test has some of its own; `None` if there is no such moment.
pub fn at_rest() -> Option<u64> {
    lock(PATIENCE).ok().flatten().map(|_lock| number())
}

/// Puts back what tests that were killed could not; also after an interrupt.
pub struct Restore {
    before: Option<u64>,
}

impl Restore {
    /// What there is now is what will be there in the end.
    pub fn at_the_end() -> Self {
        Self { before: at_rest() }
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        let Some(before) = self.before.filter(|before| number() > *before) else { return };
        // What is more may be a running test's of somebody else, who puts it back himself.
        let Ok(Some(_lock)) = lock(Duration::from_secs(5)) else { return };
        if number() > before {
            match write(before) {
                Ok(()) => println!("   huge pages that a test had set aside are put back"),
                Err(error) => eprintln!("xtask: left behind: huge pages set aside: {error}"),
            }
        }
    }
}

/// `None` where the kernel has no huge pages.
fn lock(patience: Duration) -> Outcome<Option<File>> {
    let Ok(file) = File::open(LOCK) else { return Ok(None) };
    let end = Instant::now() + patience;
    while file.try_lock().is_err() {
        if Instant::now() > end || processes::interrupted() && patience == PATIENCE {
            return Err(Failure::new(format!("another test holds {LOCK} for {} s", patience.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(Some(file))
}

fn number() -> u64 {
    read("nr_hugepages")
}

fn free() -> u64 {
    read("free_hugepages").saturating_sub(read("resv_hugepages"))
}

fn read(name: &str) -> u64 {
    let text = fs::read_to_string(format!("{FOLDER}/{name}")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn write(count: u64) -> Outcome {
    fs::write(format!("{FOLDER}/nr_hugepages"), count.to_string()).context("set huge pages aside")
}

fn available() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_set_aside_for_a_program_are_there_and_go_with_it_and_a_killed_tests_pages_are_noticed() {
        let before = at_rest();
        let pages = match SetAside::make(free() + 2) {
            Ok(pages) => pages,
            Err(Refused::NotHere(why)) => return println!("skipped: huge pages: {why}"),
            Err(Refused::Failed(failure)) => panic!("{failure}"),
        };
        let added = pages.added;
        assert!(added == 0 || number() > before.unwrap_or(0));
        drop(pages);
        assert_eq!(at_rest(), before);
        if added > 0 {
            let surroundings = crate::residue::Surroundings::before_tests();
            let restore = Restore::at_the_end();
            // As a test does that is killed then: nobody holds the lock.
            write(number() + 2).expect("it went before");
            assert!(surroundings.huge_pages_left().is_some_and(|left| left.contains("huge pages")));
            drop(restore);
            assert_eq!(at_rest(), before);
        }
    }
}
