//! CRC-32C (Castagnoli), as iSCSI and ext4 have it. Values are in their finished form: 0 for no bytes at all.

use crate::{Fault, machine};

/// The polynomial, lowest power in the highest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Tables for eight bytes at a time: `TABLES[k][b]` is the remainder of byte `b` followed by `k` zero bytes.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = times_x(value);
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[zeros - 1][byte];
            tables[zeros][byte] = tables[0][(before & 0xff) as usize] ^ (before >> 8);
            byte += 1;
        }
        zeros += 1;
    }
    tables
}

/// Multiplies a remainder by x.
const fn times_x(value: u32) -> u32 {
    (value >> 1) ^ (POLYNOMIAL & (value & 1).wrapping_neg())
}

/// Multiplies two remainders.
const fn times(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 0;
    while bit < 32 {
        product ^= b & ((a >> (31 - bit)) & 1).wrapping_neg();
        b = times_x(b);
        bit += 1;
    }
    product
}

/// x to the power of `exponent`, as a remainder.
pub(crate) const fn power_of_x(mut exponent: u64) -> u32 {
    let mut result = 0x8000_0000; // x^0
    let mut square = 0x4000_0000; // x^1
    while exponent != 0 {
        if exponent & 1 != 0 {
            result = times(result, square);
        }
        square = times(square, square);
        exponent >>= 1;
    }
    result
}

/// `SHIFTS[k]` is x^(8 * 2^k): what a remainder is multiplied by when 2^k zero bytes follow.
static SHIFTS: [u32; 64] = shifts();

const fn shifts() -> [u32; 64] {
    let mut shifts = [0; 64];
    let mut value = power_of_x(8);
    let mut bit = 0;
    while bit < 64 {
        shifts[bit] = value;
        value = times(value, value);
        bit += 1;
    }
    shifts
}

/// The remainder `state` after `length` zero bytes more.
fn shift(mut state: u32, mut length: u64) -> u32 {
    while length != 0 {
        state = times(SHIFTS[length.trailing_zeros() as usize], state);
        length &= length - 1;
    }
    state
}

/// Continues the unfinished remainder `state` over `bytes`, with tables alone: what all other ways are held against.
pub(crate) fn update_scalar(mut state: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let value = u64::from_le_bytes(*word) ^ u64::from(state);
        state = 0;
        for (place, table) in TABLES.iter().rev().enumerate() {
            state ^= table[usize::from((value >> (8 * place)) as u8)];
        }
    }
    for byte in rest {
        state = TABLES[0][usize::from(state as u8 ^ byte)] ^ (state >> 8);
    }
    state
}

/// The CRC-32C of what `crc` already covers followed by `len` bytes at `src`. Start with 0.
///
/// # Errors
/// [`Fault`] when a byte cannot be read.
///
/// # Safety
/// `src` may be any address; that nobody writes there meanwhile is not required, but the value is then of no use. Bytes
/// that cannot be read end the process unless a handler calls [`fault::handle`](crate::fault::handle).
pub unsafe fn checksum(crc: u32, src: *const u8, len: usize) -> Result<u32, Fault> {
    // SAFETY: the caller's promise, handed on.
    unsafe { machine::checksum(!crc, src, len) }.map(|state| !state)
}

/// The CRC-32C of what `crc` already covers followed by `bytes`. Start with 0.
pub fn checksum_slice(crc: u32, bytes: &[u8]) -> u32 {
    // SAFETY: a slice can be read.
    match unsafe { checksum(crc, bytes.as_ptr(), bytes.len()) } {
        Ok(crc) => crc,
        // Only a mapping that changed under a living slice; without the bytes there is no value, so none that could match.
        Err(_) => !crc,
    }
}

/// The CRC-32C of A followed by B, from that of A, that of B and the length of B in bytes.
pub fn checksum_combine(a: u32, b: u32, len_b: u64) -> u32 {
    shift(a, len_b) ^ b
}

/// The CRC-32C of what `crc` covers followed by `len` zero bytes.
pub fn checksum_zeros(crc: u32, len: u64) -> u32 {
    !shift(!crc, len)
}
