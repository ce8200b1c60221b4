//! Where one way of copying gives way to the next, and a lid on the instructions used.

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicUsize};

use crate::Level;

/// Copies into a region of at least this many bytes use non-temporal stores. Below it, the fence costs more than the
/// saved reading of the destination. Default 4096.
pub static STREAM_FROM: AtomicUsize = AtomicUsize::new(4096);

/// Copies of at least this many bytes go through four interleaved streams, one per 4 KiB page: more of the memory's
/// banks and of the prefetcher are busy at once. Default 16384, the least that makes sense.
pub static INTERLEAVE_FROM: AtomicUsize = AtomicUsize::new(16384);

/// Reads of at least this many bytes to a place that was not read to lately use non-temporal stores. Default 1 MiB: less than that, whoever
/// looks at it right away finds it in his cache.
pub static STREAM_OUT_FROM: AtomicUsize = AtomicUsize::new(1 << 20);

/// The highest level that may be used, as the numeric value of a [`Level`]; anything above it means no limit.
pub(crate) static LEVEL_LIMIT: AtomicU8 = AtomicU8::new(u8::MAX);

/// Uses no instruction above `limit` from now on, in all threads; `None` lifts the limit. For tests, and for owners of a
/// processor that slows down with wide registers. A limit above what the machine offers changes nothing.
pub fn limit_level(limit: Option<Level>) {
    crate::level::limit(limit.map_or(u8::MAX, |level| level as u8));
}

/// The environment variable by which all programs of the project are limited; they read it once, at their start.
pub const LEVEL_KEY: &str = "LIFEBOAT_KERNELS";

/// [`LEVEL_KEY`] has a value that is no level's name. Its `Display` is one line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownLevel;

impl fmt::Display for UnknownLevel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{LEVEL_KEY} must be")?;
        let last = Level::ALL.len() - 1;
        for (place, level) in Level::ALL.into_iter().enumerate() {
            let before = match place {
                0 => "",
                _ if place == last => " or",
                _ => ",",
            };
            write!(out, "{before} {}", level.name())?;
        }
        Ok(())
    }
}

impl core::error::Error for UnknownLevel {}

/// Limits as the value of [`LEVEL_KEY`] says.
///
/// # Errors
/// [`UnknownLevel`] when it is no level's name; nothing is changed then.
pub fn limit_level_to(name: &[u8]) -> Result<(), UnknownLevel> {
    let level = core::str::from_utf8(name).ok().and_then(Level::from_name).ok_or(UnknownLevel)?;
    limit_level(Some(level));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering;

    #[test]
    fn an_unknown_level_limits_nothing_and_is_said_in_one_line() {
        assert_eq!(limit_level_to(b"avx"), Err(UnknownLevel));
        assert_eq!(limit_level_to(b"\xff"), Err(UnknownLevel));
        assert_eq!(LEVEL_LIMIT.load(Ordering::Relaxed), u8::MAX);
        assert_eq!(UnknownLevel.to_string(), "LIFEBOAT_KERNELS must be scalar, avx2 or avx512");
    }
}
