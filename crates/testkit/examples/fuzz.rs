//! Fuzzes one target, or all of them: `fuzz [TARGET] SECONDS SEED`. Guided by coverage when built by `cargo xtask fuzz`.

use lifeboat_testkit::child::{self, Role};
use lifeboat_testkit::hostile::{Population, fuzz, population};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    child::enter(&[("fuzzer", fuzz::play), (population::HOLDER, population::hold)]);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (targets, seconds, seed) = match arguments.as_slice() {
        // A role was played.
        [only, ..] if only == child::ENTRY => return ExitCode::SUCCESS,
        [seconds, seed] => (fuzz::TARGETS.to_vec(), seconds, seed),
        [target, seconds, seed] => (vec![target.as_str()], seconds, seed),
        _ => {
            eprintln!("usage: fuzz [TARGET] SECONDS SEED; targets: {}", fuzz::TARGETS.join(", "));
            return ExitCode::from(2);
        }
    };
    let (Ok(seconds), Ok(seed)) = (seconds.parse::<u64>(), seed.parse::<u64>()) else {
        eprintln!("seconds and seed are numbers");
        return ExitCode::from(2);
    };
    let mut good = true;
    for target in targets {
        good &= fuzz_one(target, seconds, seed);
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn fuzz_one(target: &str, seconds: u64, seed: u64) -> bool {
    let current = std::env::temp_dir().join(format!("lifeboat-fuzz-{}-{target}", std::process::id()));
    let role = Role::new("fuzzer").with("TARGET", target).with("SEED", seed).with("CURRENT", current.display());
    let process = role.with("MILLISECONDS", seconds * 1000).spawn();
    let pid = process.id();
    let ended = process.wait(Duration::from_secs(seconds + 120));
    Population::clear_after("fuzz", pid);
    let input = fuzz::hex(&std::fs::read(&current).unwrap_or_default());
    let _ = std::fs::remove_file(&current);
    let said = ended.reports.last().cloned().unwrap_or_default();
    let good = ended.status.is_some_and(|status| status.success()) && said.starts_with("fuzz: ");
    if good {
        println!("{said}");
    } else {
        println!("fuzz: target={target} crashes=1 seed={seed}\n{said}\ninput {input}\n{}", ended.describe());
    }
    good
}
