//! Proof of death in a model: the kernel knows.

use crate::image::{self, Holder};
use crate::region::Region;
use crate::Result;

/// As the product's.
pub(crate) fn own_identity(region: &Region) -> Result<Holder> {
    Ok(Holder { pid: region.process.number as u32 + 1, start: 7, namespace: 1, run: region.superblock().run })
}

/// As the product's.
pub(crate) struct SlotLock(u32);

impl SlotLock {
    /// As the product's.
    pub(crate) fn take(region: &Region, slot: u32) -> Result<Option<SlotLock>> {
        Ok(region.process.take_slot_lock(slot as usize).then_some(SlotLock(slot)))
    }

    /// As the product's.
    pub(crate) fn keep(self) -> u32 {
        self.0
    }
}

/// As the product's.
///
/// # Safety
/// None needed.
pub(crate) unsafe fn let_go(_descriptor: u32) {}

/// As the product's.
pub(crate) fn is_gone(region: &Region, slot: u32) -> Result<bool> {
    if image::has_own(region) && image::own(region)?.slot == slot {
        return Ok(false);
    }
    let holder = image::holder(region, slot)?;
    Ok(region.process.knows_dead(holder.pid as usize - 1))
}
