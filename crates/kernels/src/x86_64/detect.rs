//! What the processor offers and the operating system saves, asked once.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};
use core::sync::atomic::{AtomicU8, Ordering};

use crate::Level;

/// What this machine offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Detected {
    pub(crate) level: Level,
    /// Carry-less multiplication in registers as wide as the level has.
    pub(crate) wide_multiplication: bool,
}

/// Set once asked; the rest of the word is then valid.
const KNOWN: u8 = 1 << 7;
const WIDE_MULTIPLICATION: u8 = 1 << 2;
const LEVEL_MASK: u8 = 0b11;

/// The answer in eight bits. Two threads that ask at the same time store the same.
static ANSWER: AtomicU8 = AtomicU8::new(0);

#[inline]
pub(crate) fn detected() -> Detected {
    let mut word = ANSWER.load(Ordering::Relaxed);
    if word & KNOWN == 0 {
        word = ask();
        ANSWER.store(word, Ordering::Relaxed);
    }
    let level = match word & LEVEL_MASK {
        3 => Level::Avx512,
        2 => Level::Avx2,
        _ => Level::Scalar,
    };
    Detected { level, wide_multiplication: word & WIDE_MULTIPLICATION != 0 }
}

#[cold]
fn ask() -> u8 {
    let (level, wide) = classify();
    KNOWN | level as u8 | if wide { WIDE_MULTIPLICATION } else { 0 }
}

fn classify() -> (Level, bool) {
    let has = |word: u32, bit: u32| word >> bit & 1 != 0;
    if leaf(0, 0).eax < 7 {
        return (Level::Scalar, false);
    }
    let basic = leaf(1, 0).ecx;
    // PCLMULQDQ, SSE4.2, OSXSAVE, AVX.
    if ![1, 20, 27, 28].iter().all(|&bit| has(basic, bit)) {
        return (Level::Scalar, false);
    }
    let saved = saved_state();
    let extended = leaf(7, 0);
    // SSE and AVX state saved by the system; AVX2.
    if saved & 0x06 != 0x06 || !has(extended.ebx, 5) {
        return (Level::Scalar, false);
    }
    let wide = has(extended.ecx, 10); // VPCLMULQDQ
    // Mask registers and both halves of the 512-bit registers saved; F, BW, VL.
    let avx512 = saved & 0xe6 == 0xe6 && [16, 30, 31].iter().all(|&bit| has(extended.ebx, bit));
    (if avx512 { Level::Avx512 } else { Level::Avx2 }, wide)
}

/// One leaf of CPUID.
#[allow(unused_unsafe, reason = "the intrinsics became safe in a later toolchain than the oldest supported")]
fn leaf(number: u32, sub: u32) -> CpuidResult {
    // SAFETY: every x86-64 has CPUID; a leaf beyond the last answers with something harmless.
    unsafe { if sub == 0 && number < 7 { __cpuid(number) } else { __cpuid_count(number, sub) } }
}

/// Which register state the operating system saves (XCR0). Only where OSXSAVE is set.
fn saved_state() -> u32 {
    let low: u32;
    // SAFETY: OSXSAVE was seen, so XGETBV exists and register 0 can be read.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags)) };
    low
}
