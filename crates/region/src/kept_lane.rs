//! Lanes that an image keeps claimed, for what needs nothing of a lane but its announcement: small writes, and counting open files.
//!
//! To claim a lane, to announce, and to give the lane back costs more than to copy a few bytes. So an image keeps a few lanes:
//! one exchange of the hazard word of such a lane, from zero to the inode, takes it among the threads of the image and
//! announces the inode to everybody, with a full fence.
//!
//! Invariants. A kept lane is claimed by its image until the image gives it up, or is recovered. Nothing of it is ever
//! used but hazard and range: no lock, no unit, no task, no transaction. Whoever changed its hazard from zero is alone with it
//! until he stores zero; also who gives it up does so. While the hazard is zero the range is empty, so who sees a new hazard
//! beside the range from before sees one that spares nothing.

use crate::Result;
use crate::announcements::ONLY_WAITS;
use crate::image;
use crate::lane::{CLAIM, HAZARD, Lane, RANGE_END, RANGE_START, claim_of, free_claim};
use crate::place_cache::{Answer, PlaceWitness, What};
use crate::region::Region;
use crate::thread_hint::thread_hint;
use crate::witness::Words;
use core::sync::atomic::{Ordering, fence};

/// How many lanes an image keeps at most: threads that write at once each find one, mostly.
pub(crate) const KEPT: usize = 4;

/// A hazard of no inode: the lane is being given up. It stays in a free lane when who gives it up dies between his last two stores; whoever
/// uses the lane next takes it away.
pub const NOBODYS: u64 = u64::MAX;

/// In place of a note: there is no lane to keep, and none is asked for again. (No lane's claim lacks bit 0.)
const REFUSED: u64 = NUMBER;

/// Of a note: the bits that say which lane it is; a claim has nothing there.
const NUMBER: u64 = 0xfffe;

/// A kept lane as this process notes it: its claim, and its number in bits 1..16. `None` for a number that has no room there.
fn note(index: u32, claim: u64) -> Option<u64> {
    let number = (index as u64) << 1;
    (number & !NUMBER == 0 && claim & NUMBER == 0 && claim_of(claim).is_some()).then_some(claim | number)
}

/// An announcement in a kept lane; withdrawn when dropped.
pub struct InPlace<'r> {
    region: &'r Region,
    at: u64,
    index: u32,
    /// Which of the kept lanes it is.
    kept: usize,
}

impl Region {
    /// Announces in a kept lane, without a claim, that data of `inode` in `[start, end)` will be touched. `None` when this
    /// thread's lane is in use (a signal handler, another thread), or none is kept yet (see [`Region::keep`]).
    ///
    /// Who looks at announcements sees the inode from here on, but the range perhaps only after [`InPlace::fence`].
    #[inline(always)]
    pub fn announce_in_place(&self, inode: u64, start: u64, end: u64) -> Result<Option<InPlace<'_>>> {
        let Some(announced) = self.take_kept(thread_hint() % KEPT, inode)? else { return Ok(None) };
        self.commit_all(announced.at, [(RANGE_START, start), (RANGE_END, end)])?;
        Ok(Some(announced))
    }

    /// As [`Region::announce_in_place`], of the inode itself: its cell stays what it is, and none of its data is touched.
    #[inline]
    pub fn announce_inode_in_place(&self, inode: u64) -> Result<Option<InPlace<'_>>> {
        self.announce_in_place(inode, ONLY_WAITS.0, ONLY_WAITS.1)
    }

    /// Takes the noted lane, unless somebody has it.
    #[inline(always)]
    fn take_kept(&self, kept: usize, hazard: u64) -> Result<Option<InPlace<'_>>> {
        let noted = self.private.kept[kept].load(Ordering::Relaxed);
        let Some(claim) = claim_of(noted) else { return Ok(None) };
        let index = (noted & NUMBER) as u32 >> 1;
        let at = self.lane_at(index)?;
        let word = self.word(at + HAZARD)?;
        if word.compare_exchange(0, hazard, Ordering::SeqCst, Ordering::Relaxed).is_err() {
            return Ok(None);
        }
        if self.load(at + CLAIM)? == noted & !NUMBER && claim.image == image::own(self)? {
            return Ok(Some(InPlace { region: self, at, index, kept }));
        }
        // Given up since it was noted, it may be another's: whose announcement came after this, it stands there instead.
        let _ = word.compare_exchange(hazard, 0, Ordering::SeqCst, Ordering::Relaxed);
        Ok(None)
    }

    /// Whether this thread's lane is kept already, or none will be.
    pub fn keeps_lane(&self) -> bool {
        self.private.kept[thread_hint() % KEPT].load(Ordering::Relaxed) != 0
    }

    /// Keeps a lane that was just claimed and never used, unless this thread has one, or half of all lanes are taken: the
    /// other half is for operations, and for recovering those who died with what they kept.
    pub fn keep(&self, lane: Lane<'_>) -> Result<()> {
        let place = &self.private.kept[thread_hint() % KEPT];
        // Lanes are claimed from the lowest, so its number says how many are taken.
        if lane.index() as u64 >= self.geometry().lanes / 2 {
            let _ = place.compare_exchange(0, REFUSED, Ordering::AcqRel, Ordering::Relaxed);
            return Ok(());
        }
        let Some(noted) = note(lane.index(), self.load(lane.at + CLAIM)?) else { return Ok(()) };
        lane.empty_header()?;
        if place.compare_exchange(0, noted, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            core::mem::forget(lane);
        }
        Ok(())
    }

    /// Frees the kept lanes that nobody uses at this moment: the program is about to end, or the image to give up its slot.
    pub fn give_up_kept(&self) -> Result<()> {
        for (kept, place) in self.private.kept.iter().enumerate() {
            let Some(taken) = self.take_kept(kept, NOBODYS)? else { continue };
            place.store(0, Ordering::Relaxed);
            let at = taken.at;
            // Its range is empty still. In this order: with a hazard no other thread of ours takes it, and without our claim none
            // keeps it; who claims it meanwhile may have announced something.
            core::mem::forget(taken);
            free_claim(self, at)?;
            let _ = self.word(at + HAZARD)?.compare_exchange(NOBODYS, 0, Ordering::SeqCst, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl InPlace<'_> {
    /// Index of the lane.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Where `what` is, if the words that said so last time say so now.
    #[inline(always)]
    pub fn known_place(&self, what: What) -> Result<Option<Answer>> {
        // SAFETY: `remember_place` takes what was loaded from this region.
        unsafe { self.region.private.places[self.kept].find(self.region, what) }
    }

    /// Remembers where `what` was found by a look-up that loaded its words through `witness`.
    pub fn remember_place(&self, what: What, answer: Answer, witness: &PlaceWitness<'_, Region>) {
        if core::ptr::eq(witness.region(), self.region) {
            self.region.private.places[self.kept].remember(what, answer, witness);
        }
    }

    /// From here on everybody sees the range, too.
    #[inline]
    pub fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    #[inline(always)]
    fn withdraw(&self) -> Result<()> {
        // In this order: without a hazard the range is empty.
        self.region.commit_all(self.at, [(RANGE_END, 0), (RANGE_START, 0), (HAZARD, 0)])
    }
}

impl Drop for InPlace<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // Only a damaged offset could fail here, and lanes lie at offsets computed from the checked superblock.
        let _ = self.withdraw();
    }
}
