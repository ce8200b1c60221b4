//! The rounds: every arm of a measure in turn, compared within each round.

use crate::measure::{Arm, GROWTHS, Goal, Growth, Life, MEASURES, Measure, Place, SCALINGS, Scaling};
use crate::place::Ground;
use crate::report::{Comparison, Figure, GrowthRow, Report, Row, ScalingRow, Spread};
use crate::schemes::{self, SCHEMES, Scheme, SchemeRow};
use crate::statistics::Middle;
use crate::tasks::Sample;
use crate::worker::read_sample;
use std::io::{BufRead, BufReader, Error, Result, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rounds that count; one before them does not.
    pub rounds: usize,
    /// Bytes of a round of bulk work; a multiple of 2 MiB.
    pub bytes: usize,
    /// Operations of a round of small work.
    pub operations: usize,
    /// Only the measure of this name, or if there is none, those with this in their names.
    pub only: Option<String>,
}

/// The names of all measures.
pub fn names() -> impl Iterator<Item = &'static str> {
    let several = SCALINGS.iter().map(|scaling| scaling.name).chain(GROWTHS.iter().map(|growth| growth.name));
    MEASURES.iter().map(|measure| measure.name).chain(several).chain([schemes::NAME])
}

impl Options {
    /// Whether the measure of this name is asked for.
    fn wants(&self, name: &str) -> bool {
        let Some(part) = self.only.as_deref() else { return true };
        let is_a_name = names().any(|name| name == part);
        if is_a_name { name == part } else { name.contains(part) }
    }

    /// Whether anything that is asked for is done in this place.
    pub fn needs(&self, place: Place) -> bool {
        let mut wanted = MEASURES.iter().filter(|measure| self.wants(measure.name));
        let grows = || GROWTHS.iter().any(|growth| self.wants(growth.name));
        wanted.any(|measure| measure.arms().any(|arm| arm.place == place)) || (place == Place::InnerSmall && grows())
    }
}

/// A worker that waits for its word.
struct Worker {
    child: Child,
    lines: BufReader<ChildStdout>,
}

/// Where a worker runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    /// On one processor, where all run that take turns with it: processors are not equally fast at all times.
    Pinned,
    /// Where the kernel likes.
    Anywhere,
}

/// Has the program run on the last processor that this process may run on.
fn pin(command: &mut Command) {
    let pin = || {
        // SAFETY: a set is plain bits; both calls are about the calling thread alone, which is the child's only one.
        let answer = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            let length = size_of::<libc::cpu_set_t>();
            let mut answer = libc::sched_getaffinity(0, length, &mut set);
            let last = (0..libc::CPU_SETSIZE as usize).rev().find(|&cpu| libc::CPU_ISSET(cpu, &set));
            if let Some(last) = last.filter(|_| answer == 0) {
                libc::CPU_ZERO(&mut set);
                libc::CPU_SET(last, &mut set);
                answer = libc::sched_setaffinity(0, length, &set);
            }
            answer
        };
        if answer == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    };
    // SAFETY: two system calls and a look at a set of the child's own; nothing is allocated or locked.
    unsafe { command.pre_exec(pin) };
}

impl Worker {
    fn start(ground: &Ground, arm: &Arm, options: &Options, run: Run) -> Result<Worker> {
        let mut command = ground.worker(arm, options.bytes, options.operations);
        if run == Run::Pinned {
            pin(&mut command);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().ok_or_else(|| Error::other("a worker without output"))?;
        let mut worker = Worker { child, lines: BufReader::new(out) };
        match worker.line()?.as_str() {
            "ready" => Ok(worker),
            other => Err(failure(arm, other)),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn round(&mut self, arm: &Arm) -> Result<Sample> {
        self.begin()?;
        self.end(arm)
    }

    fn begin(&mut self) -> Result<()> {
        match &mut self.child.stdin {
            Some(input) => input.write_all(b"go\n"),
            None => Ok(()),
        }
    }

    fn end(&mut self, arm: &Arm) -> Result<Sample> {
        let line = self.line()?;
        read_sample(&line).ok_or_else(|| failure(arm, &line))
    }
}

fn failure(arm: &Arm, said: &str) -> Error {
    let why = if said.is_empty() { "the worker ended" } else { said };
    Error::other(format!("{} in {}: {why}", arm.task, arm.place.name()))
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The end of its input is its end.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// An arm at work.
struct Turn {
    arm: Arm,
    worker: Option<Worker>,
    samples: Vec<Sample>,
}

impl Turn {
    fn round(&mut self, ground: &Ground, options: &Options) -> Result<Sample> {
        let mut worker = match self.worker.take() {
            Some(worker) => worker,
            None => Worker::start(ground, &self.arm, options, Run::Pinned)?,
        };
        let sample = worker.round(&self.arm)?;
        if self.arm.life == Life::Kept {
            self.worker = Some(worker);
        }
        Ok(sample)
    }
}

/// How many processes are tried: one, two, four and so on, and as many as there are processors.
fn counts() -> Vec<usize> {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let mut counts: Vec<usize> = (0..).map(|power| 1 << power).take_while(|&count| count < all).collect();
    counts.push(all);
    counts
}

/// Bulk work moves whole ones of these.
const PAGE: usize = 2 << 20;

/// How many times as much several processes do in the same time as one.
fn scale(ground: &Ground, options: &Options, scaling: &Scaling, place: Place) -> Result<Spread> {
    let arm = Arm { place, task: scaling.task, life: Life::Kept };
    let counts = counts();
    let most = counts.last().copied().unwrap_or(1);
    // Together they move as much as one does elsewhere: the region has room for that.
    let bytes = (options.bytes / most / PAGE * PAGE).max(PAGE);
    let options = Options { bytes, ..options.clone() };
    let mut workers =
        (0..most).map(|_| Worker::start(ground, &arm, &options, Run::Anywhere)).collect::<Result<Vec<_>>>()?;
    let mut ratios = vec![Vec::new(); counts.len()];
    for round in 0..=options.rounds {
        let mut alone = 0.0;
        for (&count, ratios) in counts.iter().zip(&mut ratios) {
            let rate = together(&mut workers[..count], &arm)?;
            if count == 1 {
                alone = rate;
            }
            if round > 0 {
                ratios.push(rate / alone);
            }
        }
    }
    let ratios = counts.iter().zip(ratios).filter_map(|(&count, ratios)| Some((count, Middle::of(ratios)?))).collect();
    Ok(Spread { place: place.name().to_owned(), ratios })
}

/// Among how many files: as many of these as the region has room for (half a KiB each, and half of it free).
const AMONG: [usize; 5] = [100, 1000, 10_000, 100_000, 1_000_000];

/// What an operation costs among few files and among many. Whoever is among many takes turns with one who is among few, in a
/// region of his own: what disturbs the machine disturbs both.
fn grow(ground: &Ground, options: &Options, growth: &Growth) -> Result<GrowthRow> {
    let arm = Arm { place: Place::Inner, task: growth.task, life: Life::Kept };
    let alone = Arm { place: Place::InnerSmall, ..arm };
    let begin =
        |arm: &Arm, operations| Worker::start(ground, arm, &Options { operations, ..options.clone() }, Run::Pinned);
    let cost = |worker: &mut Worker| worker.round(&arm).map(|sample| sample.own / sample.units);
    let size = ground.region()["size"].as_u64().unwrap_or(0) as usize;
    let mut few = begin(&alone, AMONG[0])?;
    let (mut costs, mut times) = (Vec::new(), Vec::new());
    for count in AMONG.into_iter().filter(|count| count * 1024 <= size) {
        let mut many = begin(&arm, count)?;
        let (mut samples, mut ratios) = (Vec::new(), Vec::new());
        for round in 0..=options.rounds {
            let (least, here) = match round % 2 {
                0 => {
                    let least = cost(&mut few)?;
                    (least, cost(&mut many)?)
                }
                _ => {
                    let here = cost(&mut many)?;
                    (cost(&mut few)?, here)
                }
            };
            if round > 0 {
                samples.push(here);
                ratios.push(here / least);
            }
        }
        costs.extend(Middle::of(samples).map(|middle| (count, middle)));
        times.extend(Middle::of(ratios).map(|middle| (count, middle.median)));
    }
    Ok(GrowthRow::new(growth, costs, times))
}

/// A round of all at once: how many units in a nanosecond.
fn together(workers: &mut [Worker], arm: &Arm) -> Result<f64> {
    for worker in workers.iter_mut() {
        worker.begin()?;
    }
    let samples = workers.iter_mut().map(|worker| worker.end(arm)).collect::<Result<Vec<_>>>()?;
    Ok(samples.iter().map(|sample| sample.units / sample.wall).sum())
}

/// Asks all questions; `progress` is told how many of how many are answered, and which one is next.
pub fn run(ground: &Ground, options: &Options, progress: &mut dyn FnMut(usize, usize, &str)) -> Result<Report> {
    let can_be_measured = |measure: &&Measure| ground.refusal(measure.ours.place).is_none();
    let wanted = MEASURES.iter().filter(|measure| options.wants(measure.name));
    let wanted: Vec<&Measure> = wanted.filter(can_be_measured).collect();
    let scalings: Vec<&Scaling> = SCALINGS.iter().filter(|scaling| options.wants(scaling.name)).collect();
    let growths: Vec<&Growth> = GROWTHS.iter().filter(|growth| options.wants(growth.name)).collect();
    let compares = options.wants(schemes::NAME);
    let all = wanted.len() + scalings.len() + growths.len() + usize::from(compares);
    let mut report = Report::about(ground, options);
    for (index, measure) in wanted.iter().enumerate() {
        progress(index, all, measure.name);
        report.rows.push(answer(ground, options, measure)?);
    }
    for (index, scaling) in scalings.iter().enumerate() {
        progress(wanted.len() + index, all, scaling.name);
        let [ours, theirs] = [Place::Mount, Place::Tmpfs].map(|place| scale(ground, options, scaling, place));
        report.scalings.push(ScalingRow::new(scaling, ours?, theirs?));
    }
    for (index, growth) in growths.iter().enumerate() {
        progress(wanted.len() + scalings.len() + index, all, growth.name);
        report.growths.push(grow(ground, options, growth)?);
    }
    if compares {
        progress(all - 1, all, schemes::NAME);
        report.descriptors = compare_schemes(ground, options)?;
    }
    progress(all, all, "");
    Ok(report)
}

/// A round of each arm after the other, again and again.
fn take_turns(ground: &Ground, options: &Options, arms: impl Iterator<Item = Arm>) -> Result<Vec<Turn>> {
    let mut turns: Vec<Turn> = Vec::new();
    for arm in arms {
        if ground.refusal(arm.place).is_none() && turns.iter().all(|turn| turn.arm != arm) {
            turns.push(Turn { arm, worker: None, samples: Vec::new() });
        }
    }
    let count = turns.len();
    for round in 0..=options.rounds {
        // Nobody is always first.
        for place in 0..count {
            let turn = &mut turns[(place + round) % count];
            let sample = turn.round(ground, options)?;
            if round > 0 {
                turn.samples.push(sample);
            }
        }
    }
    Ok(turns)
}

fn samples(turns: &[Turn], arm: Arm) -> Option<&[Sample]> {
    turns.iter().find(|turn| turn.arm == arm).map(|turn| turn.samples.as_slice())
}

fn cost(sample: &Sample) -> f64 {
    sample.own / sample.units
}

fn figure(samples: &[Sample]) -> Figure {
    Figure {
        own: Middle::of(samples.iter().map(cost).collect()),
        wall: Middle::of(samples.iter().map(|sample| sample.wall / sample.units).collect()),
    }
}

/// How many times as fast ours is, in the same rounds.
fn times(ours: &[Sample], theirs: &[Sample]) -> Option<Middle> {
    Middle::of(ours.iter().zip(theirs).map(|(ours, theirs)| cost(theirs) / cost(ours)).collect())
}

/// All ways to have a descriptor, and tmpfs.
fn compare_schemes(ground: &Ground, options: &Options) -> Result<Vec<SchemeRow>> {
    let arms = SCHEMES.iter().map(Scheme::arm).chain([schemes::TMPFS]);
    let turns = take_turns(ground, options, arms)?;
    let of = |arm| samples(&turns, arm).unwrap_or_default();
    let tmpfs = of(schemes::TMPFS);
    let row = |scheme: &Scheme| {
        let ours = of(scheme.arm());
        SchemeRow::new(scheme, figure(ours), figure(tmpfs), times(ours, tmpfs))
    };
    Ok(SCHEMES.iter().map(row).collect())
}

fn answer(ground: &Ground, options: &Options, measure: &Measure) -> Result<Row> {
    let turns = take_turns(ground, options, measure.arms())?;
    Ok(row(ground, measure, &turns))
}

fn row(ground: &Ground, measure: &Measure, turns: &[Turn]) -> Row {
    let ours = samples(turns, measure.ours).unwrap_or_default();
    let compare = |goal: &Goal| {
        let theirs = goal
            .peer()
            .map(|arm| samples(turns, arm).ok_or_else(|| ground.refusal(arm.place).unwrap_or("not measured")));
        let (theirs, missing) = match theirs {
            None => (&[][..], None),
            Some(Ok(samples)) => (samples, None),
            Some(Err(why)) => (&[][..], Some(why.to_owned())),
        };
        let result = match goal {
            Goal::Times(..) | Goal::Beside(_) => times(ours, theirs),
            Goal::More(..) => {
                Middle::of(ours.iter().zip(theirs).map(|(ours, theirs)| cost(ours) - cost(theirs)).collect())
            }
            Goal::AtMost(..) => Middle::of(ours.iter().map(cost).collect()),
        };
        Comparison::new(goal, figure(theirs), result, missing)
    };
    Row {
        name: measure.name.to_owned(),
        what: measure.what.to_owned(),
        unit: measure.unit,
        place: measure.ours.place.name().to_owned(),
        ours: figure(ours),
        comparisons: measure.goals.iter().map(compare).collect(),
    }
}
