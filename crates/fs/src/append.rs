//! Appending: wholly there or absent, by as many writers as there are.
//!
//! The bytes are first copied out of the program's memory, without a lock, to a place of their own; then, under the
//! inode's lock, to the end of the file. The lock is never held while the program's memory is touched.

use crate::checksum;
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, SIZE_LARGEST, size_of, size_word};
use crate::map_word::Target;
use crate::pieces::Source;
use crate::{Errno, Result, UserSource};
use lifeboat_region::lane::Lane;
use lifeboat_region::layout::EXTENT;
use lifeboat_region::space::{Class, Unit};
use lifeboat_region::{MustFence, process};

/// Bytes staged on the stack.
const SMALL: usize = 4096;
/// Extents staged together: the longest append that is wholly there or absent has 16 MiB.
const STAGED: usize = 256;

/// Where staged bytes are.
enum Staged<'b> {
    Stack(&'b [u8]),
    Units(&'b [Option<Unit>]),
}

impl FileSystem {
    /// Appends `length` bytes; answers how many were appended and where the first one is.
    pub(crate) fn append_range(&self, inode: InodeId, source: &mut Source<'_, '_>, length: u64) -> Result<(u64, u64)> {
        let mut first = None;
        let mut done = 0;
        while done < length {
            let here = (length - done).min(STAGED as u64 * EXTENT);
            let outcome = if here <= SMALL as u64 {
                self.append_small(inode, source, here)
            } else {
                self.append_staged(inode, source, here)
            };
            match outcome {
                Ok((count, at)) => {
                    first = first.or(Some(at));
                    done += count;
                    if count < here {
                        break;
                    }
                }
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok((done, first.unwrap_or(0)))
    }

    fn append_small(&self, inode: InodeId, source: &mut Source<'_, '_>, length: u64) -> Result<(u64, u64)> {
        let mut buffer = [0u8; SMALL];
        source.take(length as usize, |piece, skip, here, done| {
            piece.read(skip, &mut buffer[done as usize..done as usize + here])
        })?;
        let bytes = &buffer[..length as usize];
        self.with_room(|| {
            let lane = self.lane()?;
            self.place_at_end(&lane, inode, length, &Staged::Stack(bytes))
        })
    }

    fn append_staged(&self, inode: InodeId, source: &mut Source<'_, '_>, length: u64) -> Result<(u64, u64)> {
        let lane = self.lane()?;
        let mut units = [None; STAGED];
        let mut staged = 0;
        let mut outcome = Ok(());
        for unit in &mut units {
            let here = (length - staged).min(EXTENT);
            if here == 0 {
                break;
            }
            let place = match self.with_room(|| lane.allocate(Class::Extent, None)) {
                Ok(place) => place,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            };
            *unit = Some(place);
            outcome = source.take(here as usize, |piece, skip, part, done| {
                self.region().copy_in(place.at + done, piece, skip, part).map(MustFence::fence)
            });
            if outcome.is_err() {
                break;
            }
            staged += here;
        }
        let result = match (outcome, staged) {
            (Err(Errno::NOSPC), 0) => Err(Errno::NOSPC),
            (Err(Errno::NOSPC), _) | (Ok(()), _) => self.place_at_end(&lane, inode, staged, &Staged::Units(&units)),
            (Err(error), _) => Err(error),
        };
        for unit in units.into_iter().flatten() {
            lane.release(unit)?;
        }
        match result {
            // No unit is left for staging, yet the end of the file may have room: byte by byte, as much as fits.
            Err(Errno::NOSPC) if staged == 0 => self.append_small(inode, source, SMALL as u64),
            other => other,
        }
    }

    /// Copies staged bytes to the end of the file, short when space ends.
    fn place_at_end(&self, lane: &Lane<'_>, inode: InodeId, length: u64, staged: &Staged<'_>) -> Result<(u64, u64)> {
        lane.announce_waiting(inode.to_word())?;
        self.validate(inode)?;
        self.lock_announced(lane, inode)?;
        let result = self.place_locked(lane, inode, length, staged);
        self.unlock_inode(lane, inode)?;
        lane.withdraw()?;
        result
    }

    fn place_locked(&self, lane: &Lane<'_>, inode: InodeId, length: u64, staged: &Staged<'_>) -> Result<(u64, u64)> {
        let word = self.field(inode, inode::SIZE)?;
        let start = size_of(word);
        let mut end = start.checked_add(length).filter(|&end| end <= SIZE_LARGEST).ok_or(Errno::FBIG)?;
        // Should we die from here on, what lies beyond the size is zeroed again.
        lane.announce(inode.to_word(), start, end)?;
        if let Err(error) = self.provide_locked(lane, inode, start, end) {
            if error != Errno::NOSPC {
                return Err(error);
            }
            end = self.mapped_until(inode, start, end)?;
            if end == start {
                return Err(Errno::NOSPC);
            }
        }
        self.copy_staged(lane, inode, start, end, staged)?;
        let now = process::now() as u64;
        self.set(inode, inode::MODIFIED, now)?;
        self.set(inode, inode::CHANGED, now)?;
        self.drop_set_ids(inode)?;
        // Writers without a lock may have made the file longer; never shorter while we hold the lock.
        loop {
            let word = self.field(inode, inode::SIZE)?;
            if size_of(word) >= end
                || self.region().commit_exchange(
                    inode.at() + inode::SIZE,
                    word,
                    size_word(end, word >> 48),
                    MustFence::nothing(),
                )?
            {
                return Ok((end - start, start));
            }
        }
    }

    /// First byte of `[start, end)` without a place, or `end`.
    fn mapped_until(&self, inode: InodeId, start: u64, end: u64) -> Result<u64> {
        let mut at = start;
        while at < end {
            let here = (end - at).min(EXTENT - at % EXTENT);
            let Some(slot) = self.find_slot(inode, at / EXTENT)? else { return Ok(at) };
            let target = Target::decode(self.region().load(slot.map_at)?)?;
            let mut until = None;
            let base = at - at % EXTENT;
            self.each_run(inode, target, at % EXTENT, here, |from, _, place| {
                if place.is_none() && until.is_none() {
                    until = Some(base + from);
                }
                Ok(())
            })?;
            if let Some(until) = until {
                return Ok(until);
            }
            at += here;
        }
        Ok(end)
    }

    fn copy_staged(&self, lane: &Lane<'_>, inode: InodeId, start: u64, end: u64, staged: &Staged<'_>) -> Result<()> {
        let region = self.region();
        let mut at = start;
        while at < end {
            let here = (end - at).min(EXTENT - at % EXTENT);
            let slot = self.find_slot(inode, at / EXTENT)?.ok_or(Errno::UCLEAN)?;
            let target = Target::decode(region.load(slot.map_at)?)?;
            let claimant = self.claimant(lane.index());
            let claim = checksum::before_write(region, slot.checksum_at, claimant, (at % EXTENT) as u32, here as u32)?;
            let mut crc = claim.as_ref().map(|claim| claim.crc);
            let base = at - at % EXTENT;
            self.each_run(inode, target, at % EXTENT, here, |from, length, place| {
                let place = place.ok_or(Errno::UCLEAN)?;
                let offset = base + from - start;
                self.copy_piece(staged, offset, place, length, &mut crc)
            })?;
            if let (Some(claim), Some(crc)) = (claim, crc) {
                claim.publish(region, crc, here as u32, MustFence::nothing())?;
            }
            at += here;
        }
        Ok(())
    }

    /// Copies `length` staged bytes, from the one at `offset`, to `place`, and continues the CRC over them.
    fn copy_piece(
        &self,
        staged: &Staged<'_>,
        offset: u64,
        place: u64,
        length: u64,
        crc: &mut Option<u32>,
    ) -> Result<()> {
        let region = self.region();
        match staged {
            Staged::Stack(bytes) => {
                let piece = bytes.get(offset as usize..(offset + length) as usize).ok_or(Errno::INVAL)?;
                let source = UserSource::from_slice(piece);
                self.copy_and_sum(place, &source, 0, piece.len(), crc).map(MustFence::fence)
            }
            Staged::Units(units) => {
                let mut done = 0;
                while done < length {
                    let from = offset + done;
                    let here = (length - done).min(EXTENT - from % EXTENT);
                    let unit = units.get((from / EXTENT) as usize).copied().flatten().ok_or(Errno::INVAL)?;
                    let source = unit.at + from % EXTENT;
                    region.copy_within(source, place + done, here as usize)?.fence();
                    if let Some(crc) = crc {
                        *crc = region.checksum(source, here as usize, *crc)?;
                    }
                    done += here;
                }
                Ok(())
            }
        }
    }
}
