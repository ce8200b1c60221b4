//! Names and small files, by the calls of libc.

use super::{Sample, Site, Work, paths, timed};
use crate::calls::{Descriptor, stat, unlink};
use std::ffi::CString;
use std::io::Result;
use std::path::Path;

/// What is on the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// `open` of a new file, and `close`.
    Create,
    /// `stat`.
    Stat,
    /// `unlink`.
    Unlink,
    /// Both.
    CreateUnlink,
    /// `open` of a file that is there, and `close`.
    Open,
    /// `open` of a new file, one `write` of so many bytes, `close`.
    Fill(usize),
}

/// Files in one folder.
pub struct Names {
    paths: Vec<CString>,
    measured: Measured,
    content: Vec<u8>,
}

impl Names {
    /// In a folder of the worker's own.
    pub fn begin(site: &Site, measured: Measured) -> Result<Box<dyn Work>> {
        Names::below(&site.folder, site, measured)
    }

    /// In the folder that all workers have.
    pub fn begin_shared(site: &Site, measured: Measured) -> Result<Box<dyn Work>> {
        Names::below(&site.shared, site, measured)
    }

    /// Where files have to be there, they are.
    fn below(folder: &Path, site: &Site, measured: Measured) -> Result<Box<dyn Work>> {
        let content = if let Measured::Fill(bytes) = measured { vec![7; bytes] } else { Vec::new() };
        let mut paths = paths(folder, site.operations)?;
        // As much as a round of bulk work at most.
        paths.truncate((site.bytes / content.len().max(1)).max(1));
        let names = Names { paths, measured, content };
        if matches!(measured, Measured::Stat | Measured::Open) {
            names.create()?;
        }
        Ok(Box::new(names))
    }

    fn create(&self) -> Result<()> {
        for path in &self.paths {
            let file = Descriptor::open(path, libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY)?;
            if !self.content.is_empty() {
                file.write(&self.content)?;
            }
            file.close()?;
        }
        Ok(())
    }

    fn unlink(&self) -> Result<()> {
        self.paths.iter().try_for_each(|path| unlink(path))
    }
}

impl Work for Names {
    fn round(&mut self) -> Result<Sample> {
        let count = self.paths.len();
        match self.measured {
            Measured::Create | Measured::Fill(_) => {
                let sample = timed(count, || self.create())?;
                self.unlink()?;
                Ok(sample)
            }
            Measured::CreateUnlink => timed(2 * count, || {
                self.create()?;
                self.unlink()
            }),
            Measured::Unlink => {
                self.create()?;
                timed(count, || self.unlink())
            }
            Measured::Stat => timed(count, || self.paths.iter().try_for_each(|path| stat(path).map(drop))),
            Measured::Open => {
                timed(count, || self.paths.iter().try_for_each(|path| Descriptor::open(path, libc::O_RDONLY)?.close()))
            }
        }
    }
}
