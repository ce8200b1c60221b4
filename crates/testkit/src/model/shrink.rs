//! Finding a short list of operations that still differs.

use super::op::Op;
use std::time::{Duration, Instant};

/// Drops operations from `failing` as long as `still_fails` says so: first the tail, then ever smaller pieces. Ends
/// when nothing can be dropped, or when `time` is over.
pub fn smallest(failing: &[Op], time: Duration, mut still_fails: impl FnMut(&[Op]) -> Option<usize>) -> Vec<Op> {
    let end = Instant::now() + time;
    let mut best = failing.to_vec();
    let mut piece = best.len() / 2;
    while piece > 0 && Instant::now() < end {
        let mut start = 0;
        let mut dropped_any = false;
        while start < best.len() && Instant::now() < end {
            let mut candidate = best.clone();
            candidate.drain(start..(start + piece).min(best.len()));
            match still_fails(&candidate) {
                Some(after) => {
                    candidate.truncate(after + 1);
                    best = candidate;
                    dropped_any = true;
                }
                None => start += piece,
            }
        }
        // Single operations are tried again and again, because dropping one may make another superfluous.
        if piece > 1 || !dropped_any {
            piece /= 2;
        }
    }
    best
}
