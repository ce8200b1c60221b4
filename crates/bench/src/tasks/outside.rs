//! What needs no file: bare copying, calls that are not ours, and starting a program.

use super::{Sample, Site, Work, c_path, timed};
use crate::calls::{Descriptor, childrens_time, wall_time};
use crate::memory::Memory;
use lifeboat_kernels::{copy_in, copy_in_checksum};
use std::io::{Error, Result};
use std::process::Command;

/// Whether a checksum is made on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// Copied.
    Without,
    /// Copied, and the CRC-32C of each 64 KiB.
    With,
}

/// The copy loop alone, from cold memory to memory that is there: the limit of every write of 1 MiB.
pub struct Copy {
    source: Memory,
    target: Memory,
    sum: Sum,
}

impl Copy {
    /// As much as the bulk work of other places.
    pub fn begin(site: &Site, sum: Sum) -> Result<Box<dyn Work>> {
        Ok(Box::new(Copy { source: Memory::new(site.bytes)?, target: Memory::new(site.bytes)?, sum }))
    }
}

impl Work for Copy {
    fn round(&mut self) -> Result<Sample> {
        let piece = if self.sum == Sum::With { 64 << 10 } else { 1 << 20 };
        let (from, sum) = (self.source.bytes(), self.sum);
        let to = self.target.bytes_mut();
        timed(from.len(), || {
            for (from, to) in from.chunks(piece).zip(to.chunks_mut(piece)) {
                // SAFETY: two slices of one length, of two mappings, of which the second is ours alone.
                let copied = unsafe {
                    match sum {
                        Sum::Without => copy_in(to.as_mut_ptr(), from.as_ptr(), from.len()),
                        Sum::With => {
                            copy_in_checksum(to.as_mut_ptr(), from.as_ptr(), from.len(), 0).map(|(fence, crc)| {
                                std::hint::black_box(crc);
                                fence
                            })
                        }
                    }
                };
                copied.map_err(|_| Error::other("memory that was there is gone"))?.fence();
            }
            Ok(())
        })
    }
}

/// A call on a descriptor of the kernel's: what the library costs where it has nothing to do.
pub struct Foreign {
    file: Descriptor,
    operations: usize,
}

impl Foreign {
    /// Of a file that is not below a mount.
    pub fn begin(site: &Site) -> Result<Box<dyn Work>> {
        let file = Descriptor::open(&c_path("/dev/zero".as_ref())?, libc::O_RDONLY)?;
        Ok(Box::new(Foreign { file, operations: site.operations * 10 }))
    }
}

impl Work for Foreign {
    fn round(&mut self) -> Result<Sample> {
        timed(self.operations, || (0..self.operations).try_for_each(|_| self.file.seek(0)))
    }
}

/// Starting a program that does nothing, and waiting for its end.
pub struct Start;

/// Programs of a round.
const STARTS: usize = 20;

impl Start {
    /// Needs nothing.
    pub fn begin(_: &Site) -> Result<Box<dyn Work>> {
        Ok(Box::new(Start))
    }
}

impl Work for Start {
    fn round(&mut self) -> Result<Sample> {
        let (own, wall) = (childrens_time(), wall_time());
        for _ in 0..STARTS {
            if !Command::new("/bin/true").status()?.success() {
                return Err(Error::other("/bin/true fails"));
            }
        }
        Ok(Sample { own: childrens_time() - own, wall: wall_time() - wall, units: STARTS as f64 })
    }
}
