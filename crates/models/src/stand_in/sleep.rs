//! Sleeping in a model: others run, and then the time is over.

use crate::region::Region;
use crate::Result;

/// As the product's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// As the product's.
    Called,
    /// As the product's.
    TimedOut,
    /// As the product's.
    Interrupted,
}

/// As the product's.
pub fn while_unchanged(region: &Region, offset: u64, low: u32) -> Result<Woken> {
    if region.load(offset)? as u32 != low {
        return Ok(Woken::Called);
    }
    loom::thread::yield_now();
    Ok(Woken::TimedOut)
}

/// As the product's.
pub fn while_unchanged_restarting(region: &Region, offset: u64, low: u32) -> Result<Woken> {
    while_unchanged(region, offset, low)
}

/// As the product's.
pub fn wake_all(_region: &Region, _offset: u64) -> Result<()> {
    Ok(())
}
