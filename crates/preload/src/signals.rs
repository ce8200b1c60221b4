//! Signals are held back while the file system may hold one of its locks: a handler that came back to us would wait
//! for the thread that it interrupts.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

/// Signals whose blocking would turn a fault inside a copy routine into the end of the process.
const FAULTS: u64 = bit(libc::SIGSEGV)
    | bit(libc::SIGBUS)
    | bit(libc::SIGILL)
    | bit(libc::SIGFPE)
    | bit(libc::SIGTRAP)
    | bit(libc::SIGSYS);

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Signals that come from what the thread itself does, never in the middle of a call of ours.
const RAISED_BY_THE_THREAD: u64 = FAULTS | bit(libc::SIGABRT);

/// Whether the program has a handler that could interrupt a call of ours, or threads that may be ended in one. Without one there is nothing to hold back.
static HANDLERS: AtomicBool = AtomicBool::new(false);

/// Whether the program cancels threads.
static CANCELS: AtomicBool = AtomicBool::new(false);

/// The program sets a handler for `signal`.
pub fn note_handler(signal: i32, handler: usize) {
    let own = (1..=64).contains(&signal) && RAISED_BY_THE_THREAD & bit(signal) != 0;
    if !own && handler != libc::SIG_DFL && handler != libc::SIG_IGN {
        HANDLERS.store(true, Ordering::SeqCst);
    }
}

/// Threads may be ended in the middle of anything from now on, by a signal of the C library's own.
pub fn note_cancellation() {
    HANDLERS.store(true, Ordering::SeqCst);
    CANCELS.store(true, Ordering::SeqCst);
}

/// Ends the thread here if it was cancelled, as the C library's calls on files do before they begin. Nothing may be held.
#[inline(always)]
pub fn cancellation_point() {
    if CANCELS.load(Ordering::Relaxed) {
        test_cancel();
    }
}

#[cold]
fn test_cancel() {
    libc_function!(c"pthread_testcancel", fn() -> ())();
}

/// Holds signals back for as long as it lives.
pub struct Held {
    /// The mask and whether the thread may be cancelled; `None` when nothing had to be held back.
    before: Option<(u64, i32)>,
}

/// `PTHREAD_CANCEL_DISABLE` of `<pthread.h>`.
const CANCEL_DISABLE: i32 = 1;

/// Blocks all signals that can be, but faults, for the calling thread, if the program handles any. Nor is it cancelled: libc's
/// calls wait for the signal by which that is done, and would wait for ever for one that is held back.
#[inline(always)]
pub fn hold() -> Held {
    if !HANDLERS.load(Ordering::Relaxed) {
        return Held { before: None };
    }
    let mut before = 0;
    set_mask(&!FAULTS, &mut before);
    Held { before: Some((before, set_cancel_state(CANCEL_DISABLE))) }
}

impl Drop for Held {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some((before, state)) = &self.before {
            set_cancel_state(*state);
            set_mask(before, &mut 0);
        }
    }
}

impl Held {
    /// Whether a signal that was held back will interrupt the call: one with a handler that does not restart calls.
    /// For calls that sleep in pieces: the handler will have run before the next piece begins.
    pub fn will_interrupt(&self) -> bool {
        let Some((before, _)) = self.before else { return false };
        let mut pending = 0_u64;
        system_call(libc::SYS_rt_sigpending, [&raw mut pending as usize, 8, 0, 0]);
        (1..=64).any(|signal| pending & !before & bit(signal) != 0 && interrupts(signal))
    }
}

/// As the kernel has it; the restorer and the mask follow the flags.
#[repr(C)]
struct KernelAction {
    handler: usize,
    flags: u64,
    rest: [u64; 2],
}

fn interrupts(signal: i32) -> bool {
    let mut action = KernelAction { handler: libc::SIG_IGN, flags: 0, rest: [0; 2] };
    system_call(libc::SYS_rt_sigaction, [signal as usize, 0, &raw mut action as usize, 8]);
    action.handler != libc::SIG_DFL && action.handler != libc::SIG_IGN && action.flags & libc::SA_RESTART as u64 == 0
}

/// Gives the state before.
fn set_cancel_state(state: i32) -> i32 {
    let mut before = state;
    libc_function!(c"pthread_setcancelstate", fn(i32, *mut i32) -> i32)(state, &mut before);
    before
}

/// `rt_sigprocmask(SIG_SETMASK)`.
fn set_mask(mask: &u64, before: &mut u64) {
    let how = libc::SIG_SETMASK as usize;
    system_call(libc::SYS_rt_sigprocmask, [how, mask as *const u64 as usize, before as *mut u64 as usize, 8]);
}

/// A system call about signals, without libc: its wrapper may be another interception library's. Pointers among the
/// arguments are to what the call may read or write.
fn system_call(number: libc::c_long, [first, second, third, fourth]: [usize; 4]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the three calls of this file read and write only what their arguments point to, which lives in the
    // caller's frame; the clobbers are those of the system-call instruction.
    unsafe {
        asm!("syscall", inlateout("rax") number as usize => _, in("rdi") first, in("rsi") second,
            in("rdx") third, in("r10") fourth, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        asm!("svc 0", in("x8") number as usize, inlateout("x0") first => _, in("x1") second,
            in("x2") third, in("x3") fourth, options(nostack));
    }
}
