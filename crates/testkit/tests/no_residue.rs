//! The fear: the guard that every other test relies on would not notice what is left behind.

use lifeboat_testkit::child::{self, Process, Role, report};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::tag;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

#[test]
fn entry_of_child_processes() {
    child::enter(&[("sleeper", sleeper), ("parent of a sleeper", parent_of_a_sleeper)]);
}

fn sleeper() {
    report("sleeps");
    std::thread::sleep(Duration::from_secs(60));
}

fn parent_of_a_sleeper() {
    let mut sleeper = Role::new("sleeper").spawn();
    sleeper.next_report(Duration::from_secs(10));
    report(&sleeper.id().to_string());
    std::thread::sleep(Duration::from_secs(60));
}

/// Whether the guard fails when `leave` has left something that is dropped only afterwards.
fn is_noticed<T>(leave: impl FnOnce() -> T) -> bool {
    let guard = NoResidue::begin();
    let left = leave();
    let noticed = catch_unwind(AssertUnwindSafe(|| drop(guard))).is_err();
    drop(left);
    noticed
}

struct File(String);

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_file_or_a_process_left_behind_is_noticed_and_nothing_is_not() {
    assert!(!is_noticed(|| ()), "nothing was left");
    let file = || {
        let path = format!("/dev/shm/{}-left", tag());
        std::fs::write(&path, "left").expect("a file");
        File(path)
    };
    assert!(is_noticed(file), "a file was left");
    let sleeper = || -> Process {
        let mut process = Role::new("sleeper").spawn();
        process.next_report(Duration::from_secs(10));
        process
    };
    assert!(is_noticed(sleeper), "a process was left");
    let grandchild = || -> Process {
        let mut process = Role::new("parent of a sleeper").spawn();
        process.next_report(Duration::from_secs(10));
        process
    };
    assert!(is_noticed(grandchild), "a process and its child were left");
    assert!(!is_noticed(|| ()), "everything had ended");
}
