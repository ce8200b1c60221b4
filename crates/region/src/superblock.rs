//! The superblock: what the region is, kept twice. Each copy carries a sequence number and a CRC; the newest whole copy
//! counts, and a damaged one is named by `lifeboat region check`.

use crate::layout::{Geometry, MAGIC, SUPERBLOCK, VERSION};
use core::fmt;

/// Longest region name.
pub const NAME_LONGEST: usize = 64;
/// Features without which a reader still understands the region.
pub const COMPATIBLE: u64 = 0;
/// Features without which a reader may still read, but not write.
pub const READ_COMPATIBLE: u64 = 0;
/// Features without which a reader must refuse.
pub const INCOMPATIBLE: u64 = 0;

/// What the region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Raised at every rewrite; the larger one counts.
    pub sequence: u64,
    /// Tables.
    pub geometry: Geometry,
    /// Owner.
    pub uid: u32,
    /// Run: raised when the machine was booted since; frees every lock, slot, pin and open file of earlier runs.
    pub run: u16,
    /// Boot that the run belongs to (`/proc/sys/kernel/random/boot_id`, as text without dashes, first 16 bytes of hash).
    pub boot: u64,
    /// Drawn at creation: tells two regions of one name apart, and seeds the hash of names.
    pub identity: u64,
    /// Nanoseconds since 1970.
    pub created: i64,
    /// Node, job and epoch, for redundancy across nodes.
    pub node: u64,
    /// Job id; 0 = none.
    pub job: u64,
    /// Epoch of the run of the job; commits of older epochs are refused.
    pub epoch: u64,
    /// Name of the region.
    pub name: [u8; NAME_LONGEST],
    /// Over how many memory nodes its memory was spread, a part for each ([`crate::layout::memory_part`]); 0 or 1: over none in particular.
    pub memory_nodes: u32,
    /// Feature bits: compatible, read-compatible, incompatible.
    pub features: [u64; 3],
}

/// Why a superblock copy does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuperblockError {
    /// The magic number is missing: not a region, or its first bytes are lost.
    NoMagic,
    /// Made by another layout version.
    OtherVersion(u32),
    /// The checksum does not match.
    Damaged,
    /// The tables are not where this length puts them.
    OtherLayout,
    /// Needs a feature that this build lacks.
    MissingFeature(u64),
}

impl fmt::Display for SuperblockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMagic => write!(f, "not a Lifeboat region (no magic number)"),
            Self::OtherVersion(version) => {
                write!(
                    f,
                    "layout version {version}, this build reads version {VERSION}; use the build that made it, or remove it"
                )
            }
            Self::Damaged => write!(f, "checksum mismatch"),
            Self::OtherLayout => write!(f, "tables do not fit the region's length"),
            Self::MissingFeature(bits) => write!(f, "needs features {bits:#x} that this build lacks"),
        }
    }
}

const WORDS: usize = 40;
const CHECKSUM_WORD: usize = WORDS - 1;
/// Bytes of a copy that mean something.
pub const ENCODED: usize = WORDS * 8;

const _: () = assert!(ENCODED <= SUPERBLOCK as usize);

impl Superblock {
    /// The bytes of one copy.
    pub fn encode(&self) -> [u8; ENCODED] {
        let g = &self.geometry;
        let mut words = [0u64; WORDS];
        words[0] = MAGIC;
        words[1] = VERSION as u64;
        words[2] = self.sequence;
        let geometry = [
            g.length,
            g.images,
            g.lanes,
            g.open_files,
            g.pins,
            g.chunks,
            g.images_at,
            g.lanes_at,
            g.open_files_at,
            g.pins_at,
            g.chunk_words_at,
            g.owners_at,
            g.data_at,
        ];
        words[3..16].copy_from_slice(&geometry);
        words[16] = self.uid as u64 | (self.run as u64) << 32;
        words[17] = self.boot;
        words[18] = self.identity;
        words[19] = self.created as u64;
        words[20] = self.node;
        words[21] = self.job;
        words[22] = self.epoch;
        words[23..26].copy_from_slice(&self.features);
        for (word, bytes) in words[26..34].iter_mut().zip(self.name.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().unwrap_or([0; 8]));
        }
        words[34..36].copy_from_slice(&[g.file_locks, g.file_locks_at]);
        words[36] = self.memory_nodes as u64;
        let mut bytes = [0u8; ENCODED];
        for (at, word) in words.iter().enumerate() {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        let checksum = lifeboat_kernels::checksum_slice(0, &bytes[..CHECKSUM_WORD * 8]) as u64 | 1 << 32;
        bytes[CHECKSUM_WORD * 8..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads one copy; `length` is the length of the carrier.
    pub fn decode(bytes: &[u8; ENCODED], length: u64) -> Result<Superblock, SuperblockError> {
        let word = |at: usize| {
            let mut eight = [0u8; 8];
            eight.copy_from_slice(&bytes[at * 8..at * 8 + 8]);
            u64::from_le_bytes(eight)
        };
        if word(0) != MAGIC {
            return Err(SuperblockError::NoMagic);
        }
        let checksum = lifeboat_kernels::checksum_slice(0, &bytes[..CHECKSUM_WORD * 8]) as u64 | 1 << 32;
        let intact = word(CHECKSUM_WORD) == checksum;
        if word(1) != VERSION as u64 {
            // A version is believed only with its checksum: one flipped bit must not look like a foreign build.
            return Err(if intact { SuperblockError::OtherVersion(word(1) as u32) } else { SuperblockError::Damaged });
        }
        if !intact {
            return Err(SuperblockError::Damaged);
        }
        let geometry = Geometry::of(length).ok_or(SuperblockError::OtherLayout)?;
        let mut name = [0u8; NAME_LONGEST];
        for (at, chunk) in name.chunks_exact_mut(8).enumerate() {
            chunk.copy_from_slice(&word(26 + at).to_le_bytes());
        }
        let superblock = Superblock {
            sequence: word(2),
            geometry,
            uid: word(16) as u32,
            run: (word(16) >> 32) as u16,
            boot: word(17),
            identity: word(18),
            created: word(19) as i64,
            node: word(20),
            job: word(21),
            epoch: word(22),
            name,
            memory_nodes: word(36) as u32,
            features: [word(23), word(24), word(25)],
        };
        let expected = superblock.encode();
        if expected[24..128] != bytes[24..128] || expected[272..288] != bytes[272..288] {
            return Err(SuperblockError::OtherLayout);
        }
        let missing = superblock.features[2] & !INCOMPATIBLE;
        if missing != 0 {
            return Err(SuperblockError::MissingFeature(missing));
        }
        Ok(superblock)
    }

    /// The name without padding.
    pub fn name(&self) -> &[u8] {
        let end = self.name.iter().position(|&byte| byte == 0).unwrap_or(NAME_LONGEST);
        &self.name[..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Superblock {
        let mut name = [0; NAME_LONGEST];
        name[..4].copy_from_slice(b"test");
        Superblock {
            sequence: 7,
            geometry: Geometry::of(64 << 20).unwrap(),
            uid: 1000,
            run: 3,
            boot: 42,
            identity: 99,
            created: 1_700_000_000_000_000_000,
            node: 1,
            job: 2,
            epoch: 3,
            name,
            memory_nodes: 2,
            features: [0; 3],
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let superblock = sample();
        assert_eq!(Superblock::decode(&superblock.encode(), 64 << 20), Ok(superblock));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = sample().encode();
        for bit in 0..ENCODED * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::decode(&bad, 64 << 20).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = sample().encode();
        bytes[8] = 9;
        let checksum = lifeboat_kernels::checksum_slice(0, &bytes[..CHECKSUM_WORD * 8]) as u64 | 1 << 32;
        bytes[CHECKSUM_WORD * 8..].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Superblock::decode(&bytes, 64 << 20), Err(SuperblockError::OtherVersion(9)));
    }
}
