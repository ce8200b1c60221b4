//! Sizes and offsets: where everything lies in a region of a given length.

use core::ops::Range;

/// Layout version of this build. Other versions are refused untouched.
pub const VERSION: u32 = 5;
/// First eight bytes of each superblock copy.
pub const MAGIC: u64 = u64::from_le_bytes(*b"LIFEBOAT");

/// Bytes of a directory entry.
pub const ENTRY: u64 = 64;
/// Bytes of an inode, an index node or a long name.
pub const CELL: u64 = 256;
/// Byte of an inode's sequence word, which is odd while a directory is changed.
pub const INODE_SEQUENCE: u64 = 8;
/// Bytes of the smallest piece of file data, and of a page.
pub const BLOCK: u64 = 4096;
/// Bytes of a large piece of file data; one checksum word covers this much.
pub const EXTENT: u64 = 65536;
/// Bytes of a chunk, aligned to its size in the region.
pub const CHUNK: u64 = 2 << 20;

/// Smallest region that can hold anything useful.
pub const SMALLEST: u64 = 8 << 20;
/// Largest region: cell numbers have 32 bits.
pub const LARGEST: u64 = 1 << 40;

/// Bytes of one superblock copy; the second follows the first.
pub const SUPERBLOCK: u64 = 4096;
/// Where the run-wide words lie (locks that belong to no inode).
pub const RUN_WORDS: u64 = 2 * SUPERBLOCK;
/// Lock of every rename that moves a directory.
pub const RENAME_LOCK: u64 = RUN_WORDS;
/// Lock of the carrier-wide sweep for reclaimable space.
pub const SWEEP_LOCK: u64 = RUN_WORDS + 64;
/// How many lanes, from the first, were ever claimed.
pub const LANE_HIGH_WATER: u64 = RUN_WORDS + 128;
/// Lock of who waits for which file lock.
pub const FILE_LOCK_WAITS: u64 = RUN_WORDS + 192;
/// How many records of file locks, from the first, were ever taken.
pub const FILE_LOCK_HIGH_WATER: u64 = RUN_WORDS + 256;
/// Bytes of an image slot.
pub const IMAGE: u64 = 64;
/// Most lanes that a region has.
pub const LANES_LARGEST: u64 = 1024;
/// Bytes of a lane: a header of [`LANE_HEADER`] bytes, then redo entries.
pub const LANE: u64 = 4096;
/// Bytes of a lane before its redo entries.
pub const LANE_HEADER: u64 = 192;
/// Redo entries that a lane can hold: {offset, old, new}.
pub const LANE_ENTRIES: usize = ((LANE - LANE_HEADER) / 24) as usize;
/// Bytes of an open-file slot.
pub const OPEN_FILE: u64 = 64;
/// Bytes of a pin.
pub const PIN: u64 = 32;
/// Bytes of a record of a file lock.
pub const FILE_LOCK: u64 = 64;
/// Owner records per chunk: one for each of its 512 blocks, or for each of its 32 extents.
pub const OWNERS_PER_CHUNK: u64 = CHUNK / BLOCK;
/// Bytes of an owner record: {owner word, birth and death version}.
pub const OWNER: u64 = 16;

/// Where each table lies; computed from the length alone, stored in the superblock, and compared at attach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Bytes of the whole region, a multiple of [`CHUNK`].
    pub length: u64,
    /// Image slots.
    pub images: u64,
    /// Lanes.
    pub lanes: u64,
    /// Open-file slots.
    pub open_files: u64,
    /// Pins.
    pub pins: u64,
    /// Records of file locks.
    pub file_locks: u64,
    /// Chunks.
    pub chunks: u64,
    /// Offset of the image slots.
    pub images_at: u64,
    /// Offset of the lanes.
    pub lanes_at: u64,
    /// Offset of the open-file slots.
    pub open_files_at: u64,
    /// Offset of the pins.
    pub pins_at: u64,
    /// Offset of the records of file locks.
    pub file_locks_at: u64,
    /// Offset of the chunk words.
    pub chunk_words_at: u64,
    /// Offset of the owner records.
    pub owners_at: u64,
    /// Offset of the first chunk.
    pub data_at: u64,
}

/// Most memory nodes that a region is spread over.
pub const MEMORY_NODES_LARGEST: u32 = 64;

/// The part of `length` bytes that lies on memory node `node` of `nodes`: whole chunks; the last has the rest, and one behind it nothing.
pub fn memory_part(length: u64, nodes: u32, node: u32) -> Range<u64> {
    let edge = |node: u32| length / CHUNK * node as u64 / nodes as u64 * CHUNK;
    if node >= nodes { length..length } else { edge(node)..if node + 1 == nodes { length } else { edge(node + 1) } }
}

const fn round_up(value: u64, unit: u64) -> u64 {
    value.div_ceil(unit) * unit
}

const fn clamp(value: u64, low: u64, high: u64) -> u64 {
    if value < low {
        low
    } else if value > high {
        high
    } else {
        value
    }
}

impl Geometry {
    /// The layout of a region of `length` bytes; `None` when the length is not a multiple of [`CHUNK`] or out of
    /// bounds.
    pub const fn of(length: u64) -> Option<Geometry> {
        if length < SMALLEST || length > LARGEST || !length.is_multiple_of(CHUNK) {
            return None;
        }
        let images = clamp(length >> 16, 256, 1024);
        let lanes = clamp(length >> 20, 64, LANES_LARGEST);
        let open_files = clamp(length >> 16, 1024, 65536);
        let pins = clamp(length >> 17, 512, 16384);
        let file_locks = clamp(length >> 17, 512, 32768);
        let images_at = RUN_WORDS + BLOCK;
        let lanes_at = round_up(images_at + images * IMAGE, BLOCK);
        let open_files_at = lanes_at + lanes * LANE;
        let pins_at = round_up(open_files_at + open_files * OPEN_FILE, BLOCK);
        let file_locks_at = round_up(pins_at + pins * PIN, BLOCK);
        let chunk_words_at = round_up(file_locks_at + file_locks * FILE_LOCK, BLOCK);
        // Tables are sized for the chunks that would fit if they took no space: simple, and at most 0.4 % too large.
        let most_chunks = length / CHUNK;
        let owners_at = round_up(chunk_words_at + most_chunks * 8, BLOCK);
        let data_at = round_up(owners_at + most_chunks * OWNERS_PER_CHUNK * OWNER, CHUNK);
        let chunks = (length - data_at) / CHUNK;
        Some(Geometry {
            length,
            images,
            lanes,
            open_files,
            pins,
            file_locks,
            chunks,
            images_at,
            lanes_at,
            open_files_at,
            pins_at,
            file_locks_at,
            chunk_words_at,
            owners_at,
            data_at,
        })
    }
}

impl Geometry {
    /// The chunks that lie on memory node `node` of `nodes`; all, where none lies there.
    pub fn chunks_near(&self, nodes: u32, node: u32) -> Range<u32> {
        let part = memory_part(self.length, nodes, node);
        let chunk = |at: u64| (at.saturating_sub(self.data_at) / CHUNK).min(self.chunks) as u32;
        let near = chunk(part.start)..chunk(part.end);
        if near.is_empty() { 0..self.chunks as u32 } else { near }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_a_memory_node_lie_in_its_part() {
        for length in [SMALLEST, 64 << 20, 1 << 30] {
            let g = Geometry::of(length).unwrap();
            for (nodes, node) in [(2, 0), (2, 1), (3, 1), (8, 7)] {
                let (near, part) = (g.chunks_near(nodes, node), memory_part(length, nodes, node));
                let at = |chunk: u32| g.data_at + chunk as u64 * CHUNK;
                assert!(!near.is_empty());
                if near != (0..g.chunks as u32) {
                    assert!(part.contains(&at(near.start)) && at(near.end) <= part.end, "{length}: {nodes}, {node}");
                }
            }
            assert_eq!(g.chunks_near(2, 2), 0..g.chunks as u32);
        }
        let g = Geometry::of(1 << 30).unwrap();
        assert!(g.chunks_near(2, 1).start > g.chunks as u32 / 3 && g.chunks_near(2, 1).end == g.chunks as u32);
    }

    #[test]
    fn tables_never_overlap_whatever_the_length() {
        let mut length = SMALLEST;
        while length <= LARGEST {
            let g = Geometry::of(length).unwrap();
            assert!(g.images_at >= RUN_WORDS + BLOCK);
            assert!(g.lanes_at >= g.images_at + g.images * IMAGE);
            assert!(g.open_files_at >= g.lanes_at + g.lanes * LANE);
            assert!(g.pins_at >= g.open_files_at + g.open_files * OPEN_FILE);
            assert!(g.file_locks_at >= g.pins_at + g.pins * PIN);
            assert!(g.chunk_words_at >= g.file_locks_at + g.file_locks * FILE_LOCK);
            assert!(g.owners_at >= g.chunk_words_at + g.chunks * 8);
            assert!(g.data_at >= g.owners_at + g.chunks * OWNERS_PER_CHUNK * OWNER);
            assert_eq!(g.data_at % CHUNK, 0);
            assert!(g.data_at + g.chunks * CHUNK <= length);
            assert!(g.chunks >= 1);
            length = if length < (64 << 20) { length + CHUNK } else { length * 2 };
        }
    }

    #[test]
    fn lengths_that_cannot_be_laid_out_are_refused() {
        for length in [0, 1, CHUNK, SMALLEST - 1, SMALLEST + 1, LARGEST + CHUNK, u64::MAX] {
            assert_eq!(Geometry::of(length), None);
        }
    }
}
