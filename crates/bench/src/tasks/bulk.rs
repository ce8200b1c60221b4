//! Large files.

use super::{Sample, Site, Work, c_path, timed};
use crate::calls::{Descriptor, unlink};
use crate::memory::Memory;
use std::ffi::CString;
use std::io::{Error, ErrorKind, Result};

/// Which file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// One that was made just before; the one of the round before is removed first, off the clock.
    New,
    /// The same again.
    Old,
}

/// `write`, piece after piece, from memory that is cold.
pub struct Write {
    path: CString,
    source: Memory,
    piece: usize,
    file: File,
}

fn all(count: usize, wanted: usize) -> Result<()> {
    if count == wanted { Ok(()) } else { Err(Error::new(ErrorKind::StorageFull, "a call moved only a part: no room?")) }
}

impl Write {
    /// In pieces of this size.
    pub fn begin(site: &Site, piece: usize, file: File) -> Result<Box<dyn Work>> {
        let work = Write { path: c_path(&site.folder.join("file"))?, source: Memory::new(site.bytes)?, piece, file };
        if file == File::Old {
            work.write(&work.open()?)?;
        }
        Ok(Box::new(work))
    }

    fn open(&self) -> Result<Descriptor> {
        Descriptor::open(&self.path, libc::O_CREAT | libc::O_WRONLY)
    }

    fn write(&self, file: &Descriptor) -> Result<()> {
        self.source.bytes().chunks(self.piece).try_for_each(|piece| all(file.write(piece)?, piece.len()))
    }
}

impl Work for Write {
    fn round(&mut self) -> Result<Sample> {
        if self.file == File::New
            && let Err(error) = unlink(&self.path)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error);
        }
        let file = self.open()?;
        let sample = timed(self.source.bytes().len(), || self.write(&file))?;
        file.close()?;
        Ok(sample)
    }
}

/// Where a file is read to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// Memory that is cold, as who restarts from a file does.
    Cold,
    /// One buffer again and again, as who copies a file does.
    Again,
}

/// `read` of 1 MiB, piece after piece.
pub struct Read {
    file: Descriptor,
    target: Memory,
    into: Into,
}

impl Read {
    /// Of a file that was written by the same process.
    pub fn begin(site: &Site, into: Into) -> Result<Box<dyn Work>> {
        let path = c_path(&site.folder.join("file"))?;
        let target = Memory::new(site.bytes)?;
        let written = Descriptor::open(&path, libc::O_CREAT | libc::O_WRONLY)?;
        target.bytes().chunks(1 << 20).try_for_each(|piece| all(written.write(piece)?, piece.len()))?;
        written.close()?;
        Ok(Box::new(Read { file: Descriptor::open(&path, libc::O_RDONLY)?, target, into }))
    }
}

impl Work for Read {
    fn round(&mut self) -> Result<Sample> {
        self.file.seek(0)?;
        let (file, bytes) = (&self.file, self.target.bytes_mut());
        let (all_bytes, many) = (bytes.len(), bytes.len() >> 20);
        let read = |piece: &mut [u8]| all(file.read(piece)?, piece.len());
        match self.into {
            Into::Cold => timed(all_bytes, || bytes.chunks_mut(1 << 20).try_for_each(read)),
            Into::Again => timed(all_bytes, || (0..many).try_for_each(|_| read(&mut bytes[..1 << 20]))),
        }
    }
}
