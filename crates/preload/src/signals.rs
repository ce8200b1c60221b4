//! Signals are held back while the file system may hold one of its locks: a handler that came back to us would wait
//! for the thread that it interrupts.

use core::arch::asm;

/// Signals whose blocking would turn a fault inside a copy routine into the end of the process.
const FAULTS: u64 = bit(libc::SIGSEGV) | bit(libc::SIGBUS) | bit(libc::SIGILL) | bit(libc::SIGFPE) | bit(libc::SIGTRAP);

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Holds signals back for as long as it lives.
pub struct Held {
    before: u64,
}

/// Blocks all signals that can be, but faults, for the calling thread.
pub fn hold() -> Held {
    let mut before = 0;
    set_mask(&!FAULTS, &mut before);
    Held { before }
}

impl Drop for Held {
    fn drop(&mut self) {
        set_mask(&self.before, &mut 0);
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
