//! Who fills the memory of a new region: one process alone, or workers on all memory nodes at once.

use super::error::CreateError;

/// Workers that fill memory, and whoever watches them.
pub trait Crew {
    /// On how many memory nodes there are workers; at least one.
    fn nodes(&self) -> u32 {
        1
    }

    /// How many workers there are on all nodes together; at least one.
    fn workers(&self) -> u32 {
        1
    }

    /// Is told that `done` of `total` bytes are there; it only grows.
    fn tell(&mut self, done: u64, total: u64);

    /// Calls `work` once on each worker, all at the same time, with the number of its memory node; answers when all have ended, with an error
    /// if one had any. Meanwhile says, as [`Crew::tell`] would, what `done` answers.
    fn all_at_once(
        &mut self,
        work: &(dyn Fn(u32) -> Result<(), CreateError> + Sync),
        _done: &dyn Fn() -> u64,
        _total: u64,
    ) -> Result<(), CreateError> {
        work(0)
    }
}

/// A process alone, which is told of its progress.
impl<F: FnMut(u64, u64)> Crew for F {
    fn tell(&mut self, done: u64, total: u64) {
        self(done, total);
    }
}
