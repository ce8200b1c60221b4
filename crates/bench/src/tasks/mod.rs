//! The work that is measured, each kind with what it needs in place before the clock runs.

mod bulk;
mod inner;
mod names;
mod outside;
mod placeholders;
mod small;
mod steps;

use crate::calls::{own_time, wall_time};
use std::ffi::CString;
use std::io::{Error, Result};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where and how much.
#[derive(Clone, Debug)]
pub struct Site {
    /// An empty folder for this worker alone.
    pub folder: PathBuf,
    /// A folder that workers of the same place have in common.
    pub shared: PathBuf,
    /// Bytes that one round of bulk work moves; a multiple of 2 MiB.
    pub bytes: usize,
    /// Operations of one round of small work.
    pub operations: usize,
}

/// What one round took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Nanoseconds of the worker's CPU time.
    pub own: f64,
    /// Nanoseconds that passed.
    pub wall: f64,
    /// Bytes, or operations.
    pub units: f64,
}

/// Something that can be done again and again.
pub trait Work {
    /// Does it once; only what has to be measured is on the clock.
    fn round(&mut self) -> Result<Sample>;
}

/// Makes the work ready.
pub type Begin = fn(&Site) -> Result<Box<dyn Work>>;

/// All kinds by name.
pub const TASKS: &[(&str, Begin)] = &[
    ("write-new-1m", |site| bulk::Write::begin(site, 1 << 20, bulk::File::New)),
    ("write-over-1m", |site| bulk::Write::begin(site, 1 << 20, bulk::File::Old)),
    ("write-new-4k", |site| bulk::Write::begin(site, 4096, bulk::File::New)),
    ("write-over-4k", |site| bulk::Write::begin(site, 4096, bulk::File::Old)),
    ("read-1m", |site| bulk::Read::begin(site, bulk::Into::Cold)),
    ("read-again-1m", |site| bulk::Read::begin(site, bulk::Into::Again)),
    ("copy", |site| outside::Copy::begin(site, outside::Sum::Without)),
    ("copy-checksum", |site| outside::Copy::begin(site, outside::Sum::With)),
    ("pwrite-64", small::Inside::begin),
    ("append-64", |site| small::Growing::begin(site, 0)),
    ("append-64-o-append", |site| small::Growing::begin(site, libc::O_APPEND)),
    ("steps-64", |site| steps::Steps::begin(site, steps::Kind::Inside)),
    ("steps-append-64", |site| steps::Steps::begin(site, steps::Kind::Appending)),
    ("steps-create", |site| steps::Changes::begin(site, steps::Change::CREATE)),
    ("steps-unlink", |site| steps::Changes::begin(site, steps::Change::UNLINK)),
    ("create", |site| names::Names::begin(site, names::Measured::Create)),
    ("create-unlink", |site| names::Names::begin(site, names::Measured::CreateUnlink)),
    ("create-unlink-shared", |site| names::Names::begin_shared(site, names::Measured::CreateUnlink)),
    ("stat", |site| names::Names::begin(site, names::Measured::Stat)),
    ("unlink", |site| names::Names::begin(site, names::Measured::Unlink)),
    ("open-close", |site| names::Names::begin(site, names::Measured::Open)),
    ("create-write-64k", |site| names::Names::begin(site, names::Measured::Fill(64 << 10))),
    ("inner-create", |site| inner::Names::begin(site, inner::Measured::Create)),
    ("inner-stat", |site| inner::Names::begin(site, inner::Measured::Stat)),
    ("inner-unlink", |site| inner::Names::begin(site, inner::Measured::Unlink)),
    ("inner-among-create", |site| inner::Names::begin_among(site, inner::Measured::Create)),
    ("inner-among-stat", |site| inner::Names::begin_among(site, inner::Measured::Stat)),
    ("inner-among-unlink", |site| inner::Names::begin_among(site, inner::Measured::Unlink)),
    ("inner-share-1m", |site| inner::Share::begin(site, 1 << 20)),
    ("inner-share-4k", |site| inner::Share::begin(site, 4096)),
    ("foreign", outside::Foreign::begin),
    ("start", outside::Start::begin),
    ("placeholder-tag", |site| placeholders::Placeholders::begin(site, placeholders::Kind::Tag)),
    ("placeholder-kept", |site| placeholders::Placeholders::begin(site, placeholders::Kind::Kept)),
    ("placeholder-memfd", |site| placeholders::Placeholders::begin(site, placeholders::Kind::Memfd)),
    ("placeholder-path", |site| placeholders::Placeholders::begin(site, placeholders::Kind::Path)),
    ("placeholder-common", |site| placeholders::Placeholders::begin(site, placeholders::Kind::Common)),
    ("placeholder-number", |site| placeholders::Placeholders::begin(site, placeholders::Kind::Number)),
];

/// The kind of this name.
pub fn find(name: &str) -> Option<Begin> {
    TASKS.iter().find(|(known, _)| *known == name).map(|&(_, begin)| begin)
}

/// Runs `body` on the clock.
fn timed(units: usize, body: impl FnOnce() -> Result<()>) -> Result<Sample> {
    let (own, wall) = (own_time(), wall_time());
    body()?;
    Ok(Sample { own: own_time() - own, wall: wall_time() - wall, units: units as f64 })
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(Error::other)
}

/// As many paths as a round has operations, in a folder two below this one. No other worker has the same names.
fn paths(folder: &Path, operations: usize) -> Result<Vec<CString>> {
    let (folder, own) = (folder.join("one/two"), std::process::id());
    std::fs::create_dir_all(&folder)?;
    (0..operations).map(|index| c_path(&folder.join(format!("file{own}-{index:06}")))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_kinds_of_work_have_one_name() {
        for (index, (name, _)) in TASKS.iter().enumerate() {
            assert!(TASKS[..index].iter().all(|(other, _)| other != name), "{name}");
        }
        assert!(find("write-new-1m").is_some() && find("").is_none());
    }
}
