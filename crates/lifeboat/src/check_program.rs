//! `lifeboat check-program`: which of a program's file calls would be served by interception.
//!
//! What is served is read from the interception library itself ([`elf`]); [`calls`] knows what else of libc reaches files;
//! [`search`] finds the libraries of the program; [`raw`] looks for system calls in machine code.

mod calls;
mod elf;
mod raw;
mod report;
mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;

use self::calls::Weight;
use self::elf::Image;
use self::report::{Missed, Report, Verdict};
use crate::exec::find_library;
use crate::failure::{Failure, MISSED, NEEDS_FUSE, shown};
use crate::program;

/// `check-program`.
#[derive(Args, Debug)]
pub struct CheckProgramArguments {
    /// The program, or a shared library that a program loads while it runs
    #[arg(value_name = "BINARY")]
    pub binary: OsString,
    /// Also list the calls that are served and the libraries
    #[arg(short, long)]
    pub verbose: bool,
    /// Report as JSON
    #[arg(long)]
    pub json: bool,
}

/// Parts of libc itself: their calls among each other cannot be intercepted and need not be, because programs enter
/// through functions that can.
const LIBC: &[&str] = &[
    "libc.so.",
    "ld-linux",
    "libpthread.so.",
    "libdl.so.",
    "librt.so.",
    "libm.so.",
    "libresolv.so.",
    "libutil.so.",
    "libanl.so.",
];

/// Name of the library by which glibc is known.
const GLIBC: &str = "libc.so.6";

/// Runs `lifeboat check-program`.
pub fn run(arguments: &CheckProgramArguments) -> Result<(), Failure> {
    let binary = &arguments.binary;
    let path = program::find(binary).unwrap_or_else(|| PathBuf::from(binary));
    let cannot = |why: elf::ReadError| {
        Failure::operation(format_args!("cannot check {}: {why}", shown(path.as_os_str().as_bytes())))
    };
    let image = elf::read(&path).map_err(cannot)?;
    let library = find_library()?;
    let hooks = elf::read(&library).map_err(|why| {
        let library = shown(library.as_os_str().as_bytes());
        Failure::operation(format_args!("cannot read the interception library {library}: {why}"))
    })?;
    let report = examine(image, &hooks);
    if arguments.json {
        crate::output::json(&report)?;
    } else {
        report.print(arguments.verbose)?;
    }
    let code = match report.verdict {
        Verdict::Served => return Ok(()),
        Verdict::Partly => MISSED,
        Verdict::NeedsFuse => NEEDS_FUSE,
    };
    Err(Failure { code, line: String::new() })
}

/// Why the interception library would not be loaded, or could do nothing.
fn reasons_against(image: &Image, hooks: &Image) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut because = |text: String| reasons.push(text);
    if image.machine[0] != hooks.machine[0] {
        because("it is a 32-bit program, and the interception library is not".into());
    } else if image.machine != hooks.machine {
        because("it is for another kind of processor".into());
    } else if image.is_program && image.interpreter.is_none() {
        because("it is linked statically: there is no dynamic linker that could load the interception library".into());
    }
    if let Some(interpreter) = &image.interpreter {
        let name = interpreter.rsplit('/').next().unwrap_or_default();
        if name.starts_with("ld-musl") {
            because("its C library is musl, and the interception library is made for glibc".into());
        } else if !name.starts_with("ld-linux") && !name.starts_with("ld64.so") {
            because(format!("its dynamic linker is {interpreter}, not that of glibc"));
        }
    }
    if image.is_go {
        because("it is written in Go, whose run-time makes its system calls itself".into());
    }
    let special = match image.mode & 0o6000 {
        0 => None,
        0o4000 => Some("another user (set-uid)"),
        0o2000 => Some("another group (set-gid)"),
        _ => Some("another user and group (set-uid, set-gid)"),
    };
    if let Some(special) = special.filter(|_| image.is_program) {
        because(format!("it runs as {special}: the dynamic linker then loads no library that its caller names"));
    }
    if image.has_capabilities && image.is_program {
        because("it has file capabilities: the dynamic linker then loads no library that its caller names".into());
    }
    reasons
}

fn examine(image: Image, hooks: &Image) -> Report {
    let needs_fuse = reasons_against(&image, hooks);
    // The libraries of a program for another machine are not those of this machine's dynamic linker.
    let loaded = match image.machine == hooks.machine {
        true => search::load(image),
        false => search::Loaded { images: vec![image], missing: BTreeMap::new() },
    };
    let own: Vec<&Image> = loaded.images.iter().filter(|image| !is_of_libc(image)).collect();
    let mut missed = missed_functions(&own, hooks);
    missed.extend(raw_calls(&own));
    missed.extend(own_definitions(&loaded.images[0], hooks));
    missed.sort_by_key(|group| (group.weight != Weight::Fuse, group.weight == Weight::Seldom));
    let served = served_functions(&own, hooks);
    let matters = missed.iter().any(|group| group.weight != Weight::Seldom) || !loaded.missing.is_empty();
    let verdict = match (needs_fuse.is_empty(), matters) {
        (false, _) => Verdict::NeedsFuse,
        (true, true) => Verdict::Partly,
        (true, false) => Verdict::Served,
    };
    Report {
        program: shown(loaded.images[0].path.as_os_str().as_bytes()),
        verdict,
        needs_fuse,
        missed,
        cannot_be_seen: unseen(&own, &loaded),
        served,
        libraries: loaded.images[1..].iter().map(|image| shown(image.path.as_os_str().as_bytes())).collect(),
        libraries_not_found: loaded.missing,
        interception_library: shown(hooks.path.as_os_str().as_bytes()),
    }
}

fn is_of_libc(image: &Image) -> bool {
    let name = image.file_name();
    LIBC.iter().any(|part| name.starts_with(part))
}

/// Functions that the program or its libraries call and the interception library serves.
fn served_functions(own: &[&Image], hooks: &Image) -> BTreeSet<String> {
    let refused = calls::GROUPS.iter().filter(|group| group.weight == Weight::Fuse).flat_map(|group| group.functions);
    let refused: BTreeSet<&str> = refused.copied().collect();
    let called = own.iter().flat_map(|image| image.undefined.intersection(&hooks.defined));
    called.filter(|function| !refused.contains(function.as_str())).cloned().collect()
}

/// Functions that the program or its libraries call and the interception library lacks.
fn missed_functions(own: &[&Image], hooks: &Image) -> Vec<Missed> {
    let mut missed = Vec::new();
    for group in calls::GROUPS {
        let mut calls: BTreeMap<String, Vec<String>> = BTreeMap::new();
        // What only the kernel can do is defined in the interception library to be refused.
        let is_missed = |function: &&&str| group.weight == Weight::Fuse || !hooks.defined.contains(**function);
        for function in group.functions.iter().filter(is_missed) {
            let users = users_of(own, function);
            if !users.is_empty() {
                calls.insert(function.to_string(), users);
            }
        }
        if !calls.is_empty() {
            missed.push(Missed { why: group.what.into(), weight: group.weight, calls });
        }
    }
    missed
}

/// Names of the files that call a function.
fn users_of(own: &[&Image], function: &str) -> Vec<String> {
    own.iter().filter(|image| image.undefined.contains(function)).map(|image| image.file_name()).collect()
}

/// File calls in machine code of the program and its libraries.
fn raw_calls(own: &[&Image]) -> Option<Missed> {
    let mut calls: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for image in own {
        for call in &image.raw_calls {
            calls.entry(call.to_string()).or_default().push(image.file_name());
        }
    }
    let why = "machine code that seems to make the system call itself".into();
    (!calls.is_empty()).then_some(Missed { why, weight: Weight::Fuse, calls })
}

/// Functions that the program defines for itself: the dynamic linker finds them before those of any library.
fn own_definitions(program: &Image, hooks: &Image) -> Option<Missed> {
    if !program.is_program {
        return None;
    }
    let own = program.defined.intersection(&hooks.defined);
    let calls: BTreeMap<String, Vec<String>> = own.map(|name| (name.clone(), vec![program.file_name()])).collect();
    let why = "the program has a function of its own in its place".into();
    (!calls.is_empty()).then_some(Missed { why, weight: Weight::Missed, calls })
}

/// What no look at files can tell.
fn unseen(own: &[&Image], loaded: &search::Loaded) -> Vec<String> {
    let mut unseen = Vec::new();
    let loaders: BTreeSet<String> = calls::LOADERS.iter().flat_map(|function| users_of(own, function)).collect();
    if !loaders.is_empty() {
        let loaders: Vec<String> = loaders.into_iter().collect();
        unseen.push(format!(
            "libraries loaded while it runs (dlopen in {}): check those by themselves",
            loaders.join(", ")
        ));
    }
    let starters: &[&str] =
        &["execv", "execve", "execvp", "execl", "execlp", "posix_spawn", "posix_spawnp", "popen", "system"];
    if own.iter().any(|image| starters.iter().any(|function| image.undefined.contains(*function))) {
        unseen.push("programs that it starts: check those by themselves".into());
    }
    let uses_glibc = loaded.images.iter().any(|image| image.file_name() == GLIBC);
    if !uses_glibc && loaded.images[0].interpreter.is_some() && !loaded.missing.is_empty() {
        unseen.push("the calls of libraries that were not found".into());
    }
    unseen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_of_the_table_is_one_of_libc_or_of_the_libraries_for_asynchronous_calls() {
        let image = elf::read(&std::env::current_exe().unwrap()).unwrap();
        let loaded = search::load(image);
        let libc = loaded.images.iter().find(|image| image.file_name() == GLIBC).expect("tests are linked with glibc");
        for group in calls::GROUPS.iter().filter(|group| group.weight != Weight::Fuse) {
            for function in group.functions {
                assert!(libc.defined.contains(*function), "{function} is not in {}", libc.path.display());
            }
        }
    }
}
