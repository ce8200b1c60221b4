//! Process images: who is attached, and who takes care of those that are gone.
//!
//! A slot belongs to an *image*: a program started in a process, ended by exit, kill or exec. Its 64 bytes:
//!
//! | word | meaning |
//! |---|---|
//! | 0 | bits 0..2 state (free, live, recovering); 16..32 generation; 32..48 slot of the recoverer |
//! | 1 | process id |
//! | 2 | start time of the process, in clock ticks since boot |
//! | 3 | pid namespace |
//! | 4 | run id |
//! | 5 | 1: it has a witness |
//!
//! What follows from a death is here; what proves one is in [`crate::proof`].

use crate::proof::{self, SlotLock, Witness, is_gone, is_gone_but_for_us};
use crate::region::Region;
use crate::{Errno, Result};
use core::sync::atomic::Ordering;
use lifeboat_kernels::MustFence;

const STATE: u64 = 3;
const FREE: u64 = 0;
const LIVE: u64 = 1;
const RECOVERING: u64 = 2;

/// A slot at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Index in the table.
    pub slot: u32,
    /// Raised whenever the slot is taken.
    pub generation: u16,
}

fn word(state: u64, generation: u16, recoverer: u32) -> u64 {
    state | (generation as u64) << 16 | (recoverer as u64) << 32
}

fn generation_of(word: u64) -> u16 {
    (word >> 16) as u16
}

/// What a slot's words say of its holder.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start: u64,
    /// Pid namespace.
    pub namespace: u64,
    /// Run id at attach.
    pub run: u16,
}

/// The holder recorded in a slot.
pub fn holder(region: &Region, slot: u32) -> Result<Holder> {
    let at = region.image_at(slot)?;
    Ok(Holder {
        pid: region.load(at + 8)? as u32,
        start: region.load(at + 16)?,
        namespace: region.load(at + 24)?,
        run: region.load(at + 32)? as u16,
    })
}

/// The images that hold a slot now (live, or being recovered).
pub fn attached(region: &Region, mut each: impl FnMut(Image, Holder)) -> Result<()> {
    for slot in 0..region.geometry().images as u32 {
        let state = region.load(region.image_at(slot)?)?;
        if state & STATE != FREE {
            each(Image { slot, generation: generation_of(state) }, holder(region, slot)?);
        }
    }
    Ok(())
}

/// This process's image, taking a slot at the first call (also in a forked child). `NFILE` when all slots are held by
/// images that live.
#[inline]
pub fn own(region: &Region) -> Result<Image> {
    let known = region.private.image.load(Ordering::Acquire);
    if known != 0 {
        return Ok(Image { slot: known as u32 - 1, generation: (known >> 32) as u16 });
    }
    take(region)
}

/// Whether this process has a slot already.
pub fn has_own(region: &Region) -> bool {
    region.private.image.load(Ordering::Acquire) != 0
}

#[cold]
fn take(region: &Region) -> Result<Image> {
    let taking = &region.private.taking;
    while taking.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
        rustix::thread::sched_yield();
    }
    let known = region.private.image.load(Ordering::Acquire);
    let result = if known != 0 {
        Ok(Image { slot: known as u32 - 1, generation: (known >> 32) as u16 })
    } else {
        take_a_slot(region)
    };
    taking.store(0, Ordering::Release);
    result
}

fn take_a_slot(region: &Region) -> Result<Image> {
    let Holder { pid, start, namespace, run } = proof::own_identity(region)?;
    let images = region.geometry().images as u32;
    // Programs that end without a word leave their slots: in the second round those are looked at, too.
    for step in 0..2 * images {
        let slot = (pid.wrapping_mul(2_654_435_761).wrapping_add(step)) % images;
        let at = region.image_at(slot)?;
        let takeable = |state: u64, has_witness: bool| -> Result<bool> {
            let image = Image { slot, generation: generation_of(state) };
            let left = match state & STATE {
                FREE => return Ok(true),
                LIVE => step >= images && is_gone_but_for_us(region, slot, has_witness)?,
                RECOVERING => false,
                // Damage. A holder that lives has both of the kernel's locks, which are asked for next.
                _ => step >= images,
            };
            Ok(left && !has_lanes(region, image)?)
        };
        if !takeable(region.load(at)?, false)? {
            continue;
        }
        // The kernel's lock makes us the only one who may turn this slot into our own.
        let Some(witness) = Witness::take(region, slot)? else { continue };
        let state = region.load(at)?;
        if !takeable(state, true)? {
            continue;
        }
        let Some(lock) = SlotLock::take(region, slot)? else { continue };
        for (index, value) in [(1, pid as u64), (2, start), (3, namespace), (4, run as u64), (5, 1)] {
            region.word(at + index * 8)?.store(value, Ordering::Relaxed);
        }
        let generation = generation_of(state).wrapping_add(1);
        if !region.commit_exchange(at, state, word(LIVE, generation, 0), MustFence::nothing())? {
            continue;
        }
        region.private.lock_file.store(lock.keep() + 1, Ordering::Release);
        region.private.witness.store(witness.keep(), Ordering::Release);
        region.private.image.store((slot as u64 + 1) | (generation as u64) << 32, Ordering::Release);
        return Ok(Image { slot, generation });
    }
    Err(Errno::NFILE)
}

fn has_lanes(region: &Region, image: Image) -> Result<bool> {
    for lane in 0..region.geometry().lanes as u32 {
        let claim = crate::lane::claim_of(region.load(region.lane_at(lane)?)?);
        if claim.is_some_and(|claim| claim.image == image) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the image still has its slot, living or being recovered.
pub(crate) fn holds_slot(region: &Region, image: Image) -> Result<bool> {
    let state = region.load(region.image_at(image.slot)?)?;
    Ok(state & STATE != FREE && state & STATE <= RECOVERING && generation_of(state) == image.generation)
}

/// Whether the image that `slot` and `generation` name still holds its slot and is not proved gone.
pub fn is_alive(region: &Region, image: Image) -> Result<bool> {
    let state = region.load(region.image_at(image.slot)?)?;
    Ok(state & STATE == LIVE && generation_of(state) == image.generation && !is_gone(region, image.slot)?)
}

/// Gives the slot back at an orderly detach. Lanes of this image must be free.
pub fn give_up(region: &Region) {
    // Before the slot: who takes that must find none of ours.
    let _ = region.give_up_kept();
    let known = region.private.image.swap(0, Ordering::AcqRel);
    if known == 0 {
        return;
    }
    let (slot, generation) = (known as u32 - 1, (known >> 32) as u16);
    if let Ok(at) = region.image_at(slot) {
        let _ = region.commit_exchange(at, word(LIVE, generation, 0), word(FREE, generation, 0), MustFence::nothing());
    }
    let file = region.private.lock_file.swap(0, Ordering::AcqRel);
    let page = region.private.witness.swap(0, Ordering::AcqRel);
    // SAFETY: both were kept by `take_a_slot` for this slot and are given up nowhere else.
    unsafe { proof::let_go(file.checked_sub(1), page) };
}

/// Claims a gone image for recovery by this one; `None` when it lives, is free, or was claimed by another image that did
/// not give its own slot back (see [`dead_recoverer`]).
pub(crate) fn claim_for_recovery(region: &Region, slot: u32) -> Result<Option<Image>> {
    let me = own(region)?;
    let at = region.image_at(slot)?;
    let state = region.load(at)?;
    let may = match state & STATE {
        LIVE => is_gone(region, slot)?,
        // Recovered by us already (a signal handler, a second thread): let the first go on.
        RECOVERING if recoverer_of(state) == me.slot => false,
        RECOVERING => region.load(region.image_at(recoverer_of(state))?)? & STATE == FREE,
        _ => false,
    };
    if !may || slot == me.slot {
        return Ok(None);
    }
    claim(region, slot, state)
}

fn recoverer_of(state: u64) -> u32 {
    (state >> 32) as u16 as u32
}

fn claim(region: &Region, slot: u32, state: u64) -> Result<Option<Image>> {
    let generation = generation_of(state);
    let claimed = word(RECOVERING, generation, own(region)?.slot);
    let won = region.commit_exchange(region.image_at(slot)?, state, claimed, MustFence::nothing())?;
    Ok(won.then_some(Image { slot, generation }))
}

/// The image that was recovering the one in `slot` and is itself gone: it must be recovered first, because it may hold
/// the other's locks and have a transaction about what they guard.
pub(crate) fn dead_recoverer(region: &Region, slot: u32) -> Result<Option<u32>> {
    let state = region.load(region.image_at(slot)?)?;
    if state & STATE != RECOVERING || recoverer_of(state) == own(region)?.slot {
        return Ok(None);
    }
    let recoverer = recoverer_of(state);
    let free = region.load(region.image_at(recoverer)?)? & STATE == FREE;
    Ok((!free && is_gone(region, recoverer)?).then_some(recoverer))
}

/// Claims the image in `slot` if one of `claimed`, which this image has claimed, was recovering it.
pub(crate) fn claim_ward(region: &Region, slot: u32, claimed: &[Image]) -> Result<Option<Image>> {
    let state = region.load(region.image_at(slot)?)?;
    let ward = state & STATE == RECOVERING && claimed.iter().any(|image| image.slot == recoverer_of(state));
    if ward { claim(region, slot, state) } else { Ok(None) }
}

/// Frees a recovered slot.
pub(crate) fn recovered(region: &Region, image: Image) -> Result<()> {
    region.commit(region.image_at(image.slot)?, word(FREE, image.generation, 0), MustFence::nothing())
}

/// Something of a gone image is left to do: the next who looks at it will.
pub(crate) fn recovery_put_off(region: &Region, image: Image) -> Result<()> {
    region.commit(region.image_at(image.slot)?, word(LIVE, image.generation, 0), MustFence::nothing())
}

/// As [`recovery_put_off`], if this image still has it claimed: the recovery met damage.
pub(crate) fn recovery_put_off_by_us(region: &Region, image: Image) -> Result<()> {
    let at = region.image_at(image.slot)?;
    let claimed = word(RECOVERING, image.generation, own(region)?.slot);
    region.commit_exchange(at, claimed, word(LIVE, image.generation, 0), MustFence::nothing()).map(|_| ())
}

/// Slots that this very process held before it executed the present program: gone by definition. What else in this process has
/// attached by itself (a library beside the program) has its witness, which an exec takes along.
pub(crate) fn own_predecessors(region: &Region, mut each: impl FnMut(Image)) -> Result<()> {
    let me = own(region)?;
    let mine = holder(region, me.slot)?;
    attached(region, |image, holder| {
        if image.slot != me.slot
            && holder.pid == mine.pid
            && holder.start == mine.start
            && holder.namespace == mine.namespace
            && Witness::is_lost(region, image.slot)
        {
            each(image);
        }
    })
}

/// Claims the slot of an image that [`own_predecessors`] named.
pub(crate) fn claim_predecessor(region: &Region, image: Image) -> Result<bool> {
    let me = own(region)?;
    let at = region.image_at(image.slot)?;
    let state = region.load(at)?;
    if state & STATE != LIVE || generation_of(state) != image.generation {
        return Ok(false);
    }
    region.commit_exchange(at, state, word(RECOVERING, image.generation, me.slot), MustFence::nothing())
}
