//! The checksum is CRC-32C, whichever instructions compute it.

mod common;

use common::{at_every_level, pattern};
use lifeboat_kernels::{checksum, checksum_combine, checksum_slice, checksum_zeros};

/// The definition, bit by bit.
fn reference(crc: u32, bytes: &[u8]) -> u32 {
    let mut state = !crc;
    for byte in bytes {
        state ^= u32::from(*byte);
        for _ in 0..8 {
            state = (state >> 1) ^ (0x82f6_3b78 & (state & 1).wrapping_neg());
        }
    }
    !state
}

#[test]
fn the_checksum_is_the_one_that_others_compute() {
    // The first from the catalogue of CRCs, the others from RFC 3720, B.4.
    let ascending: Vec<u8> = (0..32).collect();
    let descending: Vec<u8> = (0..32).rev().collect();
    let command = [
        0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0, 0, 0, 0, 0x14, 0, 0, 0,
        0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0, 0,
    ];
    let vectors: [(&[u8], u32); 7] = [
        (b"", 0),
        (b"123456789", 0xe306_9283),
        (&[0; 32], 0x8a91_36aa),
        (&[0xff; 32], 0x62a8_ab43),
        (&ascending, 0x46dd_794e),
        (&descending, 0x113f_db5c),
        (&command, 0xd996_3a56),
    ];
    at_every_level(|level| {
        for (bytes, value) in vectors {
            assert_eq!(checksum_slice(0, bytes), value, "{level:?} over {bytes:?}");
        }
    });
}

#[test]
fn no_length_or_alignment_changes_the_checksum() {
    let bytes = pattern(70_000 + 64);
    let edges = [1024, 3 * 1024, 4096, 6 * 1024, 16384, 65536];
    let near = edges.iter().flat_map(|edge| edge - 65..edge + 66).step_by(3);
    let lengths: Vec<usize> = (0..=1300).chain(near).collect();
    // One pass of the definition serves every length.
    for align in [0, 1, 7, 8, 31, 63] {
        let bytes = &bytes[align..];
        let mut expected = vec![0; 65536 + 66];
        for len in 1..expected.len() {
            expected[len] = reference(expected[len - 1], &bytes[len - 1..len]);
        }
        at_every_level(|level| {
            for &len in &lengths {
                assert_eq!(checksum_slice(0, &bytes[..len]), expected[len], "{level:?}, length {len}, align {align}");
            }
        });
    }
}

#[test]
fn a_checksum_taken_in_pieces_is_that_of_the_whole() {
    let bytes = pattern(20_000);
    let whole = reference(0, &bytes);
    at_every_level(|level| {
        for cut in (0..=20_000).step_by(37) {
            let (a, b) = bytes.split_at(cut);
            assert_eq!(checksum_slice(checksum_slice(0, a), b), whole, "{level:?}, cut at {cut}");
            let joined = checksum_combine(checksum_slice(0, a), checksum_slice(0, b), b.len() as u64);
            assert_eq!(joined, whole, "{level:?}, joined at {cut}");
        }
    });
}

#[test]
fn zeros_can_be_added_without_reading_them() {
    let zeros = vec![0u8; 70_000];
    for start in [0, 1, 0xe306_9283, u32::MAX] {
        for len in (0..300).chain([4095, 4096, 4097, 65536, 70_000]) {
            assert_eq!(
                checksum_zeros(start, len as u64),
                reference(start, &zeros[..len]),
                "{len} zeros after {start:#x}"
            );
        }
    }
    // Lengths beyond any memory: in two steps or in one.
    for len in [1 << 40, u64::MAX / 2, (1 << 62) + 12345] {
        assert_eq!(checksum_zeros(checksum_zeros(7, len), 99), checksum_zeros(7, len + 99));
        assert_eq!(checksum_combine(7, 0, len), checksum_combine(checksum_combine(7, 0, len - 5), 0, 5));
    }
}

#[test]
fn one_flipped_bit_never_escapes_the_checksum() {
    let mut bytes = pattern(16384);
    at_every_level(|_| {
        let before = checksum_slice(0, &bytes);
        let mut bytes = bytes.clone();
        for bit in (0..bytes.len() * 8).step_by(61) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(checksum_slice(0, &bytes), before, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    });
    bytes.truncate(0);
    // SAFETY: nothing is read.
    assert_eq!(unsafe { checksum(5, std::ptr::null(), 0) }, Ok(5));
}
