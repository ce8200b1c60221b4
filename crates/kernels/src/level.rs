//! Which instructions this processor and operating system offer.

use core::sync::atomic::Ordering;

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

/// The level in use: the best that this machine offers, not above [`tuning::limit_level`](crate::tuning::limit_level).
#[inline]
pub fn level() -> Level {
    let best = crate::machine::detected().level;
    match LEVEL_LIMIT.load(Ordering::Relaxed) {
        1 => Level::Scalar,
        2 => best.min(Level::Avx2),
        _ => best,
    }
}
