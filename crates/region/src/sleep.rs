//! Sleeping until a word of the region changes: a futex on its low half, for at most 50 ms, so that whoever sleeps looks
//! again whether those for whom it waits are alive.

use crate::region::Region;
use crate::{Errno, Result};
use core::sync::atomic::AtomicU32;
use rustix::thread::futex::{self, Wait, WaitFlags, WaitPtr, WaitvFlags};
use rustix::time::{ClockId, Timespec};

const PATIENCE_NANOSECONDS: i64 = 50_000_000;

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The word changed, or somebody called [`wake_all`].
    Called,
    /// Nothing happened for 50 ms.
    TimedOut,
    /// A signal was handled.
    Interrupted,
}

fn low_half(region: &Region, offset: u64) -> Result<&AtomicU32> {
    let word = region.word(offset)?;
    // SAFETY: the low half (little-endian) of a valid, mapped atomic word; the futex calls only need its address and
    // compare atomically.
    Ok(unsafe { AtomicU32::from_ptr(word.as_ptr().cast()) })
}

fn woken(outcome: Result<()>) -> Woken {
    match outcome {
        Err(Errno::TIMEDOUT) => Woken::TimedOut,
        Err(Errno::INTR) => Woken::Interrupted,
        _ => Woken::Called,
    }
}

/// Sleeps while the low half of the word at `offset` is `low`.
pub fn while_unchanged(region: &Region, offset: u64, low: u32) -> Result<Woken> {
    let patience = Timespec { tv_sec: 0, tv_nsec: PATIENCE_NANOSECONDS };
    Ok(woken(futex::wait(low_half(region, offset)?, futex::Flags::empty(), low, Some(&patience))))
}

/// As [`while_unchanged`], on behalf of a system call that the kernel restarts after a handler with `SA_RESTART`:
/// only other handlers interrupt the sleep. (Kernels before 5.16 cannot tell them apart: there every one does.)
pub fn while_unchanged_restarting(region: &Region, offset: u64, low: u32) -> Result<Woken> {
    let mut wait = Wait::new();
    wait.val = low as u64;
    wait.uaddr = WaitPtr::new(low_half(region, offset)?.as_ptr().cast());
    wait.flags = WaitFlags::SIZE_U32;
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    let nanoseconds = now.tv_nsec + PATIENCE_NANOSECONDS;
    let until = Timespec { tv_sec: now.tv_sec + nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000 };
    match futex::waitv(&[wait], WaitvFlags::empty(), Some(&until), ClockId::Monotonic) {
        Err(Errno::NOSYS | Errno::PERM) => while_unchanged(region, offset, low),
        outcome => Ok(woken(outcome.map(|_| ()))),
    }
}

/// Wakes everybody who sleeps on the word at `offset`.
pub fn wake_all(region: &Region, offset: u64) -> Result<()> {
    let _ = futex::wake(low_half(region, offset)?, futex::Flags::empty(), u32::MAX >> 1);
    Ok(())
}
