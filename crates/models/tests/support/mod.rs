//! How far models are explored, and that planted bugs are found.
#![allow(dead_code)]

use lifeboat_models::harness::{Bounds, Explored, explore_deaths};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Whether the long run was asked for.
pub fn full() -> bool {
    std::env::var_os("LIFEBOAT_FULL").is_some()
}

/// Few interruptions in the quick set, more with `LIFEBOAT_FULL=1`.
pub fn bounds() -> Bounds {
    match full() {
        true => Bounds { preemptions: 3, time: Duration::from_secs(300) },
        false => Bounds { preemptions: 2, time: Duration::from_secs(20) },
    }
}

/// For a model that is explored once for every step at which somebody may die: hundreds of times.
fn bounds_of_deaths() -> Bounds {
    Bounds { preemptions: bounds().preemptions - 1, time: Duration::from_secs(3) }
}

fn say(name: &str, bounds: Bounds, explored: Explored, steps: Option<(usize, u32)>, start: Instant) {
    let cut = match explored.cut_short {
        0 => String::new(),
        models => format!(", {models} of them stopped by the time limit"),
    };
    let steps =
        steps.map_or(String::new(), |(stride, steps)| format!(", a death at every {stride}. of about {steps} steps"));
    let (executions, preemptions) = (explored.executions, bounds.preemptions);
    println!(
        "{name}: {executions} executions{steps}, at most {preemptions} interruptions{cut}, {:.1?}",
        start.elapsed()
    );
    assert!(executions > 10, "{name}: nothing was explored");
}

/// Explores and says how much.
pub fn explored(name: &str, model: impl FnOnce(Bounds) -> Explored) {
    let start = Instant::now();
    let explored = model(bounds());
    say(name, bounds(), explored, None, start);
}

/// Explores a model for each step at which its victim may die; in the quick set for each `stride`-th.
pub fn explored_deaths(name: &str, stride: usize, model: impl Fn(Bounds, u32) -> Explored) {
    explored_deaths_within(bounds_of_deaths(), name, stride, model);
}

/// The same, with two interruptions in the quick set, too. (With three, the models of one step take minutes.)
pub fn explored_deaths_deeper(name: &str, stride: usize, model: impl Fn(Bounds, u32) -> Explored) {
    explored_deaths_within(Bounds { preemptions: 2, ..bounds_of_deaths() }, name, stride, model);
}

fn explored_deaths_within(bounds: Bounds, name: &str, stride: usize, model: impl Fn(Bounds, u32) -> Explored) {
    let start = Instant::now();
    let stride = if full() { 1 } else { stride };
    let (explored, steps) = explore_deaths(stride, |step| model(bounds, step));
    say(name, bounds, explored, Some((stride, steps)), start);
    assert!(steps > 10, "{name}: the victim did nothing");
}

/// The model must find the bug in this tree, and for this reason.
pub fn caught<R: std::fmt::Debug>(reason: &str, model: impl FnOnce(Bounds) -> R) {
    match catch_unwind(AssertUnwindSafe(|| model(bounds()))) {
        Ok(explored) => panic!("the planted bug was not found: {explored:?}"),
        Err(why) => {
            let said = why.downcast_ref::<String>().cloned();
            let said = said.or_else(|| why.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default();
            assert!(said.contains(reason), "found for another reason: {said}");
            println!("found: {}", said.lines().next().unwrap_or_default());
        }
    }
}
