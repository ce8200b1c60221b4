//! The fear: a process that is killed at one certain instruction loses what was complete, or stops the others.
#![cfg(target_arch = "x86_64")]

use lifeboat_testkit::child::{self, Role, report};
use lifeboat_testkit::random::{Random, seed};
use lifeboat_testkit::report::full;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::stepping::operations::OPERATIONS;
use lifeboat_testkit::stepping::trace::{Marks, pin, prepare_timer};
use lifeboat_testkit::stepping::{Outcome, Pace, Stage};
use std::time::Duration;

#[test]
fn entry_of_child_processes() {
    child::enter(&[("stepper", stepper)]);
}

/// Operations whose quick run steps every instruction; the others go from store to store.
const STEPPED: &[&str] = &["write small", "rename over existing", "close what is unlinked"];

fn stepper() {
    pin(0);
    prepare_timer();
    let marks = Marks::new();
    let mut random = Random::new(seed(5));
    let wanted = std::env::var("LIFEBOAT_STEPS").unwrap_or_default();
    for operation in OPERATIONS.iter().filter(|operation| wanted.is_empty() || operation.name.contains(&wanted)) {
        let stage = Stage::new(operation, marks);
        let mut outcome = Outcome::default();
        let stepped = full() || STEPPED.contains(&operation.name);
        let pace = if stepped { Pace::Instructions } else { Pace::Stores };
        let started = std::time::Instant::now();
        let recoveries = if full() { (usize::MAX >> 1, usize::MAX >> 1) } else { (5, 6) };
        let done = stage.snapshots(pace, full(), recoveries, &mut outcome);
        let middle = started.elapsed();
        let killed = stage.kills(
            std::env::var("LIFEBOAT_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(if full() { 1000 } else { 6 }),
            if full() { 200 } else { 2 },
            &mut random,
            &mut outcome,
        );
        report(&format!(
            "{}: {} instructions, {} stores, {} states, {} states of recoveries, {} kills, longest stall {:?}; {:?}, {:?}",
            operation.name,
            outcome.instructions,
            outcome.stores,
            outcome.states,
            outcome.nested_states,
            outcome.kills,
            outcome.longest_stall,
            middle,
            started.elapsed(),
        ));
        for broken in [done.err(), killed.err()].into_iter().flatten() {
            report(&format!("fault: {}: {broken}", operation.name));
        }
        for fault in &outcome.faults {
            report(&format!("fault: {:?}: {}", fault.kind, fault.text));
        }
    }
}

#[test]
fn no_state_that_a_death_leaves_is_lost() {
    let _nothing_left = NoResidue::begin();
    let lines = Role::new("stepper").run(Duration::from_secs(if full() { 3600 } else { 300 }));
    for line in &lines {
        println!("{line}");
    }
    let faults: Vec<&str> = lines.iter().map(String::as_str).filter(|line| line.starts_with("fault")).collect();
    assert!(faults.is_empty(), "{} faults, the first: {}", faults.len(), faults[..faults.len().min(10)].join("\n"));
}
