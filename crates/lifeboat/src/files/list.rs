//! `lifeboat ls` and `lifeboat stat`.

use std::ffi::OsString;
use std::io::Write;

use lifeboat_fs::{InodeId, LastLink, Stat};
use serde::Serialize;

use super::{Entry, Failures, Files, LINK, is_directory};
use crate::arguments::{LsArguments, PathsArguments};
use crate::failure::Failure;
use crate::output::{Out, json, kind, mode, out, table, time};

/// A file's attributes for JSON. Times are nanoseconds since 1970.
#[derive(Serialize)]
struct FileReport {
    path: String,
    /// The name's bytes in hexadecimal where it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    kind: &'static str,
    inode: u64,
    mode: String,
    links: u32,
    uid: u32,
    gid: u32,
    size: u64,
    allocated: u64,
    device: u64,
    accessed: i64,
    modified: i64,
    changed: i64,
    born: i64,
    sealed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl FileReport {
    fn new(path: &[u8], stat: &Stat, target: Option<Vec<u8>>) -> FileReport {
        let hexadecimal = || path.iter().map(|byte| format!("{byte:02x}")).collect();
        FileReport {
            path: String::from_utf8_lossy(path).into_owned(),
            path_hex: std::str::from_utf8(path).is_err().then(hexadecimal),
            kind: kind(stat.mode),
            inode: stat.number,
            mode: format!("{:04o}", stat.mode & 0o7777),
            links: stat.links,
            uid: stat.uid,
            gid: stat.gid,
            size: stat.size,
            allocated: stat.blocks * 512,
            device: stat.device,
            accessed: stat.accessed,
            modified: stat.modified,
            changed: stat.changed,
            born: stat.born,
            sealed: stat.sealed,
            target: target.map(|target| String::from_utf8_lossy(&target).into_owned()),
        }
    }
}

/// Runs `lifeboat ls`.
pub fn ls(arguments: &LsArguments) -> Result<(), Failure> {
    let files = Files::open(&arguments.paths.files)?;
    let all = [OsString::from("/")];
    let paths = if arguments.paths.paths.is_empty() { &all[..] } else { &arguments.paths.paths };
    let mut failures = Failures::default();
    let mut reports = Vec::new();
    let mut out = out();
    for (index, argument) in paths.iter().enumerate() {
        let path = files.inner(argument);
        let Some(listing) = failures.check(list(&files, &path, arguments.directory))? else { continue };
        if arguments.paths.json {
            reports.extend(listing.entries.iter().map(|entry| {
                let path = if listing.of_directory { super::join(&path, &entry.name) } else { path.clone() };
                FileReport::new(&path, &entry.stat, target_of(&files, entry.inode, &entry.stat))
            }));
            continue;
        }
        if paths.len() > 1 && listing.of_directory {
            let gap = if index > 0 { "\n" } else { "" };
            writeln!(out, "{gap}{}:", argument.to_string_lossy())?;
        }
        print(&files, &mut out, &listing.entries, arguments.long)?;
    }
    if arguments.paths.json {
        json(&reports)?;
    }
    out.flush()?;
    failures.end()
}

struct Listing {
    entries: Vec<Entry>,
    of_directory: bool,
}

fn list(files: &Files, path: &[u8], directory_itself: bool) -> Result<Listing, Failure> {
    let (inode, stat) = files.find(path, LastLink::Keep, "list")?;
    if is_directory(&stat) && !directory_itself {
        let entries = files.entries(inode).map_err(|errno| Failure::on_path("list", path, errno))?;
        return Ok(Listing { entries, of_directory: true });
    }
    Ok(Listing { entries: vec![Entry { name: path.to_vec(), inode, stat }], of_directory: false })
}

fn target_of(files: &Files, inode: InodeId, stat: &Stat) -> Option<Vec<u8>> {
    (stat.mode & super::TYPE == LINK).then(|| files.link_target(inode).unwrap_or_default())
}

fn print(files: &Files, out: &mut Out, entries: &[Entry], long: bool) -> Result<(), Failure> {
    if !long {
        for entry in entries {
            out.write_all(&entry.name)?;
            out.write_all(b"\n")?;
        }
        return Ok(());
    }
    let width =
        |of: &dyn Fn(&Stat) -> u64| entries.iter().map(|entry| of(&entry.stat).to_string().len()).max().unwrap_or(0);
    let links = width(&|stat| stat.links.into());
    let uid = width(&|stat| stat.uid.into());
    let gid = width(&|stat| stat.gid.into());
    let size = width(&|stat| stat.size);
    for Entry { name, inode, stat } in entries {
        write!(
            out,
            "{} {:links$} {:uid$} {:gid$} {:size$} {} ",
            mode(stat.mode),
            stat.links,
            stat.uid,
            stat.gid,
            stat.size,
            time(stat.modified)
        )?;
        out.write_all(name)?;
        if let Some(target) = target_of(files, *inode, stat) {
            out.write_all(b" -> ")?;
            out.write_all(&target)?;
        }
        writeln!(out, "{}", if stat.sealed { " [sealed]" } else { "" })?;
    }
    Ok(())
}

/// Runs `lifeboat stat`.
pub fn stat(arguments: &PathsArguments) -> Result<(), Failure> {
    let files = Files::open(&arguments.files)?;
    let mut failures = Failures::default();
    let mut reports = Vec::new();
    for argument in &arguments.paths {
        let path = files.inner(argument);
        if let Some((inode, stat)) = failures.check(files.find(&path, LastLink::Keep, "examine"))? {
            reports.push(FileReport::new(&path, &stat, target_of(&files, inode, &stat)));
        }
    }
    if arguments.json {
        json(&reports)?;
        return failures.end();
    }
    let mut out = out();
    for (index, report) in reports.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        let target = report.target.as_ref().map(|target| format!(" -> {target}")).unwrap_or_default();
        let rows = [
            ("path", format!("{}{target}", report.path)),
            ("kind", format!("{}{}", report.kind, if report.sealed { ", sealed" } else { "" })),
            ("size", format!("{} bytes, {} allocated", report.size, report.allocated)),
            ("inode", format!("{}, {} links", report.inode, report.links)),
            ("mode", format!("{}, user {}, group {}", report.mode, report.uid, report.gid)),
            ("accessed", time(report.accessed)),
            ("modified", time(report.modified)),
            ("changed", time(report.changed)),
            ("created", time(report.born)),
        ];
        let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_string(), value]).collect();
        table(&mut out, &rows)?;
    }
    out.flush()?;
    failures.end()
}
