//! A program's memory as it comes: several pieces, used up in order.

use crate::{Errno, Result, UserSource, UserTarget};

/// One piece of a program's memory.
pub(crate) trait Length {
    fn length(&self) -> usize;
}

impl Length for UserSource<'_> {
    fn length(&self) -> usize {
        self.len()
    }
}

impl Length for UserTarget<'_> {
    fn length(&self) -> usize {
        self.len()
    }
}

/// What is left of several pieces.
pub(crate) struct Pieces<'p, P> {
    pieces: &'p [P],
    skip: usize,
}

impl<P> Clone for Pieces<'_, P> {
    fn clone(&self) -> Self {
        Pieces { ..*self }
    }
}

/// Pieces to take from.
pub(crate) type Source<'p, 'u> = Pieces<'p, UserSource<'u>>;

impl<'p, P: Length> Pieces<'p, P> {
    pub(crate) fn new(pieces: &'p [P]) -> Self {
        Pieces { pieces, skip: 0 }
    }

    /// The piece that the next `length` bytes all lie in, and how much of it to skip; `None` when they lie in several.
    #[inline]
    pub(crate) fn one_piece(&self, length: usize) -> Option<(&'p P, usize)> {
        let piece = self.pieces.first()?;
        (piece.length() - self.skip >= length).then_some((piece, self.skip))
    }

    /// Calls `copy(piece, skip, length, offset)` for the next `length` bytes.
    pub(crate) fn take(
        &mut self,
        length: usize,
        mut copy: impl FnMut(&P, usize, usize, u64) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < length {
            let (piece, rest) = self.pieces.split_first().ok_or(Errno::INVAL)?;
            let here = (piece.length() - self.skip).min(length - done);
            if here > 0 {
                copy(piece, self.skip, here, done as u64)?;
            }
            done += here;
            self.skip += here;
            if self.skip == piece.length() {
                (self.pieces, self.skip) = (rest, 0);
            }
        }
        Ok(())
    }
}

/// Length of all pieces; `INVAL` when it does not fit a signed word.
pub(crate) fn total<P: Length>(pieces: &[P]) -> Result<u64> {
    let mut sum = 0u64;
    for piece in pieces {
        sum = sum.checked_add(piece.length() as u64).ok_or(Errno::INVAL)?;
    }
    if sum > i64::MAX as u64 { Err(Errno::INVAL) } else { Ok(sum) }
}
