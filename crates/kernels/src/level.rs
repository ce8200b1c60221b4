//! Which instructions this processor and operating system offer.

use core::sync::atomic::{AtomicU8, Ordering};

use crate::tuning::LEVEL_LIMIT;

/// A family of instructions that the routines are written for; higher values need more of the processor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Level {
    /// General registers only (with the compulsory SSE2 for strings).
    Scalar = 1,
    /// AVX2, SSE4.2 and PCLMULQDQ; VPCLMULQDQ on 256 bits where there is such.
    Avx2 = 2,
    /// AVX-512 F, BW and VL.
    Avx512 = 3,
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Level; 3] = [Level::Scalar, Level::Avx2, Level::Avx512];

    /// What users and tests call this level.
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }

    /// The level with this [`name`](Level::name).
    pub fn from_name(name: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// The level in use; 0 until somebody asked.
static IN_USE: AtomicU8 = AtomicU8::new(0);

/// The level in use: the best that this machine offers, not above [`tuning::limit_level`](crate::tuning::limit_level).
#[inline(always)]
pub fn level() -> Level {
    match IN_USE.load(Ordering::Relaxed) {
        0 => first(),
        2 => Level::Avx2,
        3 => Level::Avx512,
        _ => Level::Scalar,
    }
}

#[cold]
fn first() -> Level {
    let level = best_below(LEVEL_LIMIT.load(Ordering::Relaxed));
    // Who limits it meanwhile has said so by then, or says so after this.
    let _ = IN_USE.compare_exchange(0, level as u8, Ordering::Relaxed, Ordering::Relaxed);
    level
}

/// The level in use from now on.
pub(crate) fn limit(limit: u8) {
    LEVEL_LIMIT.store(limit, Ordering::Relaxed);
    IN_USE.store(best_below(limit) as u8, Ordering::Relaxed);
}

fn best_below(limit: u8) -> Level {
    let best = crate::machine::detected().level;
    match limit {
        1 => Level::Scalar,
        2 => best.min(Level::Avx2),
        _ => best,
    }
}
