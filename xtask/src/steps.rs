//! `cargo xtask steps`: each operation killed at its instructions, and the table of that in docs/reliability.md.

use crate::failure::{Context, Failure, Outcome};
use crate::processes;
use crate::workspace::{self, Workspace};
use std::process::Stdio;

/// Between these lines of the document lies the table.
const BEGIN: &str = "<!-- steps: made by `cargo xtask steps` -->\n";
const END: &str = "<!-- end of steps -->\n";

/// How much to do.
#[derive(clap::Args)]
pub struct Options {
    /// Also all states of all recoveries, 1,000 kills for each operation: hours
    #[arg(long)]
    full: bool,
    /// What the kills are drawn from
    #[arg(long, default_value_t = 5)]
    seed: u64,
    /// Only operations with this in their names; the document stays as it is
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

impl Options {
    /// All operations.
    pub fn of_all(full: bool, seed: u64) -> Self {
        Self { full, seed, only: None }
    }

    fn what(&self) -> &'static str {
        if self.full {
            "state of every recovery"
        } else {
            "instruction; recoveries and pairs are sampled (`--full`: all)"
        }
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
    if options.only.is_some() {
        return Ok(());
    }
    put_table(&workspace, (BEGIN, END), &format!("{table}\nSeed {}, every {}.\n", options.seed, options.what()))
}

/// Replaces what lies between two marks in docs/reliability.md by a table and the machine it was made on.
pub fn put_table(workspace: &Workspace, (begin, end): (&str, &str), table: &str) -> Outcome {
    let path = workspace.root.join("docs/reliability.md");
    let text = std::fs::read_to_string(&path).context(format_args!("read {}", path.display()))?;
    let parts = text.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let (before, after) = parts.ok_or_else(|| Failure::new(format!("no place for a table in {}", path.display())))?;
    let text = format!("{before}{begin}\n{}.\n\n{table}\n{end}{after}", machine());
    std::fs::write(&path, text).context(format_args!("write {}", path.display()))
}

/// Processor, how many, kernel.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let information = read("/proc/cpuinfo");
    let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown processor", |(_, name)| name.trim());
    let count = std::thread::available_parallelism().map_or(1, |count| count.get());
    format!("{count} processors ({model}), Linux {}", read("/proc/sys/kernel/osrelease").trim())
}
