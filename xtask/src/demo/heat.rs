//! The heat solvers in C and Fortran.

use super::account::{Account, Row};
use super::job::{self, Torn, Watch};
use super::place::{Listed, Place};
use super::{Demo, RANKS, equal_files, megabytes, picture, tell};
use crate::failure::{Context, Failure, Outcome};
use crate::run;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const STEPS: u32 = 800;
const EVERY: u32 = 80;
/// The kill comes with the first checkpoint at or after this step.
const KILL_FROM: u32 = 400;
/// For the account: many checkpoints, little computing.
const ACCOUNT_STEPS: u32 = 120;
const ACCOUNT_EVERY: u32 = 10;
/// Turns of all places, so that what else the machine does falls on all of them.
const ROUNDS: u32 = 4;

struct Solver {
    language: &'static str,
    habit: &'static str,
    source: &'static str,
    compiler: &'static str,
    program: &'static str,
}

const SOLVERS: [Solver; 2] = [
    Solver {
        language: "C",
        habit: "open, write, fsync, rename",
        source: "heat-c/heat.c",
        compiler: "mpicc.mpich",
        program: "heat-c",
    },
    Solver {
        language: "Fortran",
        habit: "stream output, flush, fsync, rename",
        source: "heat-fortran/heat.f90",
        compiler: "mpifort.mpich",
        program: "heat-fortran",
    },
];

/// Both solvers, the account, the picture.
pub fn show(demo: &Demo) -> Outcome {
    let mut account = Account::default();
    let mut result = PathBuf::new();
    for solver in &SOLVERS {
        println!("\nHeat solver in {} ({}; no call of ours)", solver.language, solver.habit);
        let program = compile(demo, solver)?;
        result = kill_and_restart(demo, solver, &program)?;
        compare_places(demo, solver, &program, &mut account)?;
    }
    account.print(demo.scratch.folder());
    let image = demo.output.join("heat.png");
    let range = picture::draw(&result, &image)?;
    println!(
        "\nThe field at step {STEPS}: {} ({:.0} degrees black, {:.0} degrees white)",
        image.display(),
        range.0,
        range.1
    );
    Ok(())
}

fn compile(demo: &Demo, solver: &Solver) -> Outcome<PathBuf> {
    let program = demo.scratch.folder().join(solver.program);
    let mut compiler = Command::new(solver.compiler);
    compiler.current_dir(demo.scratch.folder()).arg("-O3").arg("-o").arg(&program);
    run::output_of(compiler.arg(demo.examples.join(solver.source)).arg("-lm"), Duration::from_secs(120))?;
    Ok(program)
}

/// `mpiexec -n 4 [lifeboat exec ... --] PROGRAM PLATE DIRECTORY RESULT STEPS EVERY`
fn command(demo: &Demo, program: &Path, place: &Place, result: &Path, steps: u32, every: u32) -> Command {
    let mut command = Command::new("mpiexec.mpich");
    command.args(["-n", &RANKS.to_string()]).args(place.words()).arg(program);
    command
        .arg(demo.examples.join("plate.txt"))
        .arg(place.path())
        .arg(result)
        .args([steps.to_string(), every.to_string()]);
    command
}

fn kill_and_restart(demo: &Demo, solver: &Solver, program: &Path) -> Outcome<PathBuf> {
    let name = solver.program;
    let [reference, restarted] = ["reference", "restarted"].map(|kind| demo.output.join(format!("{name}.{kind}.bin")));
    for old in [&reference, &restarted] {
        let _ = fs::remove_file(old);
    }
    let start = Instant::now();
    let place = Place::in_region(&demo.region, &format!("{name}-reference"))?;
    job::complete(&mut command(demo, program, &place, &reference, STEPS, EVERY))?;
    let whole = largest(&place.list(Duration::from_secs(30))?)?;
    place.remove()?;
    let all = megabytes(whole * RANKS as u64);
    tell(
        "uninterrupted",
        &format!("{STEPS} steps, a checkpoint of {all:.1} MB every {EVERY}: {:.1} s", start.elapsed().as_secs_f64()),
    );

    let place = Place::in_region(&demo.region, name)?;
    let announced =
        |line: &str| line.ends_with(": writing a checkpoint") && step_in(line).is_some_and(|step| step >= KILL_FROM);
    let torn = |files: &[Listed]| torn_file(files, whole);
    let watch = Watch { announced: Some(&announced), torn: &torn, program: solver.program };
    let mut job = command(demo, program, &place, &restarted, STEPS, EVERY);
    let killed = job::kill_in_the_middle(&mut job, &place, &watch)?;
    let (torn, said) = killed.ok_or_else(|| Failure::new("the job ended before a checkpoint could be torn"))?;
    let step = said.lines().rev().find_map(step_in).ok_or_else(|| Failure::new("the killed job had said nothing"))?;
    let (size, whole) = (megabytes(torn.size), megabytes(whole));
    tell("killed", &format!("SIGKILL to {RANKS} ranks at step {step}: {} has {size:.2} of {whole:.2} MB", torn.name));
    if restarted.exists() {
        return Err(Failure::new("the killed job had already written its result"));
    }

    let start = Instant::now();
    let finished = job::complete(&mut command(demo, program, &place, &restarted, STEPS, EVERY))?;
    let from = finished.output.lines().find(|line| line.starts_with("restart from step "));
    let from = from.ok_or_else(|| Failure::new("the job did not restart from a checkpoint"))?;
    let resumed = step_in(from).unwrap_or(0);
    if resumed == 0 || resumed > step {
        return Err(Failure::new(format!("killed at step {step}, but: {from}")));
    }
    tell("restarted", &format!("{from}; to the end: {:.1} s", start.elapsed().as_secs_f64()));
    let bytes = equal_files(&reference, &restarted)?;
    tell("result", &format!("equal byte for byte to the uninterrupted run's: {:.1} MB", megabytes(bytes as u64)));
    place.remove()?;
    Ok(restarted)
}

/// The number after the word "step".
fn step_in(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once("step ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn largest(files: &[Listed]) -> Outcome<u64> {
    let sizes = files.iter().filter(|(name, _)| name.starts_with("ckpt.")).map(|(_, size)| *size);
    sizes.max().ok_or_else(|| Failure::new("the uninterrupted run left no checkpoint"))
}

fn torn_file(files: &[Listed], whole: u64) -> Option<Torn> {
    let torn = files.iter().find(|(name, size)| name.ends_with(".tmp") && *size > 0 && *size < whole);
    torn.map(|(name, size)| Torn { name: name.clone(), size: *size })
}

/// The same program with its checkpoints in the region, on /dev/shm and on disk, in turns.
fn compare_places(demo: &Demo, solver: &Solver, program: &Path, account: &mut Account) -> Outcome {
    let result = demo.scratch.folder().join("account.bin");
    let memory = MemoryFolder::make()?;
    let disk = demo.scratch.folder().join("disk");
    let mut rows = ["Lifeboat", "/dev/shm", "disk"].map(|place| Row::new(solver.language, place));
    for round in 0..ROUNDS {
        for (kind, row) in rows.iter_mut().enumerate() {
            let place = match kind {
                0 => Place::in_region(&demo.region, &format!("account-{round}"))?,
                1 => Place::in_folder(memory.0.join("checkpoints"))?,
                _ => Place::in_folder(disk.clone())?,
            };
            let said = job::complete(&mut command(demo, program, &place, &result, ACCOUNT_STEPS, ACCOUNT_EVERY))?;
            row.add_checkpoints(&said.output);
            // Started again it finds its last checkpoint, reads it and is done.
            let said = job::complete(&mut command(demo, program, &place, &result, ACCOUNT_STEPS, ACCOUNT_EVERY))?;
            row.add_restart(&said.output);
            place.remove()?;
        }
    }
    account.rows.extend(rows);
    Ok(())
}

/// A folder in /dev/shm that goes away with the value.
struct MemoryFolder(PathBuf);

impl MemoryFolder {
    fn make() -> Outcome<Self> {
        let folder = PathBuf::from(format!("/dev/shm/xtask-demo-{}", std::process::id()));
        fs::create_dir(&folder).context(format_args!("make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for MemoryFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("xtask: left behind: {}: {error}", self.0.display());
        }
    }
}
