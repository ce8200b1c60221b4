//! `cargo xtask fuzz`: the fuzzers for long, guided by coverage, on the stable toolchain.

use crate::failure::{Failure, Outcome};
use crate::run::Running;
use crate::workspace::{self, Workspace};
use std::path::Path;
use std::time::Duration;

/// LLVM's counters in every branch; overflows and assertions end the process, as any fault does. (`--target` keeps the flags
/// from build scripts and macros.)
const FLAGS: &str = "-C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=3 \
-C llvm-args=-sanitizer-coverage-inline-8bit-counters -C overflow-checks=on -C debug-assertions=on -C codegen-units=1";
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// How long building may take.
const TO_BUILD: Duration = Duration::from_secs(1800);
/// More targets than there are.
const TARGETS: u32 = 16;
/// What a target may take beyond its time, in seconds.
const GRACE: u64 = 180;

/// What to fuzz, and for how long.
#[derive(clap::Args)]
pub struct Options {
    /// Only this target: region, operations, paths, configuration, environment
    #[arg(long)]
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// What changes are drawn from
    #[arg(long, default_value_t = 5)]
    seed: u64,
}

/// Builds with counters and runs; prints one line of figures for each target.
pub fn run(options: &Options) -> Outcome {
    let workspace = Workspace::read()?;
    workspace::check_toolchain(&workspace)?;
    // What the fuzzers start is what users have.
    let folder = workspace.build_release()?;
    figures(&workspace, &folder, options, &mut |line| println!("{line}")).map(drop)
}

impl Options {
    /// All targets.
    pub fn of_all(seconds: u64, seed: u64) -> Self {
        Self { target: None, seconds, seed }
    }
}

/// Runs; `each` gets every line as it is printed. All lines.
pub fn figures(workspace: &Workspace, folder: &Path, options: &Options, each: &mut dyn FnMut(&str)) -> Outcome<String> {
    let mut command = workspace::cargo();
    command.current_dir(&workspace.root).env("RUSTFLAGS", FLAGS).env("LIFEBOAT_BIN_DIR", folder);
    command.args(["run", "--quiet", "--release", "--target", TARGET, "--package", "lifeboat-testkit"]);
    command.args(["--example", "fuzz", "--"]).args(&options.target);
    command.args([options.seconds.to_string(), options.seed.to_string()]);
    let limit = TO_BUILD + TARGETS * Duration::from_secs(options.seconds + GRACE);
    let finished = Running::start(&mut command)?.finish(limit, each)?;
    if finished.status.success() {
        Ok(finished.output)
    } else {
        Err(Failure::new("an input was answered wrongly; the lines above say which"))
    }
}
