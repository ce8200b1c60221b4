//! Reading, writing and seeking through an open file.

use crate::file_system::FileSystem;
use crate::in_place;
use crate::inode::{self, InodeId, SIZE_LARGEST, size_of};
use crate::open_file::{OFFSET, OpenFile, reads, writes};
use crate::pieces::{Source, total};
use crate::types::Position;
use crate::{Errno, Result, UserSource, UserTarget};
use core::sync::atomic::Ordering;
use lifeboat_region::process;
use rustix::fs::OFlags;

/// How many bytes of the pieces can be read, from the front.
fn readable(from: &[UserSource<'_>]) -> u64 {
    let mut sum = 0;
    for piece in from {
        let part = piece.readable();
        sum += part as u64;
        if part < piece.len() {
            break;
        }
    }
    sum
}

/// A write that could not be done as a small one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unwritten {
    /// Nothing was done.
    NotBegun,
    /// The offset of the open file was moved on from here, nothing else.
    HasOffset(u64),
}

impl FileSystem {
    /// Reads into the pieces, in order. Fewer bytes than asked at the end of the file.
    pub fn read(&self, file: OpenFile, into: &[UserTarget<'_>], at: Position) -> Result<usize> {
        let (slot, flags, inode) = self.opened(file)?;
        if !reads(flags) {
            return Err(Errno::BADF);
        }
        let inode = inode?;
        if self.is_directory(inode)? {
            return Err(Errno::ISDIR);
        }
        let length = total(into)?;
        let count = match at {
            Position::At(offset) => self.read_as_far(inode, into, offset, length)?,
            Position::Current => self.read_current(slot, inode, into, length)?,
        };
        if count > 0 && !flags.contains(OFlags::NOATIME) {
            self.set(inode, inode::ACCESSED, process::now() as u64)?;
        }
        Ok(count as usize)
    }

    fn read_current(&self, slot: u64, inode: InodeId, into: &[UserTarget<'_>], length: u64) -> Result<u64> {
        let position = self.region().word(slot + OFFSET)?;
        // Reserved first, so that processes that share the offset read different bytes.
        let (offset, wanted) = loop {
            let offset = position.load(Ordering::Acquire);
            let size = size_of(self.field(inode, inode::SIZE)?);
            let wanted = length.min(size.saturating_sub(offset));
            if position.compare_exchange(offset, offset + wanted, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                break (offset, wanted);
            }
        };
        let outcome = self.read_as_far(inode, into, offset, wanted);
        let count = *outcome.as_ref().unwrap_or(&0);
        if count < wanted {
            let _ = position.compare_exchange(offset + wanted, offset + count, Ordering::AcqRel, Ordering::Relaxed);
        }
        outcome
    }

    /// Reads as far as the program's memory goes.
    fn read_as_far(&self, inode: InodeId, into: &[UserTarget<'_>], offset: u64, length: u64) -> Result<u64> {
        let whole = self.read_range(inode, into, offset, length);
        if whole != Err(Errno::FAULT) {
            return whole;
        }
        // Which part of it that is can only be tried.
        let (mut fits, mut fails) = (0, length);
        while fails - fits > 1 {
            let middle = fits + (fails - fits) / 2;
            match self.read_range(inode, into, offset, middle) {
                Err(Errno::FAULT) => fails = middle,
                // The file is shorter by now.
                other if other != Ok(middle) => return other,
                _ => fits = middle,
            }
        }
        if fits == 0 { Err(Errno::FAULT) } else { Ok(fits) }
    }

    /// Writes the pieces, in order. Fewer bytes than given when space ends; `NOSPC` when there is none at all.
    pub fn write(&self, file: OpenFile, from: &[UserSource<'_>], at: Position) -> Result<usize> {
        let unwritten = match from {
            [piece] => match self.write_small(file, piece, at) {
                Ok(()) => return Ok(piece.len()),
                Err(unwritten) => unwritten,
            },
            _ => Unwritten::NotBegun,
        };
        self.write_unwritten(unwritten, file, from, at)
    }

    /// Writes a small piece, if the file has a place for it and nothing is to wait for: in few instructions. What is not written so is left to
    /// [`FileSystem::write_unwritten`].
    #[inline(always)]
    pub fn write_small(
        &self,
        file: OpenFile,
        piece: &UserSource<'_>,
        at: Position,
    ) -> core::result::Result<(), Unwritten> {
        let length = piece.len() as u64;
        if length > in_place::LONGEST {
            return Err(Unwritten::NotBegun);
        }
        let Ok((slot, flags, Ok(inode))) = self.opened(file) else { return Err(Unwritten::NotBegun) };
        if !writes(flags) || flags.contains(OFlags::APPEND) {
            return Err(Unwritten::NotBegun);
        }
        let (offset, otherwise) = match at {
            Position::At(offset) => (offset, Unwritten::NotBegun),
            Position::Current => match self.take_offset(slot, length) {
                Ok(offset) => (offset, Unwritten::HasOffset(offset)),
                Err(_) => return Err(Unwritten::NotBegun),
            },
        };
        let source = Source::new(core::slice::from_ref(piece));
        if self.write_in_place(inode, &source, offset, length) { Ok(()) } else { Err(otherwise) }
    }

    /// As [`FileSystem::write`], of what was not written as a small piece.
    #[inline(never)]
    pub fn write_unwritten(
        &self,
        unwritten: Unwritten,
        file: OpenFile,
        from: &[UserSource<'_>],
        at: Position,
    ) -> Result<usize> {
        let (slot, flags, inode) = self.opened(file)?;
        if !writes(flags) {
            return Err(Errno::BADF);
        }
        let inode = inode?;
        let length = total(from)?;
        let written = match unwritten {
            Unwritten::HasOffset(offset) => self.write_at_taken(slot, inode, &mut Source::new(from), offset, length),
            Unwritten::NotBegun => self.write_bytes((slot, flags), inode, from, length, at),
        };
        match written {
            Err(Errno::FAULT) => self.write_readable((slot, flags), inode, from, length, at),
            written => written,
        }
    }

    /// Moves the offset of an open file on: processes that share it write different bytes. Answers where it was.
    #[inline(always)]
    fn take_offset(&self, slot: u64, length: u64) -> Result<u64> {
        Ok(self.region().word(slot + OFFSET)?.fetch_add(length, Ordering::AcqRel))
    }

    /// Writes where the offset of the open file was moved on for it; what was not written is given back, unless others moved it since.
    fn write_at_taken(
        &self,
        slot: u64,
        inode: InodeId,
        source: &mut Source<'_, '_>,
        offset: u64,
        length: u64,
    ) -> Result<usize> {
        let outcome = self.write_range(inode, source, offset, length);
        let count = *outcome.as_ref().unwrap_or(&0);
        if count < length {
            let position = self.region().word(slot + OFFSET)?;
            let _ = position.compare_exchange(offset + length, offset + count, Ordering::AcqRel, Ordering::Relaxed);
        }
        outcome.map(|count| count as usize)
    }

    /// As far as the program's memory goes.
    #[cold]
    fn write_readable(
        &self,
        slot: (u64, OFlags),
        inode: InodeId,
        from: &[UserSource<'_>],
        length: u64,
        at: Position,
    ) -> Result<usize> {
        match readable(from) {
            part if part > 0 && part < length => self.write_bytes(slot, inode, from, part, at),
            _ => Err(Errno::FAULT),
        }
    }

    /// Writes the first `length` bytes of the pieces to the inode of the open file with this slot and these flags.
    fn write_bytes(
        &self,
        (slot, flags): (u64, OFlags),
        inode: InodeId,
        from: &[UserSource<'_>],
        length: u64,
        at: Position,
    ) -> Result<usize> {
        let mut source = Source::new(from);
        if flags.contains(OFlags::APPEND) {
            let (count, start) = self.append_range(inode, &mut source, length)?;
            if at == Position::Current && count > 0 {
                self.region().word(slot + OFFSET)?.store(start + count, Ordering::Release);
            }
            return Ok(count as usize);
        }
        match at {
            Position::At(offset) => self.write_range(inode, &mut source, offset, length).map(|count| count as usize),
            Position::Current => {
                let offset = self.take_offset(slot, length)?;
                self.write_at_taken(slot, inode, &mut source, offset, length)
            }
        }
    }

    /// Moves the offset. `whence`: 0 from the start, 1 from here, 2 from the end, 3 to data, 4 to a hole.
    pub fn seek(&self, file: OpenFile, offset: i64, whence: u32) -> Result<u64> {
        let (slot, flags) = self.flags(file)?;
        if flags.contains(OFlags::PATH) {
            return Err(Errno::BADF);
        }
        let inode = self.inode_of(file)?;
        let position = self.region().word(slot + OFFSET)?;
        let is_directory = self.is_directory(inode)?;
        let base = match whence {
            0 => 0,
            1 => position.load(Ordering::Acquire) as i64,
            2 if is_directory => return Err(Errno::INVAL),
            2 => size_of(self.field(inode, inode::SIZE)?) as i64,
            3 | 4 => {
                let from = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
                let found = self.seek_data(inode, from, whence == 4)?;
                position.store(found, Ordering::Release);
                return Ok(found);
            }
            _ => return Err(Errno::INVAL),
        };
        let to = base.checked_add(offset).ok_or(Errno::OVERFLOW)?;
        // Cookies of directories use all 63 bits.
        if to < 0 || (!is_directory && to as u64 > SIZE_LARGEST) {
            return Err(Errno::INVAL);
        }
        position.store(to as u64, Ordering::Release);
        Ok(to as u64)
    }

    /// Sets the size of an open file.
    pub fn truncate_open(&self, file: OpenFile, length: u64) -> Result<()> {
        let (_, flags) = self.flags(file)?;
        if flags.contains(OFlags::PATH) {
            return Err(Errno::BADF);
        }
        let inode = self.inode_of(file)?;
        if !writes(flags) || self.mode(inode)? & inode::TYPE_MASK != inode::REGULAR {
            return Err(Errno::INVAL);
        }
        self.resize(inode, length)
    }

    /// Everything that was written is where it stays: memory needs no more.
    pub fn sync(&self, file: OpenFile) -> Result<()> {
        if self.flags(file)?.1.contains(OFlags::PATH) { Err(Errno::BADF) } else { Ok(()) }
    }
}
