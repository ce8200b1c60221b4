//! `lifeboat du` and `lifeboat df`.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io::Write;

use lifeboat_fs::LastLink;
use serde::Serialize;

use super::{Failures, Files, is_directory};
use crate::arguments::{DfArguments, DuArguments};
use crate::failure::Failure;
use crate::output::{json, out, size, table};

#[derive(Serialize)]
struct Space {
    path: String,
    /// Allocated bytes of this and everything below it; a file with several names counts once.
    allocated: u64,
    /// Sum of the sizes.
    apparent: u64,
    files: u64,
}

/// Runs `lifeboat du`.
pub fn du(arguments: &DuArguments) -> Result<(), Failure> {
    let files = Files::open(&arguments.paths.files)?;
    let all = [OsString::from("/")];
    let paths = if arguments.paths.paths.is_empty() { &all[..] } else { &arguments.paths.paths };
    let mut failures = Failures::default();
    let mut counted = HashSet::new();
    let mut sums = Vec::new();
    for argument in paths {
        let path = files.inner(argument);
        let Some(start) = failures.check(files.find(&path, LastLink::Keep, "examine"))? else { continue };
        sums.extend(sum(&files, &path, start, &mut counted, arguments.summarize, &mut failures)?);
    }
    if arguments.paths.json {
        json(&sums)?;
        return failures.end();
    }
    let rows: Vec<_> = sums.into_iter().map(|space| vec![size(space.allocated), space.path]).collect();
    let mut out = out();
    table(&mut out, &rows)?;
    out.flush()?;
    failures.end()
}

/// The space of every directory from the deepest up, and of `path` last.
fn sum(
    files: &Files,
    path: &[u8],
    (inode, stat): (lifeboat_fs::InodeId, lifeboat_fs::Stat),
    counted: &mut HashSet<u64>,
    only_sum: bool,
    failures: &mut Failures,
) -> Result<Vec<Space>, Failure> {
    let mut below: HashMap<Vec<u8>, (u64, u64, u64)> = HashMap::new();
    let mut sums = Vec::new();
    files.walk(path, inode, stat, &mut |at, found| {
        let step = found.map_err(|errno| Failure::on_path("read", at, errno));
        let Some((_, stat)) = failures.check(step)? else { return Ok(()) };
        let own = if counted.insert(stat.number) { (stat.blocks * 512, stat.size, 1) } else { (0, 0, 0) };
        let inner = below.remove(at).unwrap_or_default();
        let total = (own.0 + inner.0, own.1 + inner.1, own.2 + inner.2);
        if at == path || (is_directory(stat) && !only_sum) {
            let (allocated, apparent, files) = total;
            sums.push(Space { path: String::from_utf8_lossy(at).into_owned(), allocated, apparent, files });
        }
        if at != path {
            let slash = at.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
            let parent = if slash < path.len() { path } else { &at[..slash] };
            let sum = below.entry(parent.to_vec()).or_default();
            *sum = (sum.0 + total.0, sum.1 + total.1, sum.2 + total.2);
        }
        Ok(())
    })?;
    Ok(sums)
}

#[derive(Serialize)]
struct Fullness {
    region: String,
    mount: String,
    bytes_total: u64,
    bytes_used: u64,
    bytes_free: u64,
    inodes_used: u64,
    inodes_free: u64,
}

/// Runs `lifeboat df`.
pub fn df(arguments: &DfArguments) -> Result<(), Failure> {
    let files = Files::open(&arguments.files)?;
    let usage = files.fs.usage();
    let report = Fullness {
        region: String::from_utf8_lossy(files.fs.region().superblock().name()).into_owned(),
        mount: String::from_utf8_lossy(files.prefix.as_bytes()).into_owned(),
        bytes_total: usage.bytes_total,
        bytes_used: usage.bytes_total.saturating_sub(usage.bytes_free),
        bytes_free: usage.bytes_free,
        inodes_used: usage.inodes_used,
        inodes_free: usage.inodes_free,
    };
    if arguments.json {
        return json(&report);
    }
    let percent = (report.bytes_used as u128 * 100).div_ceil(report.bytes_total.max(1).into());
    let rows = [
        ["REGION", "SIZE", "USED", "FREE", "USE%", "FILES", "MOUNT"].map(String::from).to_vec(),
        vec![
            report.region,
            size(report.bytes_total),
            size(report.bytes_used),
            size(report.bytes_free),
            format!("{percent}%"),
            report.inodes_used.to_string(),
            report.mount,
        ],
    ];
    let mut out = out();
    table(&mut out, &rows)?;
    Ok(out.flush()?)
}
