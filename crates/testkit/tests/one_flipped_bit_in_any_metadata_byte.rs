//! The fear: one flipped bit in a byte of a region's metadata kills a process, hangs it, shows it another file's bytes, or
//! makes a repair destroy what is whole.
//!
//! `LIFEBOAT_FULL=1` flips a bit in every byte; `LIFEBOAT_FLIPS=all` every bit of every byte; `LIFEBOAT_FLIP=N` only byte N.
//! `LIFEBOAT_SEED` says which bit of each byte.

use lifeboat_testkit::child::{self, Progress, Role, number, report, setting};
use lifeboat_testkit::hostile::{Population, Tally, cases, places, population};
use lifeboat_testkit::random::seed;
use lifeboat_testkit::report::{line, sized};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::ScratchDirectory;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// More than processors: who is recovered is waited for now and then.
const WORKERS: u64 = 6;
/// Faults after which a worker gives up.
const ENOUGH: usize = 12;

#[test]
fn entry_of_child_processes() {
    child::enter(&[("flipper", flipper), (population::HOLDER, population::hold)]);
}

/// Flips in turn: byte START, START + STEP, and so on.
fn flipper() {
    let population = Population::new("flips");
    population.restore();
    let places = {
        let files = population.region.attach();
        // Recovery would clear what the dead left.
        places::places(&files)
    };
    let progress = Progress::open(Path::new(&setting("PROGRESS"))).expect("the progress file");
    let (seed, step) = (number("SEED"), number("STEP"));
    let bits = if setting("BITS") == "all" { 8 } else { 1 };
    let mut tallies: BTreeMap<&'static str, Tally> = BTreeMap::new();
    let mut at = number("START");
    let mut faults = 0;
    while at < cases::flips(&places) && faults < ENOUGH {
        progress.set(at + 1);
        for bit in 0..bits {
            let bit = if bits == 8 { bit } else { cases::bit_of(seed, at) };
            let case = cases::flip(&population, &places, at, bit);
            let (tally, found) = cases::run(&population, &case);
            tallies.entry(case.place).or_default().add(&tally);
            for fault in &found {
                report(&format!("fault: byte number {at}: {fault}"));
            }
            faults += found.len();
        }
        at += step;
    }
    for (place, tally) in tallies {
        report(&format!("tally: {place}: {}", tally.encode()));
    }
}

#[test]
fn no_flipped_bit_faults_hangs_or_shows_what_is_anothers() {
    let _nothing_left = NoResidue::begin();
    let seed = seed(11);
    let one = std::env::var("LIFEBOAT_FLIP").ok().and_then(|text| text.parse::<u64>().ok());
    let stride = std::env::var("LIFEBOAT_FLIP_STRIDE").ok().and_then(|text| text.parse().ok());
    let stride = stride.unwrap_or_else(|| sized(3989, 199, 1));
    let bits = std::env::var("LIFEBOAT_FLIPS").unwrap_or_default();
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let mut faults = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|share| {
                let bits = &bits;
                scope.spawn(move || {
                    let (start, step) = match one {
                        Some(only) => (only, u64::MAX / 2),
                        None => (share * stride + seed % stride, WORKERS * stride),
                    };
                    if one.is_some() && share > 0 { Vec::new() } else { work(start, step, seed, bits) }
                })
            })
            .collect();
        for worker in workers {
            for text in worker.join().expect("a worker") {
                match text.strip_prefix("tally: ").and_then(|rest| rest.split_once(": ")) {
                    Some((place, tally)) => tallies.entry(place.to_string()).or_default().add(&Tally::decode(tally)),
                    None => faults.push(text),
                }
            }
        }
    });
    let mut all = Tally::default();
    for (place, tally) in &tallies {
        println!("flips: {place}: {}", tally.encode());
        all.add(tally);
    }
    line(&format!("hostile: flips {} seed={seed}", all.encode()));
    let first: Vec<&str> = faults.iter().take(40).map(String::as_str).collect();
    assert!(faults.is_empty(), "{} faults, the first:\n{}", faults.len(), first.join("\n"));
}

/// What one worker reports; one that dies or hangs is a fault, and the next goes on behind it.
fn work(start: u64, step: u64, seed: u64, bits: &str) -> Vec<String> {
    let place = ScratchDirectory::on_tmpfs("flips-progress");
    let path = place.path().join("progress");
    let progress = Progress::open(&path).expect("a progress file");
    let (mut start, mut lines, mut deaths) = (start, Vec::new(), 0);
    loop {
        progress.set(0);
        let role = Role::new("flipper").with("PROGRESS", path.display()).with("SEED", seed).with("BITS", bits);
        let process = role.with("START", start).with("STEP", step).spawn();
        let pid = process.id();
        let ended = process.wait(Duration::from_secs(12 * 3600));
        let good = ended.status.is_some_and(|status| status.success());
        lines.extend(ended.reports.iter().filter(|line| !line.is_empty()).cloned());
        if good {
            return lines;
        }
        Population::clear_after("flips", pid);
        let at = progress.get();
        lines.push(format!("fault: byte number {}: the process {}", at.wrapping_sub(1), ended.describe()));
        deaths += 1;
        if deaths == ENOUGH || at == 0 {
            return lines;
        }
        start = at - 1 + step;
    }
}
