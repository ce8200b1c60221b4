//! `lifeboat seal` and `lifeboat verify`.

use std::ffi::OsString;
use std::io::Write;

use lifeboat_fs::{Errno, InodeId, LastLink};
use serde::Serialize;

use super::{Failures, Files, REGULAR, TYPE};
use crate::arguments::{PathsArguments, VerifyArguments};
use crate::failure::{Failure, shown};
use crate::output::{json, out};

/// How well the blocks (64 KiB each) of a file are protected.
#[derive(Serialize)]
struct Protection {
    path: String,
    sealed: bool,
    /// Blocks whose checksum was made while the program's bytes were copied in.
    end_to_end: u64,
    /// Blocks whose checksum was made when the file was sealed.
    as_of_seal: u64,
    /// Blocks without a checksum: written at random and not sealed since.
    unprotected: u64,
    /// Blocks that nobody wrote.
    holes: u64,
    /// Blocks whose bytes do not match their checksum.
    bad: u64,
    /// First byte of the first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_bad: Option<u64>,
}

/// Runs `lifeboat seal`.
pub fn seal(arguments: &PathsArguments) -> Result<(), Failure> {
    let files = Files::open(&arguments.files)?;
    let mut failures = Failures::default();
    let mut done = Vec::new();
    for argument in &arguments.paths {
        let path = files.inner(argument);
        done.extend(failures.check(seal_one(&files, &path))?);
    }
    print(&done, "sealed", arguments.json)?;
    failures.end()
}

fn seal_one(files: &Files, path: &[u8]) -> Result<Protection, Failure> {
    let (inode, stat) = files.find(path, LastLink::Follow, "seal")?;
    if stat.mode & TYPE != REGULAR {
        return Err(Failure::operation(format_args!("cannot seal {}: it is not a regular file", shown(path))));
    }
    let report = files.fs.seal(&files.who(), inode).map_err(|errno| match errno {
        Errno::BUSY => Failure::operation(format_args!(
            "cannot seal {}: a program has it open for writing; close it there first",
            shown(path)
        )),
        errno => Failure::on_path("seal", path, errno),
    })?;
    Ok(Protection {
        path: String::from_utf8_lossy(path).into_owned(),
        sealed: true,
        end_to_end: report.end_to_end,
        as_of_seal: report.as_of_seal,
        unprotected: 0,
        holes: report.holes,
        bad: 0,
        first_bad: None,
    })
}

/// Runs `lifeboat verify`.
pub fn verify(arguments: &VerifyArguments) -> Result<(), Failure> {
    let files = Files::open(&arguments.paths.files)?;
    let all = [OsString::from("/")];
    let paths = if arguments.paths.paths.is_empty() { &all[..] } else { &arguments.paths.paths };
    let mut failures = Failures::default();
    let mut done = Vec::new();
    for argument in paths {
        let path = files.inner(argument);
        let Some((inode, stat)) = failures.check(files.find(&path, LastLink::Follow, "verify"))? else { continue };
        files.walk(&path, inode, stat, &mut |path, found| {
            let step = match found {
                Ok((_, stat)) if stat.mode & TYPE != REGULAR => return Ok(()),
                Ok((inode, _)) => verify_one(&files, path, inode),
                Err(errno) => Err(Failure::on_path("read", path, errno)),
            };
            done.extend(failures.check(step)?);
            Ok(())
        })?;
    }
    print(&done, "verified", arguments.paths.json)?;
    let damaged = done.iter().filter(|file| file.bad > 0).count();
    if damaged > 0 {
        let step: Result<(), _> = Err(Failure::operation(format_args!(
            "{damaged} of {} files do not match their checksums: go back to an older version of them",
            done.len()
        )));
        failures.check(step)?;
    }
    failures.end()
}

fn verify_one(files: &Files, path: &[u8], inode: InodeId) -> Result<Protection, Failure> {
    let report = files.fs.verify(inode).map_err(|errno| Failure::on_path("verify", path, errno))?;
    Ok(Protection {
        path: String::from_utf8_lossy(path).into_owned(),
        sealed: report.sealed,
        end_to_end: report.end_to_end,
        as_of_seal: report.as_of_seal,
        unprotected: report.unknown,
        holes: report.holes,
        bad: report.bad,
        first_bad: report.first_bad,
    })
}

fn print(done: &[Protection], verb: &str, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return json(&done);
    }
    let mut out = out();
    for file in done {
        if let Some(first) = file.first_bad {
            writeln!(out, "DAMAGED {}: {} blocks do not match, the first at byte {first}", file.path, file.bad)?;
            continue;
        }
        write!(out, "{verb} {}: {} blocks end to end, {} as of seal", file.path, file.end_to_end, file.as_of_seal)?;
        for (count, what) in [(file.holes, "holes"), (file.unprotected, "without checksum")] {
            if count > 0 {
                write!(out, ", {count} {what}")?;
            }
        }
        writeln!(out, "{}", if file.sealed { "" } else { " (not sealed)" })?;
    }
    Ok(out.flush()?)
}
