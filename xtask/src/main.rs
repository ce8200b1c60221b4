//! The single door for developers: `cargo xtask test`, `cargo xtask demo`, `cargo xtask setup`.

mod bench;
mod checks;
mod confine;
mod demo;
mod failure;
mod flame;
mod fuzz;
mod huge_pages;
mod processes;
mod reliability;
mod report;
mod residue;
mod run;
mod steps;
mod suite;
mod tables;
mod test;
mod tools;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Tests, demonstration and set-up of Lifeboat")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check and test everything; installs what is missing first
    Test(test::Options),
    /// Kill real solvers in the middle of a checkpoint and show that nothing is lost
    Demo(demo::Options),
    /// Kill every operation at its instructions and write the table of it into docs/reliability.md
    Steps(steps::Options),
    /// Run all harnesses that try to break a region and write their tables into docs/reliability.md
    Reliability(reliability::Options),
    /// Measure what files below a mount cost, beside tmpfs and a disk
    Bench(bench::Options),
    /// Draw where the time of a write goes, sampled by perf
    Flame(flame::Options),
    /// Fuzz regions, calls, paths and configuration, guided by coverage
    Fuzz(fuzz::Options),
    /// Only install what tests and demonstration need
    Setup,
    /// Run a command as another user in a memory cgroup (used by the tests)
    #[command(hide = true)]
    Confined(confine::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Task::Confined(options) = arguments.task {
        return failure::exit_code(confine::execute(&options));
    }
    failure::exit_code(processes::prepare().and_then(|()| match arguments.task {
        Task::Test(options) => test::run(&options),
        Task::Demo(options) => demo::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Flame(options) => flame::run(&options),
        Task::Steps(options) => steps::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Reliability(options) => reliability::run(&options),
        Task::Setup => tools::prepare(&[tools::Purpose::Test, tools::Purpose::Demo]),
        Task::Confined(_) => Ok(()),
    }))
}
