//! `lifeboat bench`: what Lifeboat costs on this machine.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use lifeboat_bench::measure::Place as BenchPlace;
use lifeboat_bench::place::Wanted;
use lifeboat_bench::worker::{Job, serve};
use lifeboat_bench::{Ground, Options, names, plot, run};

use crate::arguments::{BenchArguments, BenchWorkerArguments};
use crate::failure::{Failure, io_reason, shown};
use crate::output;

const MIB: usize = 1 << 20;
/// Bytes of a region that has room for a million files, and as many again.
const A_MILLION_FILES: u64 = 1 << 30;
/// The word by which a worker is started.
const WORKER: &str = "bench-worker";

/// Runs `lifeboat bench`.
pub fn bench(arguments: &BenchArguments) -> Result<(), Failure> {
    let wrong = |error: std::io::Error| Failure::operation(format_args!("bench: {}", io_reason(&error)));
    let names: Vec<_> = names().collect();
    if let Some(part) = &arguments.only
        && names.iter().all(|name| !name.contains(part.as_str()))
    {
        return Err(Failure::usage(format_args!("no measure is called `{part}`: there are {}", names.join(", "))));
    }
    // Before the work: what cannot be written is told at once.
    let picture = arguments.plot.as_deref().map(|path| create("--plot", path)).transpose()?;
    let figures = arguments.save.as_deref().map(|path| create("--save", path)).transpose()?;
    let options = options(arguments);
    let wanted = Wanted {
        program: std::env::current_exe().map_err(wrong)?,
        worker: WORKER,
        size: size(&options, arguments.quick),
        disk: arguments.disk.clone(),
        small_pages: options.needs(BenchPlace::SmallPages),
        small_region: [BenchPlace::SmallRegion, BenchPlace::InnerSmall].into_iter().any(|place| options.needs(place)),
    };
    let ground = Ground::prepare(wanted).map_err(wrong)?;
    let bar = bar();
    let report = run(&ground, &options, &mut |done, all, name| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        bar.set_message(name.to_owned());
    })
    .map_err(wrong)?;
    bar.finish_and_clear();
    drop(ground);
    if let Some(picture) = picture {
        plot::draw(&report, picture).map_err(wrong)?;
    }
    if let Some(figures) = figures {
        serde_json::to_writer_pretty(figures, &report).map_err(|error| wrong(error.into()))?;
    }
    if arguments.json {
        return output::json(&report);
    }
    let mut out = output::out();
    writeln!(out, "{}\n{}", report.table(), report.verdict().trim_end())?;
    Ok(out.flush()?)
}

fn create(option: &str, path: &Path) -> Result<File, Failure> {
    File::create(path).map_err(|error| {
        Failure::usage(format_args!("{option} {}: {}", shown(path.as_os_str().as_bytes()), io_reason(&error)))
    })
}

/// For files as large as the source, a copy of each, and what else there is; and for a million small files.
fn size(options: &Options, quick: bool) -> u64 {
    let bulk = (options.bytes * 3 + 64 * MIB) as u64;
    let is_large = !quick && bulk * 16 < lifeboat_region::budget::available().bytes;
    if is_large { bulk.max(A_MILLION_FILES) } else { bulk }
}

/// As much memory as leaves room on this machine: five workers have a copy each, and files as large.
fn options(arguments: &BenchArguments) -> Options {
    let available = lifeboat_region::budget::available().bytes as usize;
    let most = if arguments.quick { 64 * MIB } else { 256 * MIB };
    let bytes = (available / 24).clamp(16 * MIB, most) / (2 * MIB) * (2 * MIB);
    let rounds = arguments.rounds.map_or(if arguments.quick { 5 } else { 15 }, usize::from);
    Options { rounds, bytes, operations: 2000, only: arguments.only.clone() }
}

fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{pos}/{len} {bar:30} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(names().count() as u64).with_style(style)
}

/// Runs `lifeboat bench-worker`.
pub fn worker(arguments: &BenchWorkerArguments) -> Result<(), Failure> {
    let job = Job {
        task: arguments.task.clone(),
        folder: PathBuf::from(&arguments.folder),
        bytes: arguments.bytes,
        operations: arguments.operations,
    };
    serve(&job).map_err(|error| Failure::operation(format_args!("bench-worker: {}", io_reason(&error))))
}
