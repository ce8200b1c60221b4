//! `cargo xtask steps`: each operation killed at its instructions, and the table of that in docs/reliability.md.

use crate::failure::{Context, Failure, Outcome};
use crate::processes;
use crate::tables::{Extent, put_rows};
use crate::workspace::{self, Workspace};
use std::process::Stdio;

/// Between these lines of the document lies the table.
const BEGIN: &str = "<!-- steps: made by `cargo xtask steps` -->\n";
const END: &str = "<!-- end of steps -->\n";

/// What the rows of both sizes have in common, and how they are told apart.
const NOTE: &str = "Every instruction is stepped and every state judged. Rows with more than 1,000 kills are of `--full`: all states \
     of all recoveries; in the others recoveries and pairs are sampled.";

/// How much to do.
#[derive(clap::Args)]
pub struct Options {
    /// Also all states of all recoveries, 1,000 kills for each operation: hours
    #[arg(long)]
    full: bool,
    /// What the kills are drawn from
    #[arg(long, default_value_t = 5)]
    seed: u64,
    /// Only operations with this in their names, and their rows of the table
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

impl Options {
    /// All operations.
    pub fn of_all(full: bool, seed: u64) -> Self {
        Self { full, seed, only: None }
    }
}

/// Runs the harness in a release build and writes its table down.
pub fn run(options: &Options) -> Outcome {
    let workspace = Workspace::read()?;
    workspace::check_toolchain(&workspace)?;
    let mut command = workspace::cargo();
    command.current_dir(&workspace.root).args(["run", "--quiet", "--release", "--package", "lifeboat-testkit"]);
    command.args(["--example", "killed_at_any_instruction", "--", if options.full { "full" } else { "table" }]);
    command.arg(options.seed.to_string()).args(&options.only);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("start cargo")?;
    processes::end_all();
    let table = String::from_utf8_lossy(&output.stdout);
    print!("{table}");
    if !output.status.success() {
        return Err(Failure::new("an operation does not survive every kill; the lines above say when"));
    }
    let note = format!("{NOTE} The last run's seed: {}.", options.seed);
    put_rows(&workspace, (crate::reliability::DOCUMENT, BEGIN, END), &table, Extent::of(&options.only), &note)
}
