//! The fear: a process that is killed at one certain instruction loses what was complete, shows what was not, leaks, or
//! stops the others; or who recovers it does, being killed in turn.
//!
//! `LIFEBOAT_STEPS=rename` does only the operations with that in their names; `LIFEBOAT_SEED` repeats the kills of a run.
#![cfg(target_arch = "x86_64")]

use lifeboat_testkit::child::{self, Role, number, report};
use lifeboat_testkit::random::{Random, seed};
use lifeboat_testkit::report::{full, note};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::is_root;
use lifeboat_testkit::stepping::planted::{Method, PLANTED};
use lifeboat_testkit::stepping::report::{Effort, on_processor, row, rows, run};
use lifeboat_testkit::stepping::trace::{Marks, prepare_timer};
use lifeboat_testkit::stepping::{Outcome, Pace, Stage};
use std::time::{Duration, Instant};

/// Processes that do the work, each on a processor of its own if there are so many.
const WORKERS: u64 = 2;

#[test]
fn entry_of_child_processes() {
    child::enter(&[("stepper", stepper), ("planter", planter)]);
}

/// A process with one thread, which may fork.
fn stepper() {
    let (share, seed) = (number("SHARE"), number("SEED"));
    on_processor(share as usize);
    let wanted = std::env::var("LIFEBOAT_STEPS").unwrap_or_default();
    // What takes hours is left to `cargo xtask steps --full`.
    let effort = if full() && is_root() { Effort::TABLE } else { Effort::QUICK };
    let mine = rows().filter(|name| name.contains(&wanted)).zip(0..).filter(|(_, place)| place % WORKERS == share);
    for (name, place) in mine {
        let start = Instant::now();
        match run(name, &effort, seed + place) {
            Ok(outcome) => {
                report(&format!("{} {:.1} s", row(name, &outcome).trim_end(), start.elapsed().as_secs_f64()));
                for fault in &outcome.faults {
                    report(&format!("fault: {:?}: {}", fault.kind, fault.text));
                }
            }
            Err(broken) => report(&format!("fault: {name}: {broken}")),
        }
    }
}

#[test]
fn no_instruction_at_which_a_death_loses_leaks_or_stops_anything() {
    let _nothing_left = NoResidue::begin();
    let first = seed(5);
    let workers: Vec<_> =
        (0..WORKERS).map(|share| Role::new("stepper").with("SHARE", share).with("SEED", first).spawn()).collect();
    let limit = Duration::from_secs(if full() { 1800 } else { 400 });
    let mut lines = Vec::new();
    for worker in workers {
        let ended = worker.wait(limit);
        assert!(ended.status.is_some_and(|status| status.success()), "a stepper {}", ended.describe());
        lines.extend(ended.reports);
    }
    for line in &lines {
        println!("{line}");
    }
    let (faults, rows): (Vec<&String>, Vec<&String>) = lines.iter().partition(|line| line.starts_with("fault"));
    note("killed at any instruction", &format!("seed {first}, {} operations, {} faults", rows.len(), faults.len()));
    let first: Vec<&str> = faults.iter().take(10).map(|line| line.as_str()).collect();
    assert!(faults.is_empty(), "{} faults, the first:\n{}", faults.len(), first.join("\n"));
}

fn planter() {
    on_processor(0);
    prepare_timer();
    let marks = Marks::new();
    for (operation, method, expected) in PLANTED {
        let stage = Stage::new(operation, marks);
        let mut outcome = Outcome::default();
        let done = match method {
            Method::Snapshots => stage.snapshots(Pace::Stores, true, (0, 0), &mut outcome),
            Method::Kills => stage.kills(12, 0, &mut Random::new(1), &mut outcome),
        };
        done.unwrap_or_else(|text| panic!("{}: {text}", operation.name));
        let caught = outcome.faults.iter().filter(|fault| fault.kind == *expected).count();
        report(&format!("{} {caught} of {}", operation.name, outcome.states + outcome.kills));
        assert!(caught > 0, "{} was not caught: {:?}", operation.name, outcome.faults);
    }
}

#[test]
fn a_wrong_operation_is_caught() {
    let _nothing_left = NoResidue::begin();
    let caught = Role::new("planter").run(Duration::from_secs(200));
    assert_eq!(caught.len(), PLANTED.len());
    note("planted bugs caught", &caught.join("; "));
}
