//! The proof that a copy still has to be fenced.

use core::sync::atomic::{Ordering, compiler_fence};

/// Non-temporal stores may still be in the write-combining buffers of this processor.
///
/// A release store does not wait for them: another processor can see the flag before the data. So whoever publishes
/// data takes this token and calls [`fence`](MustFence::fence) before the commit word is stored. A token that is merely
/// dropped fences too, so that an early return cannot lose it; only `core::mem::forget` can.
#[must_use = "turn it into a fence before the word that publishes the data is stored"]
#[derive(Debug)]
pub struct MustFence(bool);

impl MustFence {
    /// The token of ordinary stores, which need no fence: the neutral element of [`and`](MustFence::and).
    #[inline]
    pub const fn nothing() -> MustFence {
        MustFence(false)
    }

    /// The token after non-temporal stores.
    #[cfg(target_arch = "x86_64")]
    pub(crate) const fn streamed() -> MustFence {
        MustFence(true)
    }

    /// One token for two copies: a single fence then serves both.
    #[inline]
    pub fn and(mut self, mut other: MustFence) -> MustFence {
        let both = MustFence(self.0 | other.0);
        // Their duty has passed to `both`.
        self.0 = false;
        other.0 = false;
        both
    }

    /// Whether non-temporal stores were made, so that [`fence`](MustFence::fence) will cost something.
    pub fn is_needed(&self) -> bool {
        self.0
    }

    /// Waits until all earlier non-temporal stores of this thread can be seen by everyone, if there were any; in every
    /// case keeps the compiler from moving stores across.
    #[inline]
    pub fn fence(self) {
        drop(self);
    }
}

impl Drop for MustFence {
    #[inline]
    fn drop(&mut self) {
        if self.0 {
            crate::machine::store_fence();
        }
        compiler_fence(Ordering::SeqCst);
    }
}
