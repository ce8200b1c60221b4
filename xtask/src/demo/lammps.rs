//! LAMMPS from Debian: a real application with restart files of its own, unmodified.

use super::job::{self, Torn, Watch};
use super::place::{Listed, Place};
use super::{Demo, RANKS, equal_files, megabytes, tell};
use crate::failure::{Context, Failure, Outcome};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const STEPS: u32 = 160;
const EVERY: u32 = 20;
/// No kill before restart files of this step are there.
const KILL_AFTER: u32 = 60;

/// One run: its place for restart files and its results.
struct Run {
    log: PathBuf,
    dump: PathBuf,
}

impl Run {
    fn new(demo: &Demo, kind: &str) -> Self {
        let file = |end: &str| demo.output.join(format!("lammps.{kind}.{end}"));
        let run = Self { log: file("log"), dump: file("dump") };
        for old in [&run.log, &run.dump] {
            let _ = fs::remove_file(old);
        }
        run
    }

    fn command(&self, demo: &Demo, place: &Place, from: Option<&Path>) -> Command {
        let mut command = Command::new("mpiexec.openmpi");
        if rustix::process::geteuid().is_root() {
            command.arg("--allow-run-as-root");
        }
        // What Open MPI shares between its ranks would stay in /dev/shm when they are killed.
        let shared = demo.scratch.folder();
        command.args(["--oversubscribe", "--mca", "orte_tmpdir_base"]).arg(shared);
        command.args(["--mca", "btl_vader_backing_directory"]).arg(shared);
        command.args(["-n", &RANKS.to_string()]).args(place.words()).arg("lmp");
        command.arg("-in").arg(demo.examples.join("lammps/in.melt")).arg("-log").arg(&self.log);
        command.arg("-var").arg("directory").arg(place.path()).arg("-var").arg("out").arg(&self.dump);
        command.args(["-var", "steps", &STEPS.to_string(), "-var", "every", &EVERY.to_string()]);
        if let Some(from) = from {
            command.args(["-var", "continue", "yes", "-var", "from"]).arg(from);
        }
        command.env("OMP_NUM_THREADS", "1").current_dir(demo.scratch.folder());
        command
    }
}

/// Uninterrupted, killed, restarted, compared.
pub fn show(demo: &Demo) -> Outcome {
    println!("\nLAMMPS, as Debian ships it: a Lennard-Jones crystal melts, 131072 atoms");
    let reference = Run::new(demo, "reference");
    let place = Place::in_region(&demo.region, "lammps-reference")?;
    let start = Instant::now();
    job::complete(&mut reference.command(demo, &place, None))?;
    let whole = place.list(Duration::from_secs(30))?.iter().map(|(_, size)| *size).max().unwrap_or(0);
    place.remove()?;
    tell(
        "uninterrupted",
        &format!(
            "{STEPS} steps, a restart file of {:.1} MB every {EVERY}: {:.1} s",
            megabytes(whole),
            start.elapsed().as_secs_f64()
        ),
    );

    let killed = Run::new(demo, "killed");
    let torn = |files: &[Listed]| torn_file(files, whole);
    let watch = Watch { announced: None, torn: &torn, program: "lmp" };
    let (torn, place) = kill(&killed, demo, &watch)?;
    tell(
        "killed",
        &format!(
            "SIGKILL to {RANKS} ranks: {} has {:.2} of {:.2} MB",
            torn.name,
            megabytes(torn.size),
            megabytes(whole)
        ),
    );

    let files = place.list(Duration::from_secs(30))?;
    let newest = files.iter().filter(|(_, size)| *size == whole).filter_map(|(name, _)| step_of(name)).max();
    let newest = newest.ok_or_else(|| Failure::new("no whole restart file is left"))?;
    if step_of(&torn.name).is_none_or(|step| newest >= step) {
        return Err(Failure::new("a restart file newer than the one being written is there: it is another run's"));
    }
    let restarted = Run::new(demo, "restarted");
    let from = place.path().join(format!("melt.{newest}.restart"));
    let start = Instant::now();
    job::complete(&mut restarted.command(demo, &place, Some(&from)))?;
    tell(
        "restarted",
        &format!(
            "read_restart of step {newest}, the newest whole file in memory; to the end: {:.1} s",
            start.elapsed().as_secs_f64()
        ),
    );
    let bytes = equal_files(&reference.dump, &restarted.dump)?;
    tell("final dump", &format!("equal byte for byte to the uninterrupted run's: {:.1} MB", megabytes(bytes as u64)));
    let lines = equal_thermo(&reference.log, &restarted.log, newest)?;
    tell("thermo output", &format!("{lines} lines from step {newest} on, equal to the last of 17 digits"));
    place.remove()
}

/// The files are written quickly: a run may end before one was seen half written. Then another one starts over, in an
/// empty directory: the files of a run that came to its end must not be restarted from.
fn kill<'d>(run: &Run, demo: &'d Demo, watch: &Watch) -> Outcome<(Torn, Place<'d>)> {
    for attempt in 1..=5 {
        let place = Place::in_region(&demo.region, &format!("lammps-{attempt}"))?;
        if let Some((torn, _)) = job::kill_in_the_middle(&mut run.command(demo, &place, None), &place, watch)? {
            return Ok((torn, place));
        }
        place.remove()?;
    }
    Err(Failure::new("five runs ended before a restart file was seen half written"))
}

fn step_of(name: &str) -> Option<u32> {
    name.strip_prefix("melt.")?.strip_suffix(".restart")?.parse().ok()
}

/// LAMMPS writes under the final name: the newest file is the one that may be torn.
fn torn_file(files: &[Listed], whole: u64) -> Option<Torn> {
    let late = files.iter().filter(|(name, _)| step_of(name).is_some_and(|step| step > KILL_AFTER));
    let torn = late.filter(|(_, size)| *size > 0 && *size < whole).max_by_key(|(name, _)| step_of(name));
    torn.map(|(name, size)| Torn { name: name.clone(), size: *size })
}

/// Lines of thermodynamic output by step.
fn thermo(log: &Path) -> Outcome<Vec<(u32, String)>> {
    let text = fs::read_to_string(log).context(format_args!("read {}", log.display()))?;
    let lines = text.lines().skip_while(|line| !line.trim_start().starts_with("Step ")).skip(1);
    let lines = lines.take_while(|line| !line.starts_with("Loop time"));
    Ok(lines.filter_map(|line| Some((line.split_whitespace().next()?.parse().ok()?, line.trim().to_owned()))).collect())
}

fn equal_thermo(reference: &Path, restarted: &Path, from: u32) -> Outcome<usize> {
    let mut expected = thermo(reference)?;
    expected.retain(|(step, _)| *step >= from);
    let seen = thermo(restarted)?;
    if seen.is_empty() || seen.last().map(|(step, _)| *step) != Some(STEPS) {
        return Err(Failure::new(format!("{} has no thermo output up to step {STEPS}", restarted.display())));
    }
    match expected.iter().zip(&seen).find(|(a, b)| a != b) {
        None if expected.len() == seen.len() => Ok(seen.len()),
        None => Err(Failure::new(format!("{} thermo lines instead of {}", seen.len(), expected.len()))),
        Some((a, b)) => Err(Failure::new(format!("thermo output differs:\n{}\n{}", a.1, b.1))),
    }
}
