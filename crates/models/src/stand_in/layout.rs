//! A region in miniature: the same tables as the product's, with few of each, and chunks of four extents.

/// As the product's, smaller.
pub const ENTRY: u64 = 64;
/// As the product's.
pub const CELL: u64 = 256;
/// As the product's, smaller.
pub const BLOCK: u64 = 64;
/// As the product's, smaller.
pub const EXTENT: u64 = 128;
/// As the product's, smaller.
pub const CHUNK: u64 = 512;
/// As the product's.
pub const INODE_SEQUENCE: u64 = 8;
/// As the product's.
pub const IMAGE: u64 = 64;
/// As the product's, smaller.
pub const LANES_LARGEST: u64 = 64;
/// As the product's, smaller.
pub const LANE: u64 = LANE_HEADER + 24 * LANE_ENTRIES as u64;
/// As the product's.
pub const LANE_HEADER: u64 = 192;
/// As the product's, smaller.
pub const LANE_ENTRIES: usize = 8;
/// As the product's.
pub const OWNERS_PER_CHUNK: u64 = CHUNK / BLOCK;
/// As the product's.
pub const OWNER: u64 = 16;
/// As the product's.
pub const RENAME_LOCK: u64 = 0;
/// As the product's.
pub const SWEEP_LOCK: u64 = 64;
/// As the product's.
pub const LANE_HIGH_WATER: u64 = 128;
/// As the product's.
pub const FILE_LOCK_WAITS: u64 = 192;
/// As the product's.
pub const FILE_LOCK_HIGH_WATER: u64 = 256;
/// As the product's.
pub const OPEN_FILE: u64 = 64;
/// As the product's.
pub const PIN: u64 = 32;
/// As the product's.
pub const FILE_LOCK: u64 = 64;

/// As the product's.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// As the product's.
    pub length: u64,
    /// As the product's.
    pub images: u64,
    /// As the product's.
    pub lanes: u64,
    /// As the product's.
    pub open_files: u64,
    /// As the product's.
    pub pins: u64,
    /// As the product's.
    pub file_locks: u64,
    /// As the product's.
    pub chunks: u64,
    /// As the product's.
    pub images_at: u64,
    /// As the product's.
    pub lanes_at: u64,
    /// As the product's.
    pub open_files_at: u64,
    /// As the product's.
    pub pins_at: u64,
    /// As the product's.
    pub file_locks_at: u64,
    /// As the product's.
    pub chunk_words_at: u64,
    /// As the product's.
    pub owners_at: u64,
    /// As the product's.
    pub data_at: u64,
}

impl Geometry {
    /// Tables for so many chunks; words behind the tables (from [`Geometry::free_at`]) are the scenario's.
    pub const fn of(chunks: u64) -> Geometry {
        let (images, lanes, open_files, pins, file_locks) = (4, 4, 2, 1, 1);
        let images_at = 512;
        let lanes_at = images_at + images * IMAGE;
        let open_files_at = lanes_at + lanes * LANE;
        let pins_at = open_files_at + open_files * OPEN_FILE;
        let file_locks_at = pins_at + pins * PIN;
        let chunk_words_at = file_locks_at + file_locks * FILE_LOCK;
        let owners_at = chunk_words_at + chunks * 8;
        let data_at = (owners_at + chunks * OWNERS_PER_CHUNK * OWNER).next_multiple_of(CHUNK);
        Geometry {
            length: data_at + chunks * CHUNK,
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
        }
    }

    /// First byte behind the chunks.
    pub const fn free_at(&self) -> u64 {
        self.data_at + self.chunks * CHUNK
    }
}
