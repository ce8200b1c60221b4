//! The fear: one death in a thousand loses something that was complete, shows something that never was, keeps space, or
//! stops those who live.
//!
//! `LIFEBOAT_SEED` repeats the choices of a run; `LIFEBOAT_KILLS` sets how many; `LIFEBOAT_KEEP_REGION` names a file to which the
//! region is copied when something is wrong with it.
#![cfg(target_arch = "x86_64")]

use lifeboat_testkit::child::{self, Role, number, report, setting};
use lifeboat_testkit::command::Mounted;
use lifeboat_testkit::random::seed;
use lifeboat_testkit::report::{full, line, note, sized};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::ScratchRegion;
use lifeboat_testkit::scratch::is_root;
use lifeboat_testkit::storm::planted::PLANTED;
use lifeboat_testkit::storm::{Plan, run};
use std::path::Path;
use std::time::Duration;

/// Bytes of the region.
const SIZE: u64 = 96 << 20;
/// Kills until a planted fault must be found.
const KILLS_TO_FIND: u64 = 1500;

#[test]
fn entry_of_child_processes() {
    child::enter(&[("storm", storm), ("planted", planted)]);
}

/// A process with one thread, which may fork.
fn storm() {
    let plan = Plan { kills: number("KILLS"), rest_every: number("REST_EVERY"), seed: number("SEED"), wrong: None };
    let mount = std::env::var_os("MOUNT");
    let outcome = run(Path::new(&setting("REGION")), mount.as_deref().map(Path::new), plan).expect("the harness");
    report(&outcome.summary(plan.seed));
    for fault in &outcome.faults {
        report(&format!("fault: {:?}: {}", fault.kind, fault.text));
    }
}

/// Storms in this region, in a process that `role` starts.
fn rage(role: Role, region: &Path, kills: u64) {
    let kills = std::env::var("LIFEBOAT_KILLS").map_or(kills, |text| text.parse().expect("LIFEBOAT_KILLS is a number"));
    let first = seed(11);
    note("killed by the thousand", &format!("seed {first}"));
    let said = role
        .with("REGION", region.display())
        .with("KILLS", kills)
        .with("REST_EVERY", if full() { 200 } else { 50 })
        .with("SEED", first)
        .run(Duration::from_secs(if full() { 4 * 3600 } else { 200 }));
    line(&said[0]);
    assert!(said.len() == 1, "{}", said.join("\n"));
}

#[test]
fn no_death_of_a_thousand_loses_leaks_or_stops_anything() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("kills", SIZE);
    rage(Role::new("storm"), region.path(), sized(1000, if is_root() { 100_000 } else { 5000 }, 100_000));
}

/// Two of three writers make the calls of a program, which the library intercepts.
#[test]
fn no_death_of_an_intercepted_program_loses_leaks_or_stops_anything() {
    let _nothing_left = NoResidue::begin();
    let mounted = Mounted::new("kills-mount", &SIZE.to_string());
    let role = Role::below(mounted.exec(), "storm").with("MOUNT", mounted.prefix().display());
    rage(role, &mounted.directory(), sized(300, if is_root() { 20_000 } else { 2000 }, 20_000));
}

fn planted() {
    let index = number("WRONG") as usize;
    let plan = Plan { kills: KILLS_TO_FIND, rest_every: 40, seed: 3, wrong: Some(PLANTED[index].1) };
    let outcome = run(Path::new(&setting("REGION")), None, plan).expect("the harness");
    let found = outcome.faults.first().map(|fault| format!("{:?}: {}", fault.kind, fault.text));
    report(&format!("{} {}", outcome.kills, found.unwrap_or_else(|| "nothing".to_string())));
}

#[test]
fn a_wrong_operation_is_found() {
    let _nothing_left = NoResidue::begin();
    for (index, (name, _, kind)) in PLANTED.iter().enumerate() {
        let region = ScratchRegion::new("planted", SIZE);
        let role = Role::new("planted").with("REGION", region.path().display()).with("WRONG", index);
        let said = role.run(Duration::from_secs(100)).concat();
        let (kills, found) = said.split_once(' ').expect("two words");
        assert!(found.starts_with(&format!("{kind:?}")), "{name} was not found as {kind:?} by {kills} kills: {found}");
        note("planted", &format!("{name}: found after {kills} kills"));
    }
}
