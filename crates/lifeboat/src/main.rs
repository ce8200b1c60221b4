//! `lifeboat`: regions of memory with files in them, from the shell.
//!
//! The rooms: [`arguments`] (the one table of commands and flags), [`region_commands`], [`exec`], [`files`] (commands on
//! files), [`check_program`], [`bench`], and what they share: [`create`], [`keeper`] (the process that holds a region's memory),
//! [`target`] (which region is meant), [`mount`] (the prefix), [`mounting`] (showing it to the kernel), [`claims`] and
//! [`other_nodes`] (files that several nodes write), [`background`], [`size`], [`output`], [`failure`] (one line and an exit code).

mod arguments;
mod background;
mod bench;
mod check_program;
mod claims;
mod create;
mod crew;
mod documents;
mod exec;
mod failure;
mod files;
mod identity;
mod keeper;
mod mount;
mod mounting;
mod other_nodes;
mod output;
mod program;
mod region_check;
mod region_commands;
mod size;
mod target;
mod users;

use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use arguments::Command;
use failure::{Failure, OK};
use lifeboat_kernels::tuning;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::from(OK),
        Err(failure) => {
            if !failure.line.is_empty() {
                output::say(&failure.line);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn run() -> Result<(), Failure> {
    refuse_rights_of_its_own()?;
    limit_instructions()?;
    match &arguments::parse()?.command {
        Command::Region(command) => region_commands::run(command),
        Command::Exec(arguments) => exec::run(arguments),
        Command::Mount(arguments) => mounting::mount(arguments),
        Command::Unmount(arguments) => mounting::unmount(arguments),
        Command::ServeMount(arguments) => mounting::serve(arguments),
        Command::Ls(arguments) => files::ls(arguments),
        Command::Stat(arguments) => files::stat(arguments),
        Command::Cat(arguments) => files::cat(arguments),
        Command::Cp(arguments) => files::cp(arguments),
        Command::Rm(arguments) => files::rm(arguments),
        Command::Du(arguments) => files::du(arguments),
        Command::Df(arguments) => files::df(arguments),
        Command::Verify(arguments) => files::verify(arguments),
        Command::Seal(arguments) => files::seal(arguments),
        Command::CheckProgram(arguments) => check_program::run(arguments),
        Command::Bench(arguments) => bench::bench(arguments),
        Command::BenchWorker(arguments) => bench::worker(arguments),
        Command::Documents(arguments) => documents::run(arguments),
        Command::Keeper(arguments) => keeper::run(arguments),
        Command::KeepWord(arguments) => other_nodes::keep_word(arguments),
    }
}

/// Everything here trusts its caller's environment and works with the caller's files.
fn refuse_rights_of_its_own() -> Result<(), Failure> {
    if !lifeboat_region::process::has_rights_of_its_own() {
        return Ok(());
    }
    Err(Failure::operation(
        "lifeboat was started with more rights than its caller has (set-uid, set-gid or file capabilities): \
         it needs none; take them away",
    ))
}

/// As the environment says, once.
fn limit_instructions() -> Result<(), Failure> {
    let Some(value) = std::env::var_os(tuning::LEVEL_KEY) else { return Ok(()) };
    tuning::limit_level_to(value.as_bytes())
        .map_err(|error| Failure::usage(format_args!("{error}, not `{}`", failure::shown(value.as_bytes()))))
}
