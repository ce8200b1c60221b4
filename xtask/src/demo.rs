//! `cargo xtask demo`: real solvers, killed in the middle of a checkpoint, go on from memory and end as if nothing had
//! happened.

mod account;
mod heat;
mod job;
mod lammps;
mod picture;
mod place;

use crate::confine::Stage;
use crate::failure::{Context, Failure, Outcome};
use crate::residue::Surroundings;
use crate::tools::{self, Purpose};
use crate::workspace::{self, Workspace};
use std::path::PathBuf;
use std::time::Instant;

/// Memory for the demonstration's region: three checkpoints of 52 MB and room to spare.
const REGION_SIZE: &str = "512MiB";

/// How many ranks every run has.
const RANKS: usize = 4;

/// What to show.
#[derive(clap::Args)]
pub struct Options {
    /// LAMMPS, a molecular-dynamics program from Debian, instead of the heat solvers
    #[arg(long)]
    lammps: bool,
}

/// What all parts of the demonstration share.
struct Demo {
    /// Folder with examples.
    examples: PathBuf,
    /// Folder for results that stay: demo-output.
    output: PathBuf,
    /// The region and its mount; goes away before the folder that the mount lies in.
    region: place::Region,
    /// Folder that goes away at the end, on disk.
    scratch: Stage,
}

/// Prepares, shows, and cleans up whatever happens. With `LIFEBOAT_BIN_DIR` set, what lies there is shown, not built.
pub fn run(options: &Options) -> Outcome {
    tools::prepare(&[if options.lammps { Purpose::Lammps } else { Purpose::Demo }])?;
    let workspace = Workspace::read()?;
    workspace::check_toolchain(&workspace)?;
    let binaries = match std::env::var_os("LIFEBOAT_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => workspace.build_release()?,
    };
    let output = workspace.root.join("demo-output");
    std::fs::create_dir_all(&output).context(format_args!("make {}", output.display()))?;
    let before = Surroundings::before_demonstration();
    let start = Instant::now();
    let shown = show(options, &workspace, binaries, output);
    let mut left = before.left();
    left.extend(Stage::leftover("demo").map(|folder| format!("folder {}", folder.display())));
    if !left.is_empty() {
        let told = Failure::new(format!("left behind: {}", left.join(", ")));
        return shown.and(Err(told));
    }
    shown?;
    println!("\nNo region, mount or process is left behind. {:.0} s altogether.", start.elapsed().as_secs_f64());
    Ok(())
}

fn show(options: &Options, workspace: &Workspace, binaries: PathBuf, output: PathBuf) -> Outcome {
    let scratch = Stage::make("demo")?;
    let region = place::Region::create(&binaries.join("lifeboat"), &scratch)?;
    let demo = Demo { examples: workspace.root.join("examples"), output, region, scratch };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "{RANKS} ranks on {cores} cores. Region {}: {REGION_SIZE} of memory, mounted at {}.",
        demo.region.name,
        demo.region.mount.display()
    );
    if options.lammps { lammps::show(&demo) } else { heat::show(&demo) }
}

/// Two files must be equal to the last byte; answers their size.
fn equal_files(one: &std::path::Path, other: &std::path::Path) -> Outcome<usize> {
    let read = |path: &std::path::Path| std::fs::read(path).context(format_args!("read {}", path.display()));
    let (a, b) = (read(one)?, read(other)?);
    match a.iter().zip(&b).position(|(x, y)| x != y) {
        None if a.len() == b.len() && !a.is_empty() => Ok(a.len()),
        None => {
            Err(Failure::new(format!("{} has {} bytes, {} has {}", one.display(), a.len(), other.display(), b.len())))
        }
        Some(byte) => {
            Err(Failure::new(format!("{} and {} differ from byte {byte} on", one.display(), other.display())))
        }
    }
}

/// One line of the story: what, and what was seen.
fn tell(what: &str, seen: &str) {
    println!("  {what:<14} {seen}");
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
