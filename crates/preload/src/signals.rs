//! Signals are held back while the file system may hold one of its locks: a handler that came back to us would wait
//! for the thread that it interrupts.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

/// Signals whose blocking would turn a fault inside a copy routine into the end of the process.
const FAULTS: u64 = bit(libc::SIGSEGV) | bit(libc::SIGBUS) | bit(libc::SIGILL) | bit(libc::SIGFPE) | bit(libc::SIGTRAP);

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Signals that come from what the thread itself does, never in the middle of a call of ours.
const RAISED_BY_THE_THREAD: u64 = FAULTS | bit(libc::SIGABRT) | bit(libc::SIGSYS);

/// Whether the program has a handler that could interrupt a call of ours. Without one there is nothing to hold back.
static HANDLERS: AtomicBool = AtomicBool::new(false);

/// The program sets a handler for `signal`.
pub fn note_handler(signal: i32, handler: usize) {
    let own = (1..=64).contains(&signal) && RAISED_BY_THE_THREAD & bit(signal) != 0;
    if !own && handler != libc::SIG_DFL && handler != libc::SIG_IGN {
        HANDLERS.store(true, Ordering::SeqCst);
    }
}

/// Holds signals back for as long as it lives.
pub struct Held {
    /// `None` when nothing had to be held back.
    before: Option<u64>,
}

/// Blocks all signals that can be, but faults, for the calling thread, if the program handles any.
#[inline(always)]
pub fn hold() -> Held {
    if !HANDLERS.load(Ordering::Relaxed) {
        return Held { before: None };
    }
    let mut before = 0;
    set_mask(&!FAULTS, &mut before);
    Held { before: Some(before) }
}

impl Drop for Held {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            set_mask(before, &mut 0);
        }
    }
}

/// `rt_sigprocmask(SIG_SETMASK)` without libc: its wrapper may be another interception library's.
fn set_mask(mask: &u64, before: &mut u64) {
    let how = libc::SIG_SETMASK as usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the call reads 8 bytes of `mask` and writes 8 bytes of `before`; the clobbers are those of the
    // system-call instruction.
    unsafe {
        asm!("syscall", inlateout("rax") libc::SYS_rt_sigprocmask as usize => _, in("rdi") how, in("rsi") mask,
            in("rdx") before, in("r10") 8usize, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        asm!("svc 0", in("x8") libc::SYS_rt_sigprocmask as usize, inlateout("x0") how => _, in("x1") mask,
            in("x2") before, in("x3") 8usize, options(nostack));
    }
}
