//! One run over all operations, and the table that it makes.

use super::judge::FaultKind;
use super::operations::{OPERATIONS, Operation};
use super::trace::{Marks, pin, prepare_timer};
use super::{Outcome, Pace, Stage, creation};
use crate::random::Random;
use std::fmt::Write;
use std::time::Duration;

/// Name of the row of regions that are being created.
pub const CREATION: &str = "region create";

/// How much is done for each operation.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Whether every instruction is stepped, or the victim goes from store to store.
    pub pace: Pace,
    /// Whether also each state is judged between which only a file's bytes changed.
    pub all_states: bool,
    /// Of how many states the recovery is stopped, and how many of each recovery's states are judged.
    pub recoveries: (usize, usize),
    /// Victims killed beside a survivor.
    pub kills: u64,
    /// Those with a recovery that is killed, too.
    pub killed_recoveries: u64,
    /// Points of a peer in the middle of the same operation, at each of which all states are judged with both dead.
    pub frozen_peers: usize,
    /// States judged for each such point.
    pub states_beside: usize,
}

impl Effort {
    /// The quick set: every state of names and attributes, a sample of the rest.
    pub const QUICK: Self = Self {
        pace: Pace::Stores,
        all_states: false,
        recoveries: (5, 5),
        kills: 5,
        killed_recoveries: 2,
        frozen_peers: 1,
        states_beside: 8,
    };

    /// Every instruction and every state; recoveries, kills and pairs as far as they go in minutes.
    pub const TABLE: Self = Self {
        pace: Pace::Instructions,
        all_states: true,
        recoveries: (12, 15),
        kills: 40,
        killed_recoveries: 10,
        frozen_peers: 3,
        states_beside: 25,
    };

    /// Everything that ends within hours.
    pub const FULL: Self = Self {
        pace: Pace::Instructions,
        all_states: true,
        recoveries: (usize::MAX >> 1, usize::MAX >> 1),
        kills: 1000,
        killed_recoveries: 200,
        frozen_peers: 20,
        states_beside: usize::MAX >> 1,
    };
}

/// Does one row of the table: an operation, or [`CREATION`].
pub fn run(name: &str, effort: &Effort, seed: u64) -> Result<Outcome, String> {
    prepare_timer();
    let marks = Marks::new();
    let mut outcome = Outcome::default();
    if name == CREATION {
        return creation::creations(marks, if effort.all_states { 1 } else { 23 }, &mut outcome).map(|()| outcome);
    }
    let operation = OPERATIONS.iter().find(|operation| operation.name == name);
    let operation: &Operation = operation.ok_or_else(|| format!("no operation is called {name}"))?;
    let stage = Stage::new(operation, marks);
    stage.snapshots(effort.pace, effort.all_states, effort.recoveries, &mut outcome)?;
    stage.beside_the_frozen(effort.frozen_peers, effort.states_beside, &mut outcome)?;
    stage.kills(effort.kills, effort.killed_recoveries, &mut Random::new(seed), &mut outcome)?;
    Ok(outcome)
}

/// Names of all rows.
pub fn rows() -> impl Iterator<Item = &'static str> {
    OPERATIONS.iter().map(|operation| operation.name).chain([CREATION])
}

/// Binds this process to one processor.
pub fn on_processor(index: usize) {
    pin(index);
}

/// Head of the table.
pub const HEAD: &str = "| operation | instructions | stores | states | states beside a peer | states of recoveries | kills | longest stall, ms | losses | leaks | other faults |\n|---|---|---|---|---|---|---|---|---|---|---|\n";

/// A row of the table.
pub fn row(name: &str, outcome: &Outcome) -> String {
    let count = |kind: FaultKind| outcome.faults.iter().filter(|fault| fault.kind == kind).count();
    let (losses, leaks) = (count(FaultKind::Loss), count(FaultKind::Leak));
    let mut text = String::new();
    let instructions = if outcome.instructions == 0 { "-".to_string() } else { outcome.instructions.to_string() };
    let _ = writeln!(
        text,
        "| {name} | {instructions} | {} | {} | {} | {} | {} | {:.0} | {losses} | {leaks} | {} |",
        outcome.stores,
        outcome.states,
        outcome.states_beside,
        outcome.nested_states,
        outcome.kills,
        outcome.longest_stall.as_secs_f64() * 1000.0,
        outcome.faults.len() - losses - leaks,
    );
    text
}

/// The last row: sums, and the longest stall of all.
pub fn sum<'o>(outcomes: impl Iterator<Item = &'o Outcome>) -> Outcome {
    let mut sum = Outcome { longest_stall: Duration::ZERO, ..Outcome::default() };
    for one in outcomes {
        sum.instructions += one.instructions;
        sum.stores += one.stores;
        sum.states += one.states;
        sum.states_beside += one.states_beside;
        sum.nested_states += one.nested_states;
        sum.kills += one.kills;
        sum.longest_stall = sum.longest_stall.max(one.longest_stall);
        sum.faults.extend(one.faults.iter().cloned());
    }
    sum
}
