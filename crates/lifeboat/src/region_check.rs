//! `lifeboat region check`: what is wrong with a region, and repairing what has one right answer.

use std::collections::HashMap;
use std::io::Write;

use lifeboat_fs::{CheckSummary, FileSystem, Finding, InodeId, Remedy};
use serde::Serialize;

use crate::arguments::CheckArguments;
use crate::failure::{Failure, reason, shown};
use crate::output::{json, out, say};
use crate::region_commands::is_in_use;
use crate::target::{attach, region_directory};

/// Names that are looked through for the paths of damaged files; a region may have more.
const NAMES_LARGEST: usize = 1 << 20;

#[derive(Serialize)]
struct CheckReport {
    name: String,
    clean: bool,
    inodes: u64,
    names: u64,
    /// Units of space that a killed process had left and that were freed.
    reclaimed: u64,
    /// What is wrong (after `--repair`: still wrong).
    findings: Vec<FindingReport>,
    /// What was repaired.
    repaired: Vec<FindingReport>,
}

#[derive(Serialize)]
struct FindingReport {
    kind: &'static str,
    inode: Option<u64>,
    /// One of the inode's names, without the mount.
    path: Option<String>,
    offset: Option<u64>,
    repairable: bool,
    remedy: &'static str,
    text: String,
}

/// Runs the command.
pub fn run(arguments: &CheckArguments) -> Result<(), Failure> {
    let directory = region_directory(arguments.region.name.as_ref(), &arguments.region.place)?;
    let name = directory.name().to_string();
    if arguments.repair && is_in_use(&directory) {
        return Err(Failure::operation(format_args!(
            "region `{name}` cannot be repaired while a living process uses it: end it first (`lifeboat region info`)"
        )));
    }
    let files = FileSystem::attach_to_check(attach(&directory)?);
    let (mut found, mut summary) = examine(&files, &name)?;
    let mut repaired = Vec::new();
    if arguments.repair && !found.is_empty() {
        lifeboat_fs::repair(&files, &mut |finding| repaired.push(finding)).map_err(|errno| {
            Failure::operation(format_args!("region `{name}` cannot be repaired: {}", reason(errno)))
        })?;
        (found, summary) = examine(&files, &name)?;
    }
    if summary.reclaimed > 0 {
        say(format_args!("freed {} units of space that a killed process had left", summary.reclaimed));
    }
    let paths = if found.is_empty() && repaired.is_empty() { HashMap::new() } else { paths_of(&files) };
    if arguments.region.json {
        let describe = |findings: &[Finding]| findings.iter().map(|finding| describe(finding, &paths)).collect();
        json(&CheckReport {
            name: name.clone(),
            clean: found.is_empty(),
            inodes: summary.inodes,
            names: summary.names,
            reclaimed: summary.reclaimed,
            findings: describe(&found),
            repaired: describe(&repaired),
        })?;
    } else {
        print(&name, &found, &repaired, &summary, &paths)?;
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(Failure::operation(if found.iter().all(Finding::is_repairable) {
        format!("region `{name}` is damaged: `lifeboat region check --repair {name}` mends it")
    } else {
        format!("region `{name}` is damaged: copy out what can be read (`lifeboat cp`), then remove it")
    }))
}

fn print(
    name: &str,
    found: &[Finding],
    repaired: &[Finding],
    summary: &CheckSummary,
    paths: &HashMap<u64, String>,
) -> Result<(), Failure> {
    let path = |finding: &Finding| {
        let path = finding.fault.inode().and_then(|inode| paths.get(&inode));
        path.map_or(String::new(), |path| format!(" ({})", shown(path.as_bytes())))
    };
    let mut out = out();
    for finding in repaired {
        writeln!(out, "repaired: {}{}", finding.fault, path(finding))?;
    }
    for finding in found {
        writeln!(out, "{finding}{}", path(finding))?;
    }
    if found.is_empty() {
        writeln!(
            out,
            "region `{name}` is clean: {} inodes, {} names, {} units of space in use",
            summary.inodes, summary.names, summary.units
        )?;
    }
    Ok(out.flush()?)
}

fn examine(files: &FileSystem, name: &str) -> Result<(Vec<Finding>, CheckSummary), Failure> {
    let mut found = Vec::new();
    let summary = lifeboat_fs::check(files, &mut |finding| found.push(finding))
        .map_err(|errno| Failure::operation(format_args!("region `{name}` cannot be checked: {}", reason(errno))))?;
    Ok((found, summary))
}

fn describe(finding: &Finding, paths: &HashMap<u64, String>) -> FindingReport {
    let inode = finding.fault.inode();
    FindingReport {
        kind: finding.fault.kind(),
        inode,
        path: inode.and_then(|inode| paths.get(&inode).cloned()),
        offset: finding.fault.offset(),
        repairable: finding.remedy != Remedy::None,
        remedy: finding.remedy.kind(),
        text: finding.fault.to_string(),
    }
}

/// A path for every inode that can be reached, as far as the directories can be read.
fn paths_of(files: &FileSystem) -> HashMap<u64, String> {
    const DIRECTORY: u8 = 4;
    let mut paths = HashMap::from([(files.root().number(), "/".to_string())]);
    let mut waiting: Vec<(InodeId, String)> = vec![(files.root(), String::new())];
    let caller = lifeboat_fs::Caller { uid: 0, gid: 0, groups: &[], umask: 0, checked: true };
    while let Some((dir, above)) = waiting.pop() {
        // Past `.` and `..`.
        let mut cookie = 2;
        while let Ok(Some(entry)) = files.read_directory(dir, cookie) {
            cookie = entry.next;
            let path = format!("{above}/{}", String::from_utf8_lossy(entry.name()));
            if paths.len() > NAMES_LARGEST || paths.contains_key(&entry.inode) {
                continue;
            }
            if entry.kind == DIRECTORY
                && let Ok(below) = files.resolve(&caller, dir, entry.name(), lifeboat_fs::LastLink::Keep)
            {
                waiting.push((below, path.clone()));
            }
            paths.insert(entry.inode, path);
        }
    }
    paths
}
