//! `bench`.

use std::path::PathBuf;

use clap::Args;

pub(super) const BENCH_HELP: &str = "Makes a region of its own and measures, in turns, what programs under `lifeboat exec` pay there, what they pay on tmpfs \
(and with --disk on a disk), and how fast this machine copies. Nothing of it is left afterwards. Figures are CPU time, so that other programs disturb \
little; ratios are medians of those of each round. As root, tmpfs with huge pages is measured, too. The measure `descriptors` compares \
ways to have a descriptor stand for an open file.

Example:
  lifeboat bench --quick
  lifeboat bench --only descriptors
  lifeboat bench --disk /scratch --plot goals.png --json > figures.json";

/// `bench`.
#[derive(Args, Debug)]
pub struct BenchArguments {
    /// Fewer rounds, less memory: a minute
    #[arg(long)]
    pub quick: bool,
    /// Only the measure of this name, or those with this in their names
    #[arg(long, value_name = "NAME")]
    pub only: Option<String>,
    /// Rounds that count
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: Option<u16>,
    /// A folder on a disk to compare with
    #[arg(long, value_name = "DIR")]
    pub disk: Option<PathBuf>,
    /// Draw the ratios beside their goals
    #[arg(long, value_name = "FILE.png")]
    pub plot: Option<PathBuf>,
    /// Also write the figures to a file, as JSON
    #[arg(long, value_name = "FILE.json")]
    pub save: Option<PathBuf>,
    /// Report as JSON
    #[arg(long)]
    pub json: bool,
}

/// `bench-worker`.
#[derive(Args, Debug)]
pub struct BenchWorkerArguments {
    /// What to do
    #[arg(long, value_name = "NAME")]
    pub task: String,
    /// Where
    #[arg(long, value_name = "DIR")]
    pub folder: PathBuf,
    /// Bytes of a round of bulk work
    #[arg(long)]
    pub bytes: usize,
    /// Operations of a round of small work
    #[arg(long)]
    pub operations: usize,
}
