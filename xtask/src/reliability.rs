//! `cargo xtask reliability`: all harnesses that try to break a region, and the tables of what they did in
//! docs/reliability.md.

use crate::failure::{Failure, Outcome};
use crate::fuzz;
use crate::run::Running;
use crate::steps;
use crate::tables::{Extent, put_rows};
use crate::workspace::{self, Workspace};
use std::time::{Duration, Instant};

/// Where the tables are.
pub const DOCUMENT: &str = "docs/reliability.md";
/// Between these lines of the document lies the table of the harnesses that are not stepped.
const BEGIN: &str = "<!-- harnesses: made by `cargo xtask reliability` -->\n";
const END: &str = "<!-- end of harnesses -->\n";

const NOTE: &str = "Each row is of its harness's last run.";

/// Test programs that end with lines of figures, as `storm: kills=1000 losses=0`.
const HARNESSES: &[(&str, &str)] = &[
    ("lifeboat-testkit", "killed_by_the_thousand"),
    ("lifeboat-testkit", "one_flipped_bit_in_any_metadata_byte"),
    ("lifeboat-testkit", "hostile_regions"),
];

/// What the fuzzers, built with counters of coverage, are called here.
const FUZZERS: &str = "fuzz";
/// Seconds for each of their targets, and with `--full`.
const FUZZED: (u64, u64) = (60, 600);

/// First words of such lines.
const KINDS: &[&str] = &["storm", "hostile", "fuzz", "models", "guard"];

/// How much to do.
#[derive(clap::Args)]
pub struct Options {
    /// The long forms: hours
    #[arg(long)]
    full: bool,
    /// What is drawn at random is drawn from this
    #[arg(long, default_value_t = 5)]
    seed: u64,
    /// Only the harnesses that are not stepped
    #[arg(long)]
    without_steps: bool,
    /// Only harnesses with this in their names, and their rows of the table
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// Runs everything and writes the tables down.
pub fn run(options: &Options) -> Outcome {
    let workspace = Workspace::read()?;
    workspace::check_toolchain(&workspace)?;
    let folder = workspace.build_release()?;
    let mut rows = String::new();
    let wanted = |test: &str| options.only.as_ref().is_none_or(|part| test.contains(part));
    for (package, test) in HARNESSES.iter().filter(|(_, test)| wanted(test)) {
        let start = Instant::now();
        let mut command = workspace::cargo();
        command.current_dir(&workspace.root).args(["test", "--quiet", "--package", package, "--test", test]);
        // One after the other: they hold calls to time limits.
        command.args(["--", "--nocapture", "--include-ignored", "--test-threads=1"]);
        command.env("LIFEBOAT_BIN_DIR", &folder).env("LIFEBOAT_SEED", options.seed.to_string());
        if options.full {
            command.env("LIFEBOAT_FULL", "all");
        }
        println!("== {package}/{test}");
        let limit = Duration::from_secs(if options.full { 6 * 3600 } else { 1200 });
        let finished = Running::start(&mut command)?.finish(limit, &mut |line| println!("   {line}"))?;
        if !finished.status.success() {
            return Err(Failure::new(format!("{package}/{test} found something; the lines above say what")));
        }
        let found: Vec<_> = finished.output.lines().filter_map(row).collect();
        if found.is_empty() {
            return Err(Failure::new(format!("{package}/{test} said no figures")));
        }
        rows.push_str(&found.concat());
        println!("   {:.0} s", start.elapsed().as_secs_f64());
    }
    if wanted(FUZZERS) {
        println!("== {FUZZERS}");
        let seconds = if options.full { FUZZED.1 } else { FUZZED.0 };
        let options = fuzz::Options::of_all(seconds, options.seed);
        let output = fuzz::figures(&workspace, &folder, &options, &mut |line| println!("   {line}"))?;
        rows.extend(output.lines().filter_map(row));
    }
    if rows.is_empty() {
        return Err(Failure::new("no harness has this in its name; without --only all are run"));
    }
    let table = format!("| harness | figures |\n|---|---|\n{rows}");
    put_rows(&workspace, (DOCUMENT, BEGIN, END), &table, Extent::of(&options.only), NOTE)?;
    if options.without_steps || options.only.is_some() {
        Ok(())
    } else {
        steps::run(&steps::Options::of_all(options.full, options.seed))
    }
}

/// A line of figures as a row; `None` for other lines.
fn row(line: &str) -> Option<String> {
    let (kind, rest) = line.split_once(": ").filter(|(kind, _)| KINDS.contains(kind))?;
    let (mut name, mut figures) = (kind.to_owned(), Vec::new());
    for word in rest.split_whitespace() {
        match word.split_once('=') {
            Some(("target", target)) => name = format!("{name}, {target}"),
            Some((key, value)) => figures.push(format!("{} {value}", key.replace('_', " "))),
            None => name = format!("{name}, {word}"),
        }
    }
    (!figures.is_empty()).then(|| format!("| {name} | {} |\n", figures.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_from_other_words() {
        assert_eq!(row("storm: kills=10 stall_ms=3").unwrap(), "| storm | kills 10, stall ms 3 |\n");
        assert_eq!(row("fuzz: target=paths executions=7").unwrap(), "| fuzz, paths | executions 7 |\n");
        assert_eq!(row("hostile: flips all=9 seed=5").unwrap(), "| hostile, flips | all 9, seed 5 |\n");
        assert_eq!(row("note: kills=10"), None);
        assert_eq!(row("storm: it began"), None);
    }
}
