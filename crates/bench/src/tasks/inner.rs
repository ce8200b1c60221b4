//! Names by the calls of the file system itself, without interception: what a program pays that is linked with it.

use super::{Sample, Site, Work, timed};
use lifeboat_fs::{Caller, FileSystem, LastLink, Position, UserSource};
use lifeboat_region::Region;
use lifeboat_region::layout::OWNER;
use lifeboat_region::space::{self, Class};
use std::env;
use std::io::{Error, Result};
use std::os::unix::ffi::OsStrExt;

/// What is on the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// Opening a new file, and closing it.
    Create,
    /// Finding a file and its attributes.
    Stat,
    /// Removing a name and its file.
    Unlink,
}

/// Files in one folder of the region that `LIFEBOAT_REGION` names.
pub struct Names {
    files: FileSystem,
    paths: Vec<Vec<u8>>,
    /// Files that are there all the time.
    others: Vec<Vec<u8>>,
    measured: Measured,
    who: Caller<'static>,
}

/// This process's user, held to permissions like everybody.
fn caller() -> Caller<'static> {
    // SAFETY: these calls cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    Caller { uid, gid, groups: &[], umask: 0o022, checked: false }
}

/// Operations of a round among many files.
const SOME: usize = 1000;

/// The region, and a folder of it for this process alone, as deep as those of the other places.
fn attach() -> Result<(FileSystem, String)> {
    let region = env::var_os("LIFEBOAT_REGION").ok_or_else(|| Error::other("LIFEBOAT_REGION is not set"))?;
    let region = Region::attach(region.as_bytes()).map_err(wrong)?;
    let files = FileSystem::attach(region, b"/bench").map_err(wrong)?;
    let mut folder = format!("/inner-{}", std::process::id());
    for name in ["", "/one", "/two"] {
        folder.push_str(name);
        files.mkdir(&caller(), files.root(), folder.as_bytes(), 0o755).map_err(wrong)?;
    }
    Ok((files, folder))
}

fn paths(folder: &str, name: &str, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|index| format!("{folder}/{name}{index:07}").into_bytes()).collect()
}

fn wrong(error: impl std::fmt::Display) -> Error {
    Error::other(format!("the region: {error}"))
}

impl Names {
    /// As many as a round has operations, alone in their folder.
    pub fn begin(site: &Site, measured: Measured) -> Result<Box<dyn Work>> {
        let (files, folder) = attach()?;
        let paths = paths(&folder, "file", site.operations);
        let names = Names { files, paths, others: Vec::new(), measured, who: caller() };
        if measured == Measured::Stat {
            names.create()?;
        }
        Ok(Box::new(names))
    }

    /// Some, among as many others as a round has operations elsewhere.
    pub fn begin_among(site: &Site, measured: Measured) -> Result<Box<dyn Work>> {
        let (files, folder) = attach()?;
        let others = paths(&folder, "other", site.operations);
        let mut names = Names { files, paths: others, others: Vec::new(), measured, who: caller() };
        names.create()?;
        names.others = std::mem::take(&mut names.paths);
        names.paths = match measured {
            // Of those that are there, in an order that has nothing to do with theirs.
            Measured::Stat => (0..SOME).map(|index| names.others[index * 7919 % names.others.len()].clone()).collect(),
            _ => paths(&folder, "file", SOME),
        };
        Ok(Box::new(names))
    }

    fn create(&self) -> Result<()> {
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
        for path in &self.paths {
            let file = self.files.open(&self.who, self.files.root(), path, flags, 0o644).map_err(wrong)?;
            self.files.close(file).map_err(wrong)?;
        }
        Ok(())
    }

    fn stat(&self) -> Result<()> {
        for path in &self.paths {
            let inode = self.files.resolve(&self.who, self.files.root(), path, LastLink::Follow).map_err(wrong)?;
            self.files.stat(inode).map_err(wrong)?;
        }
        Ok(())
    }

    fn unlink(&self) -> Result<()> {
        self.paths.iter().try_for_each(|path| self.files.unlink(&self.who, self.files.root(), path).map_err(wrong))
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        // Room for who comes next.
        for path in &self.others {
            let _ = self.files.unlink(&self.who, self.files.root(), path);
        }
    }
}

impl Work for Names {
    fn round(&mut self) -> Result<Sample> {
        let count = self.paths.len();
        match self.measured {
            Measured::Create => {
                let sample = timed(count, || self.create())?;
                self.unlink()?;
                Ok(sample)
            }
            Measured::Stat => timed(count, || self.stat()),
            Measured::Unlink => {
                self.create()?;
                timed(count, || self.unlink())
            }
        }
    }
}

/// What files take of the region beside their bytes. Its figures are bytes, not time.
pub struct Share {
    names: Names,
    content: Vec<u8>,
}

impl Share {
    /// Files of this size, as many as bulk work moves bytes.
    pub fn begin(site: &Site, size: usize) -> Result<Box<dyn Work>> {
        let (files, folder) = attach()?;
        let paths = paths(&folder, "file", site.bytes / size);
        let names = Names { files, paths, others: Vec::new(), measured: Measured::Create, who: caller() };
        Ok(Box::new(Share { names, content: vec![5; size] }))
    }

    fn fill(&self) -> Result<()> {
        let (files, who) = (&self.names.files, &self.names.who);
        for path in &self.names.paths {
            let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
            let file = files.open(who, files.root(), path, flags, 0o644).map_err(wrong)?;
            let pieces = [UserSource::from_slice(&self.content)];
            let written = files.write(file, &pieces, Position::Current).map_err(wrong)?;
            files.close(file).map_err(wrong)?;
            if written != self.content.len() {
                return Err(Error::other("the region is full"));
            }
        }
        Ok(())
    }
}

/// Bytes of all units that are in use, with their owner words.
fn taken(files: &FileSystem) -> Result<u64> {
    let mut sum = 0;
    space::each_unit(files.region(), |unit, owner| {
        let word = if matches!(unit.class, Class::Entry | Class::Cell) { 8 } else { OWNER };
        if !owner.is_free() {
            sum += unit.class.size() + word;
        }
        Ok(())
    })
    .map_err(wrong)?;
    Ok(sum)
}

impl Work for Share {
    fn round(&mut self) -> Result<Sample> {
        let before = taken(&self.names.files)?;
        self.fill()?;
        let after = taken(&self.names.files)?;
        self.names.unlink()?;
        let data = (self.names.paths.len() * self.content.len()) as f64;
        let beside = (after - before) as f64 - data;
        Ok(Sample { own: beside, wall: beside, units: data })
    }
}
