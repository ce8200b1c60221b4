//! CRC-32C on x86-64: which routine, and the constants they fold with.

use super::{Answer, copy, detected};
use crate::crc::{power_of_x, update_scalar};
use crate::{Fault, Level, level};

unsafe extern "sysv64" {
    fn lifeboat_kernels_crc_three(state: u32, src: *const u8, len: usize, constants: *const Constants) -> Answer;
    fn lifeboat_kernels_crc_clmul256(state: u32, src: *const u8, len: usize, constants: *const Constants) -> Answer;
    fn lifeboat_kernels_crc_clmul512(state: u32, src: *const u8, len: usize, constants: *const Constants) -> Answer;
    fn lifeboat_kernels_copy_crc_pages_avx2(
        dst: *mut u8,
        src: *const u8,
        groups: usize,
        state: u32,
        constants: *const Constants,
    ) -> Answer;
    fn lifeboat_kernels_copy_crc_pages_avx512(
        dst: *mut u8,
        src: *const u8,
        groups: usize,
        state: u32,
        constants: *const Constants,
    ) -> Answer;
}

/// Multipliers, in the order that `checksum.s` reads them; in each pair the one for the earlier bytes comes first.
#[repr(C, align(64))]
struct Constants {
    /// Over two pieces and over one piece of 1024 bytes.
    three_long: [u64; 2],
    /// The same for pieces of 128 bytes.
    three_short: [u64; 2],
    /// The two halves of 16 bytes over 16, 32, 64, 128 and 512 bytes.
    fold: [[u64; 2]; 5],
    /// Over three, two and one pages.
    pages: [[u64; 2]; 2],
}

static CONSTANTS: Constants = Constants {
    three_long: [over(2 * 1024 * 8), over(1024 * 8)],
    three_short: [over(2 * 128 * 8), over(128 * 8)],
    fold: [halves_over(16), halves_over(32), halves_over(64), halves_over(128), halves_over(512)],
    pages: [[over(3 * 4096 * 8), over(2 * 4096 * 8)], [over(4096 * 8), 0]],
};

/// What to multiply with to move by `bits`: the multiplication itself moves by one, the reduction by 32.
const fn over(bits: u64) -> u64 {
    power_of_x(bits - 33) as u64
}

const fn halves_over(bytes: u64) -> [u64; 2] {
    [over(bytes * 8 + 64), over(bytes * 8)]
}

/// A way to compute the checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Tables, over a copy on the stack: the scalar twin.
    Tables,
    /// Three streams of the crc32 instruction.
    Three,
    /// Carry-less multiplication on 256 bits.
    Clmul256,
    /// Carry-less multiplication on 512 bits.
    Clmul512,
}

impl Way {
    /// The shortest range that the routine takes.
    const fn least(self) -> usize {
        match self {
            Way::Tables | Way::Three => 0,
            Way::Clmul256 => 128,
            Way::Clmul512 => 512,
        }
    }
}

/// From this many bytes on the set-up of 256 and 512 bits pays.
const WIDE_FROM: [usize; 2] = [192, 1024];

/// The best way for `len` bytes.
#[inline]
fn way(len: usize) -> Way {
    match level() {
        Level::Scalar => Way::Tables,
        _ if len < WIDE_FROM[0] || !detected().wide_multiplication => Way::Three,
        Level::Avx512 if len >= WIDE_FROM[1] => Way::Clmul512,
        _ => Way::Clmul256,
    }
}

/// # Safety
/// `src` may be any address.
#[inline]
pub(crate) unsafe fn checksum(state: u32, src: *const u8, len: usize) -> Result<u32, Fault> {
    // SAFETY: the way is one that the machine offers for this length.
    unsafe { checksum_by(way(len), state, src, len) }
}

/// # Safety
/// The machine offers `way`, `src` may be any address, and `len` is at least `way.least()`.
#[inline]
pub(crate) unsafe fn checksum_by(way: Way, state: u32, src: *const u8, len: usize) -> Result<u32, Fault> {
    debug_assert!(len >= way.least());
    let constants = &raw const CONSTANTS;
    // SAFETY: a fault in the routine is answered by the fix-up; the rest is the caller's promise.
    let answer = unsafe {
        match way {
            Way::Tables => return checksum_by_tables(state, src, len),
            Way::Three => lifeboat_kernels_crc_three(state, src, len, constants),
            Way::Clmul256 => lifeboat_kernels_crc_clmul256(state, src, len, constants),
            Way::Clmul512 => lifeboat_kernels_crc_clmul512(state, src, len, constants),
        }
    };
    answer.value().map(|state| state as u32)
}

/// Copies `groups` groups of four pages past the caches and continues `state` over them.
///
/// # Safety
/// As [`copy`]; `dst` is at the start of a line, `groups` is not 0, and `level` is one that the machine has, not scalar.
pub(super) unsafe fn copy_pages(
    level: Level,
    dst: *mut u8,
    src: *const u8,
    groups: usize,
    state: u32,
) -> Result<u32, Fault> {
    let constants = &raw const CONSTANTS;
    // SAFETY: the caller's promise; a fault in the routine is answered by the fix-up.
    let answer = unsafe {
        match level {
            Level::Avx512 => lifeboat_kernels_copy_crc_pages_avx512(dst, src, groups, state, constants),
            _ => lifeboat_kernels_copy_crc_pages_avx2(dst, src, groups, state, constants),
        }
    };
    answer.value().map(|state| state as u32)
}

/// The scalar twin: what may fault is a copy onto the stack, piece by piece.
///
/// # Safety
/// `src` may be any address.
unsafe fn checksum_by_tables(mut state: u32, src: *const u8, len: usize) -> Result<u32, Fault> {
    let mut piece = [0u8; 1024];
    let mut done = 0;
    while done < len {
        let part = &mut piece[..(len - done).min(1024)];
        // SAFETY: `part` is ours alone, so it overlaps nothing that the caller may name.
        unsafe { copy(part.as_mut_ptr(), src.wrapping_add(done), part.len()) }?;
        state = update_scalar(state, part);
        done += part.len();
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_way_of_computing_gives_another_value_than_the_tables() {
        let machine = detected();
        let mut bytes = [0u8; 20_000];
        for (place, byte) in bytes.iter_mut().enumerate() {
            *byte = (place * 31 + place / 255 * 7) as u8;
        }
        for way in [Way::Tables, Way::Three, Way::Clmul256, Way::Clmul512] {
            let there = match way {
                Way::Tables => true,
                Way::Three => machine.level >= Level::Avx2,
                Way::Clmul256 => machine.level >= Level::Avx2 && machine.wide_multiplication,
                Way::Clmul512 => machine.level >= Level::Avx512 && machine.wide_multiplication,
            };
            if !there {
                println!("skip: {way:?} (this processor does not have it)");
                continue;
            }
            for len in (way.least()..1700).chain([3071, 3072, 3073, 6500, 16384, 19_000]) {
                for start in [0, 1, 17, 63] {
                    let part = &bytes[start..start + len];
                    let state = 0x1234_5678 ^ len as u32;
                    // SAFETY: the way is there, the length long enough, and `part` can be read.
                    let value = unsafe { checksum_by(way, state, part.as_ptr(), len) };
                    assert_eq!(value, Ok(update_scalar(state, part)), "{way:?}, length {len}, start {start}");
                }
            }
        }
    }
}
