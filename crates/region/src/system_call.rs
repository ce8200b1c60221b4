//! System calls that rustix does not offer, made directly: a call through libc would come back to our own hooks.

use crate::{Errno, Result};

/// Number of a system call on each architecture.
pub(crate) struct Number {
    x86_64: usize,
    aarch64: usize,
}

pub(crate) const GETCPU: Number = Number { x86_64: 309, aarch64: 168 };
pub(crate) const FCNTL: Number = Number { x86_64: 72, aarch64: 25 };
pub(crate) const GETSOCKOPT: Number = Number { x86_64: 55, aarch64: 209 };
pub(crate) const MADVISE: Number = Number { x86_64: 28, aarch64: 233 };

/// What the kernel answers; `NOSYS` on an architecture that is not known here.
///
/// # Safety
/// What the system call asks of these arguments: memory that it reads or writes through them is the caller's to give.
pub(crate) unsafe fn call(number: Number, arguments: [usize; 5]) -> Result<usize> {
    // SAFETY: the caller's promise.
    match unsafe { enter_kernel(number, arguments) } {
        error @ -4095..=-1 => Err(Errno::from_raw_os_error(-error as i32)),
        answer => Ok(answer as usize),
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn enter_kernel(number: Number, arguments: [usize; 5]) -> isize {
    let _ = number.aarch64;
    let answer: isize;
    // SAFETY: the caller's promise; the kernel clobbers rcx and r11 and uses no stack of the program.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number.x86_64 as isize => answer,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    answer
}

#[cfg(target_arch = "aarch64")]
unsafe fn enter_kernel(number: Number, arguments: [usize; 5]) -> isize {
    let _ = number.x86_64;
    let answer: isize;
    // SAFETY: the caller's promise; the kernel keeps all other registers and uses no stack of the program.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number.aarch64,
            inlateout("x0") arguments[0] as isize => answer,
            in("x1") arguments[1],
            in("x2") arguments[2],
            in("x3") arguments[3],
            in("x4") arguments[4],
            options(nostack)
        );
    }
    answer
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn enter_kernel(number: Number, arguments: [usize; 5]) -> isize {
    let _ = (number.x86_64, number.aarch64, arguments);
    -(Errno::NOSYS.raw_os_error() as isize)
}

/// The memory node nearest to this thread at this moment.
pub(crate) fn memory_node() -> Option<u32> {
    let mut node = 0u32;
    // SAFETY: the kernel writes the number of the node to the second address, and nothing where the others are null.
    unsafe { call(GETCPU, [0, &raw mut node as usize, 0, 0, 0]) }.ok().map(|_| node)
}
