//! Seals: a sealed file's checksums are final, and it is what may be protected and restarted from.

use crate::checksum::{Checksum, State};
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, SEALED, size_of};
use crate::map_word::Target;
use crate::types::Caller;
use crate::{Errno, Result};
use lifeboat_region::lane::Lane;
use lifeboat_region::layout::EXTENT;
use lifeboat_region::{DAMAGED, MustFence, process};

/// What a seal found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SealReport {
    /// Blocks of 64 KiB whose checksum was made while the bytes were copied.
    pub end_to_end: u64,
    /// Blocks whose checksum was computed now.
    pub as_of_seal: u64,
    /// Blocks that are holes.
    pub holes: u64,
}

/// What a verification found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Whether the file is sealed.
    pub sealed: bool,
    /// Blocks that match a checksum made while the bytes were copied.
    pub end_to_end: u64,
    /// Blocks that match a checksum made at seal.
    pub as_of_seal: u64,
    /// Blocks without a checksum: written at random and not sealed since.
    pub unknown: u64,
    /// Blocks that are holes.
    pub holes: u64,
    /// Blocks whose bytes do not match.
    pub bad: u64,
    /// First byte of the first bad block.
    pub first_bad: Option<u64>,
}

impl FileSystem {
    /// CRC of the first `length` bytes of an extent, as they are now.
    pub(crate) fn checksum_extent(&self, inode: InodeId, target: Target, length: u64) -> Result<u32> {
        let mut crc = 0;
        self.each_run(inode, target, 0, length, |_, length, place| {
            crc = match place {
                Some(place) => self.region().checksum(place, length as usize, crc)?,
                None => lifeboat_region::checksum_zeros(crc, length),
            };
            Ok(())
        })?;
        Ok(crc)
    }

    /// For a check: the checksum word that differs from `word`, which is damaged, in one bit and is right for the data that
    /// the map word at `map_at` points to, if there is exactly one.
    pub(crate) fn checksum_flipped_back(&self, inode: InodeId, word: u64, map_at: u64) -> Result<Option<u64>> {
        let Ok(target) = Target::decode(self.region().load(map_at)?) else { return Ok(None) };
        let mut found = None;
        for bit in 0..64 {
            let candidate = word ^ 1 << bit;
            let Ok(sum) = Checksum::decode(candidate) else { continue };
            let fits = match sum.state {
                State::None => target == Target::Hole,
                State::Running | State::Final => {
                    target != Target::Hole && self.checksum_extent(inode, target, sum.valid as u64) == Ok(sum.crc)
                }
                State::Claimed | State::Stale => false,
            };
            if fits {
                if found.is_some() {
                    return Ok(None);
                }
                found = Some(candidate);
            }
        }
        Ok(found)
    }

    /// Runs `each(checksum word, map target, bytes of the file in it)` for the extents of a file.
    fn each_extent(
        &self,
        inode: InodeId,
        mut each: impl FnMut(u64, Option<u64>, Target, u64) -> Result<()>,
    ) -> Result<()> {
        let size = size_of(self.field(inode, inode::SIZE)?);
        let mut base = 0;
        while base < size {
            let length = (size - base).min(EXTENT);
            match self.find_slot(inode, base / EXTENT)? {
                Some(slot) => {
                    let target = Target::decode(self.region().load(slot.map_at)?)?;
                    each(base, Some(slot.checksum_at), target, length)?;
                    base += length;
                }
                None => {
                    let next = self.next_mapped(inode, base / EXTENT)?.map_or(size, |next| size.min(next * EXTENT));
                    each(base, None, Target::Hole, next.max(base + length) - base)?;
                    base = next.max(base + length);
                }
            }
        }
        Ok(())
    }

    /// Seals a regular file: makes every checksum final. `BUSY` while it is open for writing or mapped writable; only
    /// its owner may.
    pub fn seal(&self, who: &Caller<'_>, inode: InodeId) -> Result<SealReport> {
        let lane = self.lane()?;
        self.lock_inode(&lane, inode).map_err(inode::gone)?;
        let mode = self.field(inode, inode::MODE)?;
        if mode as u32 & inode::TYPE_MASK != inode::REGULAR {
            return Err(Errno::INVAL);
        }
        if who.uid != 0 && self.field(inode, inode::IDS)? as u32 != who.uid {
            return Err(Errno::PERM);
        }
        if mode & SEALED == 0 && (self.has_writer(inode)? || self.is_pinned_writable(inode)?) {
            return Err(Errno::BUSY);
        }
        let mut report = SealReport::default();
        self.each_extent(inode, |_, at, target, length| {
            let (Some(at), true) = (at, target != Target::Hole) else {
                report.holes += length.div_ceil(EXTENT);
                return Ok(());
            };
            let now = Checksum::decode(self.region().load(at)?)?;
            let known = matches!(now.state, State::Running | State::Final) && now.valid as u64 == length;
            let end_to_end = known && (now.state == State::Running || now.end_to_end);
            let crc = if known { now.crc } else { self.checksum_extent(inode, target, length)? };
            report.end_to_end += end_to_end as u64;
            report.as_of_seal += !end_to_end as u64;
            let done = Checksum { state: State::Final, valid: length as u32, crc, end_to_end };
            self.region().commit(at, done.encode(), MustFence::nothing())
        })?;
        self.forget_checksums_beyond(inode, size_of(self.field(inode, inode::SIZE)?))?;
        let mut transaction = lane.begin();
        transaction.set(inode.at() + inode::SEAL, report.end_to_end & 0xffff_ffff | report.as_of_seal << 32)?;
        transaction.set(inode.at() + inode::MODE, mode | SEALED)?;
        transaction.commit(MustFence::nothing())?;
        Ok(report)
    }

    /// Beyond the size lie zeros that belong to no version of the file; a write that did not come to its end may have left
    /// another word for them. The inode is locked, and has no writer.
    fn forget_checksums_beyond(&self, inode: InodeId, size: u64) -> Result<()> {
        let mut extent = size.div_ceil(EXTENT);
        while let Some(next) = self.next_mapped(inode, extent)? {
            if let Some(slot) = self.find_slot(inode, next)?
                && Checksum::decode(self.region().load(slot.checksum_at)?)?.state != State::None
            {
                self.region().commit(slot.checksum_at, Checksum::NONE.encode(), MustFence::nothing())?;
            }
            extent = next + 1;
        }
        Ok(())
    }

    /// A sealed file is about to change: it is a new version, without a seal.
    pub(crate) fn unseal_locked(&self, lane: &Lane<'_>, inode: InodeId) -> Result<()> {
        let mode = self.field(inode, inode::MODE)?;
        if mode & SEALED == 0 {
            return Ok(());
        }
        let version = self.field(inode, inode::VERSION)?;
        let raised = version & !0xffff_ffff | (version as u32).wrapping_add(1) as u64;
        let mut transaction = lane.begin();
        transaction.set(inode.at() + inode::VERSION, raised)?;
        transaction.set(inode.at() + inode::MODE, mode & !SEALED)?;
        self.set(inode, inode::CHANGED, process::now() as u64)?;
        transaction.commit(MustFence::nothing())
    }

    /// Reads every block of a file that has a checksum and compares. The file should be at rest: a write in flight may
    /// look like a bad block.
    pub fn verify(&self, inode: InodeId) -> Result<VerifyReport> {
        self.exists(inode)?;
        let mode = self.field(inode, inode::MODE)?;
        match mode as u32 & inode::TYPE_MASK {
            inode::REGULAR => {}
            inode::DIRECTORY => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        let mut report = VerifyReport { sealed: mode & SEALED != 0, ..VerifyReport::default() };
        self.each_extent(inode, |base, at, target, length| {
            let (Some(at), true) = (at, target != Target::Hole) else {
                report.holes += length.div_ceil(EXTENT);
                return Ok(());
            };
            let known = match Checksum::decode(self.region().load(at)?) {
                Ok(known) => known,
                Err(DAMAGED) => {
                    report.bad += 1;
                    report.first_bad = report.first_bad.or(Some(base));
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            if !matches!(known.state, State::Running | State::Final) {
                report.unknown += 1;
                return Ok(());
            }
            let covered = (known.valid as u64).min(length);
            if self.checksum_extent(inode, target, covered)? != known.crc || known.valid as u64 > length {
                report.bad += 1;
                report.first_bad = report.first_bad.or(Some(base));
            } else if covered < length {
                report.unknown += 1;
            } else if known.state == State::Running || known.end_to_end {
                report.end_to_end += 1;
            } else {
                report.as_of_seal += 1;
            }
            Ok(())
        })?;
        Ok(report)
    }
}
