//! What operations announce: which inode they work on without its lock, so that whoever unlinks a part of it frees that part
//! only when nobody can touch it any more.
//!
//! Either who unlinked sees the announcement, or who announced sees it unlinked: both sides have a full fence between their
//! store and their look. So what was unlinked before a moment can be touched after it only by operations that are
//! announced at that moment; once each of these has been seen without its announcement, it is nobody's.

use crate::Result;
use crate::image;
use crate::lane::{CLAIM, HAZARD, RANGE_END, RANGE_START, claim_of, claimed_lanes};
use crate::layout::LANES_LARGEST;
use crate::region::Region;
use core::sync::atomic::{Ordering, fence};

/// What other operations have announced about an inode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Announced {
    /// Nothing.
    Nothing,
    /// Somebody waits for its lock: its cell must stay what it is.
    Waiting,
    /// Somebody may touch what belongs to it without its lock.
    Touching,
}

/// A range that ends before it starts: nothing is touched.
pub(crate) const ONLY_WAITS: (u64, u64) = (1, 0);

/// What operations, other than the one in lane `except`, have announced about `inode`. Call after unlinking what must not
/// be reused: either the other sees it unlinked, or this sees the other.
pub fn announced(region: &Region, inode: u64, except: Option<u32>) -> Result<Announced> {
    most_announced(region, except, |hazard| hazard == inode)
}

/// As [`announced`], for whatever inode has or had this number (the low 40 bits of an inode id).
pub fn announced_number(region: &Region, number: u64, except: u32) -> Result<Announced> {
    most_announced(region, Some(except), |hazard| has_number(hazard, number))
}

fn has_number(hazard: u64, number: u64) -> bool {
    hazard != 0 && hazard & ((1 << 40) - 1) == number
}

fn most_announced(region: &Region, except: Option<u32>, is_meant: impl Fn(u64) -> bool) -> Result<Announced> {
    fence(Ordering::SeqCst);
    let claimed = claimed_lanes(region)?;
    let mut most = Announced::Nothing;
    for index in (0..claimed as u32).filter(|&index| Some(index) != except) {
        let at = region.lane_at(index)?;
        if !is_meant(region.word(at + HAZARD)?.load(Ordering::SeqCst)) {
            continue;
        }
        if (region.load(at + RANGE_START)?, region.load(at + RANGE_END)?) != ONLY_WAITS {
            return Ok(Announced::Touching);
        }
        most = Announced::Waiting;
    }
    Ok(most)
}

/// Calls `each` with start and end of every range that an operation of a living process announced in `inode`, but for
/// the operation in lane `except`. What the dead announced is not in anybody's way.
pub fn each_announced_range(
    region: &Region,
    inode: u64,
    except: u32,
    mut each: impl FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    fence(Ordering::SeqCst);
    let claimed = claimed_lanes(region)?;
    for index in (0..claimed as u32).filter(|&index| index != except) {
        let at = region.lane_at(index)?;
        if region.word(at + HAZARD)?.load(Ordering::SeqCst) != inode {
            continue;
        }
        let (start, end) = (region.load(at + RANGE_START)?, region.load(at + RANGE_END)?);
        let claim = claim_of(region.load(at + CLAIM)?);
        if let Some(claim) = claim
            && image::is_alive(region, claim.image)?
        {
            each(start, end)?;
        }
    }
    Ok(())
}

/// The operations that had announced an inode number at one moment.
pub struct Announcers {
    number: u64,
    /// One bit for each lane in which such an operation has not been seen to be over.
    lanes: [u64; (LANES_LARGEST / 64) as usize],
}

impl Announcers {
    /// Those of now. Call after unlinking what must not be reused.
    pub fn of(region: &Region, number: u64) -> Result<Announcers> {
        fence(Ordering::SeqCst);
        let mut found = Announcers { number, lanes: [0; (LANES_LARGEST / 64) as usize] };
        for index in 0..claimed_lanes(region)?.min(LANES_LARGEST) {
            if found.announces(region, index)? {
                found.lanes[(index / 64) as usize] |= 1 << (index % 64);
            }
        }
        Ok(found)
    }

    fn announces(&self, region: &Region, lane: u64) -> Result<bool> {
        let hazard = region.word(region.lane_at(lane as u32)? + HAZARD)?.load(Ordering::SeqCst);
        Ok(has_number(hazard, self.number))
    }

    /// Whether each of them has been seen, now or at a look before, without the announcement.
    pub fn are_over(&mut self, region: &Region) -> Result<bool> {
        let mut over = true;
        for word in 0..self.lanes.len() {
            let mut left = self.lanes[word];
            while left != 0 {
                let bit = left.trailing_zeros() as u64;
                left &= left - 1;
                if self.announces(region, word as u64 * 64 + bit)? {
                    over = false;
                } else {
                    self.lanes[word] &= !(1 << bit);
                }
            }
        }
        Ok(over)
    }
}
