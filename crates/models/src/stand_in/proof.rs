//! Proof of death in a model: the kernel knows.

use crate::image::{self, Holder};
use crate::region::Region;
use crate::Result;

/// As the product's.
pub(crate) fn own_identity(region: &Region) -> Result<Holder> {
    Ok(Holder { pid: region.process.number as u32 + 1, start: 7, namespace: 1, run: region.superblock().run })
}

/// As the product's: the other lock is enough.
pub(crate) struct SlotLock(u32);

impl SlotLock {
    /// As the product's.
    pub(crate) fn take(_region: &Region, slot: u32) -> Result<Option<SlotLock>> {
        Ok(Some(SlotLock(slot)))
    }

    /// As the product's.
    pub(crate) fn keep(self) -> u32 {
        self.0
    }
}

/// As the product's.
pub(crate) struct Witness(usize);

impl Witness {
    /// As the product's.
    pub(crate) fn take(region: &Region, slot: u32) -> Result<Option<Witness>> {
        Ok(region.process.take_slot_lock(slot as usize).then_some(Witness(slot as usize)))
    }

    /// As the product's.
    pub(crate) fn keep(self) -> usize {
        self.0
    }

    /// As the product's: nothing is executed in a model, so nobody asks for what ran before.
    pub(crate) fn is_lost(_region: &Region, _slot: u32) -> bool {
        true
    }
}

/// As the product's.
///
/// # Safety
/// None needed.
pub(crate) unsafe fn let_go(_descriptor: Option<u32>, _page: usize) {}

/// As the product's.
pub(crate) fn is_gone(region: &Region, slot: u32) -> Result<bool> {
    if image::has_own(region) && image::own(region)?.slot == slot {
        return Ok(false);
    }
    is_gone_but_for_us(region, slot, false)
}

/// As the product's.
pub(crate) fn is_gone_but_for_us(region: &Region, slot: u32, _has_witness: bool) -> Result<bool> {
    let holder = image::holder(region, slot)?;
    Ok(region.process.knows_dead(holder.pid as usize - 1))
}
