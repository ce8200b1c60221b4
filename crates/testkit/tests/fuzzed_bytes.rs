//! The fear: bytes that nobody thought of, as a region, as a sequence of calls, as a path, as configuration, as the environment
//! of a program, end a process or give a wrong answer.
//!
//! The committed inputs are replayed and changed for a moment; `cargo xtask fuzz` does so for long, guided by coverage.

use lifeboat_testkit::child::{self, Role};
use lifeboat_testkit::hostile::{Population, fuzz, population};
use lifeboat_testkit::random::seed;
use lifeboat_testkit::report::{line, sized};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::ScratchDirectory;
use std::time::Duration;

#[test]
fn entry_of_child_processes() {
    child::enter(&[("fuzzer", fuzz::play), (population::HOLDER, population::hold)]);
}

fn fuzz_for_a_moment(target: &str) {
    let _nothing_left = NoResidue::begin();
    let seed = seed(43);
    let place = ScratchDirectory::on_tmpfs("fuzzed");
    let current = place.path().join("input");
    let milliseconds = sized(1500, 15_000, 120_000);
    let role = Role::new("fuzzer").with("TARGET", target).with("SEED", seed).with("CURRENT", current.display());
    let process = role.with("MILLISECONDS", milliseconds).spawn();
    let pid = process.id();
    let ended = process.wait(Duration::from_millis(milliseconds) + Duration::from_secs(60));
    Population::clear_after("fuzz", pid);
    let input = fuzz::hex(&std::fs::read(&current).unwrap_or_default());
    assert!(ended.status.is_some_and(|status| status.success()), "{target}: input {input}: {}", ended.describe());
    let said = ended.reports.last().expect("a report");
    assert!(said.starts_with("fuzz: "), "{said}");
    line(said);
}

#[test]
fn bytes_as_a_region() {
    fuzz_for_a_moment("region");
}

#[test]
fn bytes_as_calls() {
    fuzz_for_a_moment("operations");
}

#[test]
fn bytes_as_a_path() {
    fuzz_for_a_moment("paths");
}

#[test]
fn bytes_as_configuration() {
    fuzz_for_a_moment("configuration");
}

#[test]
fn bytes_as_an_environment() {
    fuzz_for_a_moment("environment");
}
