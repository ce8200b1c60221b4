//! Words of the region by what they are: the only way from a region to [`commit`].

use crate::commit::{Volatile, commit, commit_exchange};
use crate::layout::{IMAGE, LANE};
use crate::region::Region;
use crate::{DAMAGED, Result};
use lifeboat_kernels::MustFence;

impl Region {
    /// Publishes a word of the durable part.
    pub fn commit(&self, offset: u64, value: u64, data: MustFence) -> Result<()> {
        commit::<Volatile>(self.word(offset)?, value, data);
        Ok(())
    }

    /// Publishes each value in the word that lies so many bytes behind `start`, in this order. One check for all of them.
    #[inline(always)]
    pub fn commit_all<const N: usize>(&self, start: u64, values: [(u64, u64); N]) -> Result<()> {
        let words = self.words_at(start, values.map(|(behind, _)| behind))?;
        for (word, (_, value)) in words.into_iter().zip(values) {
            commit::<Volatile>(word, value, MustFence::nothing());
        }
        Ok(())
    }

    /// Publishes a word of the durable part if it still holds `old`; tells whether it did.
    pub fn commit_exchange(&self, offset: u64, old: u64, new: u64, data: MustFence) -> Result<bool> {
        Ok(commit_exchange::<Volatile>(self.word(offset)?, old, new, data).is_ok())
    }

    /// Offset of an image slot.
    pub(crate) fn image_at(&self, slot: u32) -> Result<u64> {
        if slot as u64 >= self.geometry().images {
            return Err(DAMAGED);
        }
        Ok(self.geometry().images_at + slot as u64 * IMAGE)
    }

    /// Offset of a lane.
    pub fn lane_at(&self, lane: u32) -> Result<u64> {
        if lane as u64 >= self.geometry().lanes {
            return Err(DAMAGED);
        }
        Ok(self.geometry().lanes_at + lane as u64 * LANE)
    }
}
