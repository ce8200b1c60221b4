//! Small writes.

use super::{Sample, Site, Work, c_path, timed};
use crate::calls::Descriptor;
use std::io::Result;

pub(super) const RECORD: [u8; 64] = *b"a record of 64 bytes, as logs and time series write them. 123456";
/// Bytes of the file that records are written into.
const FILE: u64 = 1 << 20;

/// `pwrite` inside the size.
pub struct Inside {
    file: Descriptor,
    operations: usize,
}

impl Inside {
    /// Of a file of 1 MiB that is there.
    pub fn begin(site: &Site) -> Result<Box<dyn Work>> {
        let file = Descriptor::open(&c_path(&site.folder.join("records"))?, libc::O_CREAT | libc::O_RDWR)?;
        file.write_at(&vec![1; FILE as usize], 0)?;
        Ok(Box::new(Inside { file, operations: site.operations }))
    }
}

impl Work for Inside {
    fn round(&mut self) -> Result<Sample> {
        let file = &self.file;
        timed(self.operations, || {
            // An odd step meets every record of the file in turn, and no two neighbours.
            let mut record = 0;
            for _ in 0..self.operations {
                file.write_at(&RECORD, record * RECORD.len() as u64)?;
                record = (record + 37) % (FILE / RECORD.len() as u64);
            }
            Ok(())
        })
    }
}

/// `write` at the end.
pub struct Growing {
    file: Descriptor,
    operations: usize,
}

impl Growing {
    /// Of a file that begins empty in every round, opened with these flags besides.
    pub fn begin(site: &Site, flags: libc::c_int) -> Result<Box<dyn Work>> {
        let path = c_path(&site.folder.join("log"))?;
        let file = Descriptor::open(&path, libc::O_CREAT | libc::O_WRONLY | flags)?;
        Ok(Box::new(Growing { file, operations: site.operations }))
    }
}

impl Work for Growing {
    fn round(&mut self) -> Result<Sample> {
        self.file.truncate(0)?;
        self.file.seek(0)?;
        timed(self.operations, || {
            for _ in 0..self.operations {
                self.file.write(&RECORD)?;
            }
            Ok(())
        })
    }
}
