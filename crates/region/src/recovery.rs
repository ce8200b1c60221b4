//! Recovery: finishing what dead images began, by whoever meets it.
//!
//! An image that is proved gone is claimed by one recoverer at a time. For each of its lanes: a committed transaction is
//! applied (again), its locks are taken over, what the file system must finish is finished, units linked nowhere are
//! freed, the locks are given back. Every step may be repeated, so a recoverer may itself be killed at any instruction:
//! who recovers it also takes on those whom it was recovering, and applies all their transactions before anything else.

use crate::image::{self, Image};
use crate::lane::{
    self, CLAIM, HAZARD, LOCK_COUNT, LOCKS, Lane, OWNS_UNITS, RANGE_END, RANGE_START, TASK, TASK_KIND, Task, claim_of,
};
use crate::lock::{self, LockOwner};
use crate::region::Region;
use crate::{DAMAGED, Result, space};

/// What the floor above does for dead operations.
pub trait Finish {
    /// Finishes the task of a dead operation; `lane` holds the locks that it held. False when it cannot be done now, because
    /// somebody holds a lock that it takes.
    fn finish(&self, lane: &Lane<'_>, task: Task) -> Result<bool>;
    /// Cleans up after the write that the dead operation had announced. False when it cannot be done now, because
    /// somebody holds a lock that it takes: it must not wait, because the caller may be that somebody.
    fn clean_up(&self, lane: &Lane<'_>, task: Task) -> Result<bool>;
    /// An image is gone: whatever else it alone held. Must not wait for locks either; false when something is left because
    /// of that.
    fn image_gone(&self, image: Image) -> Result<bool>;
}

/// Looks at the owner of a lock that does not come free, and recovers it if it is dead.
pub(crate) fn examine(region: &Region, offset: u64, owner: LockOwner, finish: &dyn Finish) -> Result<()> {
    match lock::lane_of(region, owner)? {
        Some(image) => {
            if recover_image(region, image.slot, finish)? || image::holds_slot(region, image)? {
                return Ok(());
            }
            // A lane is given back before its image's slot is: nobody can be waited for, and nobody recovered.
            if lock::lane_of(region, owner)? == Some(image) { Err(DAMAGED) } else { Ok(()) }
        }
        None => {
            // The lane moved on without this lock: a store into the word by somebody who does not own it. The lock's
            // owner cannot exist, so the word is exchanged for a free one if it is still the same.
            let word = region.load(offset)?;
            if lock::decode(region, word)? == Some(owner) && lock::lane_of(region, owner)?.is_none() {
                region.commit_exchange(offset, word, 0, lifeboat_kernels::MustFence::nothing())?;
            }
            Ok(())
        }
    }
}

/// Recovers the image in `slot` if it is proved gone; tells whether it did.
pub fn recover_image(region: &Region, slot: u32, finish: &dyn Finish) -> Result<bool> {
    let mut first = slot;
    // Each of these was recovering the one before when it died.
    for _ in 0..GANG {
        match image::dead_recoverer(region, first)? {
            Some(recoverer) => first = recoverer,
            None => break,
        }
    }
    match image::claim_for_recovery(region, first)? {
        Some(dead) => recover_claimed(region, dead, finish).map(|()| true),
        None => Ok(false),
    }
}

/// Recovers every image that is proved gone; tells how many. Damage that one of them left keeps nobody from the others; it is
/// answered at the end.
pub fn recover_all(region: &Region, finish: &dyn Finish) -> Result<u32> {
    let mut count = 0;
    let mut slots = [0u64; 1024 / 64];
    image::attached(region, |image, _| slots[(image.slot as usize / 64) % 16] |= 1 << (image.slot % 64))?;
    let mut failed = None;
    // What waited for a lock of one that was recovered later is done in the second round.
    for round in 0..2 {
        let mut done = 0;
        for slot in 0..region.geometry().images as u32 {
            if slots[(slot as usize / 64) % 16] & 1 << (slot % 64) == 0 {
                continue;
            }
            match recover_image(region, slot, finish) {
                Ok(recovered) => done += recovered as u32,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        count += if round == 0 { done } else { 0 };
        if done == 0 {
            break;
        }
    }
    failed.map_or(Ok(count), Err)
}

/// A program that this process executed before the present one left its slot: it is gone by definition.
pub fn recover_own_predecessors(region: &Region, finish: &dyn Finish) -> Result<()> {
    let mut found = [Image { slot: 0, generation: 0 }; 8];
    let mut count = 0;
    image::own_predecessors(region, |image| {
        if count < found.len() {
            found[count] = image;
            count += 1;
        }
    })?;
    for &image in &found[..count] {
        if image::claim_predecessor(region, image)? {
            recover_claimed(region, image, finish)?;
        }
    }
    Ok(())
}

/// Most images that are recovered together.
const GANG: usize = 16;

/// An image, those that it was recovering, and so on: all claimed by this one.
struct Gang {
    images: [Image; GANG],
    count: usize,
}

impl Gang {
    /// Claims those whom the first was recovering, and so on.
    fn join(&mut self, region: &Region) -> Result<()> {
        let mut before = 0;
        while before < self.count {
            before = self.count;
            for slot in 0..region.geometry().images as u32 {
                if self.count < GANG
                    && let Some(ward) = image::claim_ward(region, slot, self.members())?
                {
                    self.images[self.count] = ward;
                    self.count += 1;
                }
            }
        }
        Ok(())
    }

    fn members(&self) -> &[Image] {
        &self.images[..self.count]
    }

    /// Whether this lock was taken over by one of the gang from another and has nothing to do with a task of its own.
    fn passed_on(&self, region: &Region, owner: LockOwner) -> Result<bool> {
        let Some(image) = lock::lane_of(region, owner)? else { return Ok(false) };
        Ok(self.members().contains(&image) && region.load(region.lane_at(owner.lane)? + TASK_KIND)? == 0)
    }
}

fn recover_claimed(region: &Region, dead: Image, finish: &dyn Finish) -> Result<()> {
    let mut gang = Gang { images: [dead; GANG], count: 1 };
    let result = gang.join(region).and_then(|()| recover_gang(region, &gang, finish));
    if result.is_err() {
        // What is damaged stays so, but nobody must wait for us: who looks next meets the damage himself.
        for &image in gang.members() {
            image::recovery_put_off_by_us(region, image)?;
        }
    }
    result
}

fn recover_gang(region: &Region, gang: &Gang, finish: &dyn Finish) -> Result<()> {
    for index in 0..region.geometry().lanes as u32 {
        let at = region.lane_at(index)?;
        if claim_of(region.load(at + CLAIM)?).is_some_and(|claim| gang.members().contains(&claim.image)) {
            lane::redo(region, at)?;
        }
    }
    let mut whole = [false; GANG];
    // In the second round the locks are free that some of them held when others were looked at.
    for _ in 0..2 {
        for (image, whole) in gang.members().iter().zip(&mut whole).filter(|(_, whole)| !**whole) {
            *whole = recover_lanes(region, *image, gang, finish)?;
        }
    }
    // The first of them last: until then it says that the others are not done.
    for (&image, whole) in gang.members().iter().zip(whole).rev() {
        free_lanes(region, image)?;
        let all = finish.image_gone(image)? && whole;
        if all { image::recovered(region, image) } else { image::recovery_put_off(region, image) }?;
    }
    Ok(())
}

/// False when something could not be done yet and stays announced.
fn recover_lanes(region: &Region, dead: Image, gang: &Gang, finish: &dyn Finish) -> Result<bool> {
    let mut whole = true;
    for index in 0..region.geometry().lanes as u32 {
        let at = region.lane_at(index)?;
        let Some(claim) = claim_of(region.load(at + CLAIM)?) else { continue };
        if claim.image == dead {
            whole &= recover_lane(region, LockOwner { lane: index, generation: claim.generation }, at, gang, finish)?;
        }
    }
    Ok(whole)
}

/// Frees what the lanes own, then the lanes: until then their claims tell whose the owned units are.
fn free_lanes(region: &Region, dead: Image) -> Result<()> {
    let each = |act: &mut dyn FnMut(u64) -> Result<()>| -> Result<()> {
        for index in 0..region.geometry().lanes as u32 {
            let at = region.lane_at(index)?;
            if claim_of(region.load(at + CLAIM)?).is_some_and(|claim| claim.image == dead) {
                act(at)?;
            }
        }
        Ok(())
    };
    let mut owns_units = false;
    each(&mut |at| {
        owns_units |= region.load(at + OWNS_UNITS)? != 0;
        Ok(())
    })?;
    if owns_units {
        space::reclaim_owned(region, dead)?;
    }
    each(&mut |at| {
        if region.load(at + HAZARD)? == 0 && region.load(at + TASK_KIND)? == 0 {
            region.word(at + OWNS_UNITS)?.store(0, core::sync::atomic::Ordering::Release);
            lane::free_claim(region, at)?;
        }
        Ok(())
    })
}

/// False when the lane's task could not be finished, or its announced write not cleaned up yet: both stay announced.
fn recover_lane(region: &Region, dead: LockOwner, at: u64, gang: &Gang, finish: &dyn Finish) -> Result<bool> {
    let task = Task {
        kind: region.load(at + TASK_KIND)?,
        inode: region.load(at + TASK)?,
        hazard: region.load(at + HAZARD)?,
        range: (region.load(at + RANGE_START)?, region.load(at + RANGE_END)?),
    };
    let mut has_locks = false;
    for entry in 0..LOCK_COUNT {
        has_locks |= region.load(at + LOCKS + entry * 8)? != 0;
    }
    // Lanes that the dead kept, and did not use: to free them takes no lane, which there may be none of because of them.
    if task.kind == 0 && task.hazard == 0 && !has_locks {
        return Ok(true);
    }
    let mine = Lane::claim(region)?;
    for entry in 0..LOCK_COUNT {
        let offset = region.load(at + LOCKS + entry * 8)?;
        if offset != 0 {
            mine.take_over(offset, &|owner| Ok(owner == dead || gang.passed_on(region, owner)?))?;
        }
    }
    let clear = |field: u64| -> Result<()> {
        region.word(at + field)?.store(0, core::sync::atomic::Ordering::Release);
        Ok(())
    };
    let finished = task.kind == 0 || finish.finish(&mine, task)?;
    if finished {
        clear(TASK_KIND)?;
    }
    let cleaned = task.hazard == 0 || finish.clean_up(&mine, task)?;
    if cleaned {
        clear(HAZARD)?;
    }
    for entry in 0..LOCK_COUNT {
        clear(LOCKS + entry * 8)?;
    }
    Ok(finished && cleaned)
}
