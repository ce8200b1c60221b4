//! Writing: bytes first, size second.
//!
//! Bytes go from the program's memory straight to where they stay, without a lock: into extents that the file has
//! already, or, when a write covers a whole extent of a hole, into a private extent that is linked afterwards under the
//! inode's lock.

use crate::checksum::{self, Checksum, State};
use crate::file_map::Slot;
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, SIZE_LARGEST, size_of, size_word};
use crate::map_word::Target;
use crate::pieces::Source;
use crate::read::check_range;
use crate::room::Room;
use crate::{Errno, Result};
use lifeboat_region::lane::Lane;
use lifeboat_region::layout::EXTENT;
use lifeboat_region::owner::Kind;
use lifeboat_region::space::Unit;
use lifeboat_region::{DAMAGED, MustFence, UserSource, process};

/// Extents filled in private before they are linked together.
const PENDING: usize = 16;

struct Filled {
    extent: u64,
    unit: Unit,
    crc: Option<u32>,
}

/// Cuts of the file that a write begins anew for. A write that meets more of them counts as before the last one.
const CUTS_TO_OUTLIVE: u32 = 64;

/// A part of a write that is done under one announcement.
#[derive(Clone, Copy)]
struct Part {
    at: u64,
    end: u64,
    /// The size word under which the parts before were published: a cut since then has taken them away.
    since: Option<u64>,
    after_cut: AfterCut,
}

/// What was written of a part: how much, what ended it, and the size word before it.
struct Written {
    count: u64,
    outcome: Result<()>,
    before: u64,
}

/// What becomes of a write whose file was cut meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AfterCut {
    /// It is done again, and comes after the cut.
    Again,
    /// It came before the cut.
    GiveUp,
}

struct Write<'w, 'r> {
    fs: &'w FileSystem,
    lane: &'w Lane<'r>,
    inode: InodeId,
    pending: [Option<Filled>; PENDING],
    count: usize,
    /// Where the extent before lies, for runs.
    last: Option<u64>,
}

impl FileSystem {
    /// Writes `length` bytes at `offset`; short when space or the program's memory ends before.
    pub(crate) fn write_range(
        &self,
        inode: InodeId,
        source: &mut Source<'_, '_>,
        offset: u64,
        length: u64,
    ) -> Result<u64> {
        if length == 0 {
            return Ok(0);
        }
        check_range(offset, length)?;
        if offset >= SIZE_LARGEST {
            return Err(Errno::FBIG);
        }
        // What lies in one piece was tried before, by `write_small`.
        if source.one_piece(length as usize).is_none() && self.write_in_place(inode, source, offset, length) {
            return Ok(length);
        }
        let end = offset.saturating_add(length).min(SIZE_LARGEST);
        let whole = source.clone();
        let mut from = whole.clone();
        let mut part = Part { at: offset, end, since: None, after_cut: AfterCut::Again };
        let mut room = Room::new();
        let mut cuts = 0;
        loop {
            *source = from.clone();
            match self.write_once(inode, source, &part) {
                Ok(None) => {
                    (cuts, room, from) = (cuts + 1, Room::new(), whole.clone());
                    let after_cut = if cuts < CUTS_TO_OUTLIVE { AfterCut::Again } else { AfterCut::GiveUp };
                    part = Part { at: offset, end, since: None, after_cut };
                }
                // What was cut off this very file is in limbo while a write of it is announced, so the sweep comes between.
                Ok(Some(Written { count, outcome: Err(Errno::NOSPC), before }))
                    if part.after_cut == AfterCut::Again && room.make(self)? =>
                {
                    from.take(count as usize, |_, _, _, _| Ok(()))?;
                    part = Part { at: part.at + count, since: Some(before), ..part };
                }
                Err(Errno::NOSPC) if room.make(self)? => {}
                Ok(Some(written)) => return Ok(part.at + written.count - offset),
                Err(_) if part.at > offset => return Ok(part.at - offset),
                Err(error) => return Err(error),
            }
        }
    }

    /// What was written. `None` when the file was cut meanwhile and the write has to be done again.
    fn write_once(&self, inode: InodeId, source: &mut Source<'_, '_>, part: &Part) -> Result<Option<Written>> {
        let &Part { at: offset, end, since, after_cut } = part;
        let lane = self.lane()?;
        lane.announce(inode.to_word(), offset, end)?;
        self.validate(inode)?;
        let before = self.begin_write(&lane, inode)?;
        if since.is_some_and(|since| since >> 48 != before >> 48) {
            // What was written before is cut off, and this would not be.
            return Ok(None);
        }
        let written = |count, outcome| Some(Written { count, outcome, before });
        let mut write =
            Write { fs: self, lane: &lane, inode, pending: [const { None }; PENDING], count: 0, last: None };
        let mut at = offset;
        let mut outcome = Ok(());
        while at < end && outcome.is_ok() {
            let here = (end - at).min(EXTENT - at % EXTENT);
            outcome = write.extent(at, here, end, source);
            if outcome.is_ok() {
                at += here;
            }
        }
        let linked = write.link_pending();
        if let Err(error) = linked {
            // What was not linked was not written.
            at = write.forget_pending()?.map_or(at, |extent| at.min(extent * EXTENT)).max(offset);
            outcome = outcome.and(Err(error));
        }
        if let Err(error) = outcome
            && error == Errno::FAULT
        {
            self.scrub(&lane, inode, at, end)?;
        }
        if outcome == Err(Errno::STALE) {
            // A place was cut off or punched out under the write.
            self.validate(inode)?;
            self.scrub(&lane, inode, offset, end)?;
            return match after_cut {
                AfterCut::Again => Ok(None),
                // All of it came before the cut.
                AfterCut::GiveUp if self.field(inode, inode::SIZE)? >> 48 != before >> 48 => {
                    Ok(written(end - offset, Ok(())))
                }
                AfterCut::GiveUp => Err(Errno::AGAIN),
            };
        }
        if at == offset {
            return outcome.map(|()| written(0, Ok(())));
        }
        if self.wrote(inode, before, at)? {
            return Ok(written(at - offset, outcome));
        }
        // It counts as before the cut, or is done again under another announcement: either way nothing of it may lie beyond
        // the size without one.
        self.scrub(&lane, inode, offset, at)?;
        Ok(written(at - offset, outcome).filter(|_| after_cut == AfterCut::GiveUp))
    }

    /// Publishes that bytes up to `end` were written: times, then the size. False when the file was cut meanwhile.
    pub(crate) fn wrote(&self, inode: InodeId, before: u64, end: u64) -> Result<bool> {
        self.set_written(inode, process::now())?;
        self.drop_set_ids_unlocked(inode)?;
        self.lengthen(inode, before, end)
    }

    /// Says that the inode's bytes changed at this time.
    #[inline(always)]
    pub(crate) fn set_written(&self, inode: InodeId, now: i64) -> Result<()> {
        let now = now as u64;
        self.region().commit_all(inode.at(), [(inode::MODIFIED, now), (inode::CHANGED, now)])
    }

    /// Makes the file at least as long as `end`. False when it was cut since its size word was `before`.
    #[inline(always)]
    pub(crate) fn lengthen(&self, inode: InodeId, before: u64, end: u64) -> Result<bool> {
        loop {
            let word = self.field(inode, inode::SIZE)?;
            if word >> 48 != before >> 48 {
                return Ok(false);
            }
            if size_of(word) >= end {
                return Ok(true);
            }
            let longer = size_word(end, word >> 48);
            if self.region().commit_exchange(inode.at() + inode::SIZE, word, longer, MustFence::nothing())? {
                return Ok(true);
            }
        }
    }
}

impl Write<'_, '_> {
    /// Writes `here` bytes at `at`, all in one extent.
    fn extent(&mut self, at: u64, here: u64, end: u64, source: &mut Source<'_, '_>) -> Result<()> {
        let fs = self.fs;
        let extent = at / EXTENT;
        let slot = fs.find_slot(self.inode, extent)?;
        let target = match slot {
            Some(slot) => Target::decode(fs.region().load(slot.map_at)?)?,
            None => Target::Hole,
        };
        if target == Target::Hole && here == EXTENT {
            match self.fill_private(extent, end, source) {
                Err(Errno::NOSPC) => {}
                other => return other,
            }
        }
        match slot {
            Some(slot) if fs.is_mapped(self.inode, target, at % EXTENT, here)? => {
                self.copy(slot, target, at % EXTENT, here, source)
            }
            _ => {
                self.link_pending()?;
                self.provide(at, here, end)?;
                let slot = fs.find_slot(self.inode, extent)?.ok_or(Errno::STALE)?;
                let target = Target::decode(fs.region().load(slot.map_at)?)?;
                self.copy(slot, target, at % EXTENT, here, source)
            }
        }
    }

    fn provide(&self, at: u64, here: u64, end: u64) -> Result<()> {
        self.fs.lock_announced(self.lane, self.inode)?;
        let mut last = self.last;
        let result = self.fs.provide_extent(self.lane, self.inode, at, here, end, &mut last);
        self.fs.unlock_inode(self.lane, self.inode)?;
        result
    }

    /// Copies into an extent that nobody else sees yet.
    fn fill_private(&mut self, extent: u64, end: u64, source: &mut Source<'_, '_>) -> Result<()> {
        if self.count == PENDING {
            self.link_pending()?;
        }
        let fs = self.fs;
        let last = self.last;
        let unit = match fs.allocate_extent(self.lane, extent, end, last) {
            // Without waiting: what this very file lost stays as long as this write is announced.
            Err(Errno::NOSPC) => {
                fs.sweep()?;
                fs.allocate_extent(self.lane, extent, end, last)?
            }
            other => other?,
        };
        let mut crc = fs.sums_while_writing.then_some(0);
        let copied = source.take(EXTENT as usize, |piece, skip, length, done| {
            fs.copy_and_sum(unit.at + done, piece, skip, length, &mut crc).map(MustFence::fence)
        });
        if let Err(error) = copied {
            self.lane.release(unit)?;
            return Err(error);
        }
        self.last = Some(unit.at);
        self.pending[self.count] = Some(Filled { extent, unit, crc });
        self.count += 1;
        Ok(())
    }

    /// Links the extents filled in private.
    fn link_pending(&mut self) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        self.fs.lock_announced(self.lane, self.inode)?;
        let result = self.link_pending_locked();
        self.fs.unlock_inode(self.lane, self.inode)?;
        result
    }

    fn link_pending_locked(&mut self) -> Result<()> {
        let fs = self.fs;
        for filled in self.pending[..self.count].iter().flatten() {
            fs.ensure_slot(self.lane, self.inode, filled.extent)?;
        }
        let mut transaction = self.lane.begin();
        let mut sums = [None; PENDING];
        for (filled, sum) in self.pending[..self.count].iter().flatten().zip(&mut sums) {
            let slot = fs.find_slot(self.inode, filled.extent)?.ok_or(DAMAGED)?;
            let target = Target::decode(fs.region().load(slot.map_at)?)?;
            if target != Target::Hole {
                // Another writer was faster: its extent stays, our bytes come into it.
                self.merge(filled, slot, target)?;
                continue;
            }
            fs.link_unit(&mut transaction, &filled.unit, Kind::Data, self.inode)?;
            transaction.set(slot.map_at, Target::Extent(filled.unit.at).encode())?;
            *sum = Some((slot.checksum_at, checksum::before_linking(fs.region(), slot.checksum_at)?, filled.crc));
            fs.add_blocks(&mut transaction, self.inode, (EXTENT / 512) as i64)?;
        }
        transaction.commit(MustFence::nothing())?;
        // No part of the transaction: from the commit on, writers without a lock may change the word.
        for (at, before, crc) in sums.into_iter().flatten() {
            let running = |crc| Checksum { state: State::Running, valid: EXTENT as u32, crc, end_to_end: false };
            let sum = crc.map_or(Checksum::STALE, running);
            fs.region().commit_exchange(at, before, sum.encode(), MustFence::nothing())?;
        }
        self.count = 0;
        Ok(())
    }

    fn merge(&self, filled: &Filled, slot: Slot, target: Target) -> Result<()> {
        let fs = self.fs;
        checksum::make_stale(fs.region(), slot.checksum_at)?;
        let mut whole = true;
        fs.each_run(self.inode, target, 0, EXTENT, |from, length, place| {
            match place {
                Some(place) => fs.region().copy_within(filled.unit.at + from, place, length as usize)?.fence(),
                None => whole = false,
            }
            Ok(())
        })?;
        if !whole {
            fs.provide_blocks(self.lane, self.inode, slot, 0, EXTENT)?;
            let target = Target::decode(fs.region().load(slot.map_at)?)?;
            fs.each_run(self.inode, target, 0, EXTENT, |from, length, place| {
                let place = place.ok_or(DAMAGED)?;
                fs.region().copy_within(filled.unit.at + from, place, length as usize).map(MustFence::fence)
            })?;
        }
        self.lane.release(filled.unit)
    }

    /// Gives back what was filled but could not be linked; answers its first extent.
    fn forget_pending(&mut self) -> Result<Option<u64>> {
        let mut first = None;
        for filled in self.pending[..self.count].iter_mut().filter_map(Option::take) {
            first = first.or(Some(filled.extent));
            // A unit that was merged is free already.
            let _ = self.lane.release(filled.unit);
        }
        self.count = 0;
        Ok(first)
    }

    /// Copies into places that the file has.
    fn copy(&mut self, slot: Slot, target: Target, from: u64, length: u64, source: &mut Source<'_, '_>) -> Result<()> {
        if let Target::Extent(at) = target {
            self.last = Some(at);
        }
        self.fs.copy_into(self.lane.index(), self.inode, slot, target, from, length, source)
    }
}

impl FileSystem {
    /// Who claims a checksum word while it writes: the lane of this number, unless checksums are made at seal.
    pub(crate) fn claimant(&self, lane: u32) -> Option<u32> {
        self.sums_while_writing.then_some(lane)
    }

    /// Copies bytes to a place, and continues a checksum over them if there is one.
    pub(crate) fn copy_and_sum(
        &self,
        at: u64,
        piece: &UserSource,
        skip: usize,
        length: usize,
        crc: &mut Option<u32>,
    ) -> Result<MustFence> {
        let Some(sum) = crc else { return self.region().copy_in(at, piece, skip, length) };
        let (fence, next) = self.region().copy_in_checksum(at, piece, skip, length, *sum)?;
        *sum = next;
        Ok(fence)
    }

    /// Copies into places that the inode has, all in one extent; the lane of this number has announced it.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn copy_into(
        &self,
        lane: u32,
        inode: InodeId,
        slot: Slot,
        target: Target,
        from: u64,
        length: u64,
        source: &mut Source<'_, '_>,
    ) -> Result<()> {
        self.under_checksum(lane, slot.checksum_at, from, length, |crc| {
            let mut data = MustFence::nothing();
            let copied = self.each_run(inode, target, from, length, |_, length, place| {
                let fence = self.copy_pieces(place.ok_or(Errno::STALE)?, length, source, crc)?;
                data = core::mem::replace(&mut data, MustFence::nothing()).and(fence);
                Ok(())
            });
            copied.map(|()| data)
        })
    }

    /// As [`FileSystem::copy_into`], to one place that is long enough.
    pub(crate) fn copy_to(
        &self,
        lane: u32,
        checksum_at: u64,
        (place, from): (u64, u64),
        length: u64,
        source: &Source<'_, '_>,
    ) -> Result<()> {
        self.under_checksum(lane, checksum_at, from, length, |crc| match source.one_piece(length as usize) {
            Some((piece, skip)) => self.copy_and_sum(place, piece, skip, length as usize, crc),
            None => self.copy_pieces(place, length, &mut source.clone(), crc),
        })
    }

    /// Copies the next `length` bytes of the source to a place.
    fn copy_pieces(
        &self,
        place: u64,
        length: u64,
        source: &mut Source<'_, '_>,
        crc: &mut Option<u32>,
    ) -> Result<MustFence> {
        let mut data = MustFence::nothing();
        source.take(length as usize, |piece, skip, here, done| {
            let fence = self.copy_and_sum(place + done, piece, skip, here, crc)?;
            data = core::mem::replace(&mut data, MustFence::nothing()).and(fence);
            Ok(())
        })?;
        Ok(data)
    }

    /// Does with a checksum word what belongs before and after `copy`, which changes `length` bytes at `from` of the word's extent.
    /// (What a copy that failed leaves behind was fenced when it was dropped.)
    #[inline(always)]
    fn under_checksum(
        &self,
        lane: u32,
        checksum_at: u64,
        from: u64,
        length: u64,
        copy: impl FnOnce(&mut Option<u32>) -> Result<MustFence>,
    ) -> Result<()> {
        let region = self.region();
        let claim = checksum::before_write(region, checksum_at, self.claimant(lane), from as u32, length as u32)?;
        let mut crc = claim.as_ref().map(|claim| claim.crc);
        match (copy(&mut crc), claim, crc) {
            (Ok(data), Some(claim), Some(crc)) => claim.publish(region, crc, length as u32, data),
            (Ok(data), _, _) => {
                data.fence();
                Ok(())
            }
            (Err(error), claim, _) => {
                if let Some(claim) = claim {
                    claim.give_up(region)?;
                }
                Err(error)
            }
        }
    }
}
