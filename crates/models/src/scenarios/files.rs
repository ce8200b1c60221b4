//! A file system in miniature: a root, and one file with one block.

use crate::file_system::FileSystem;
use crate::harness::World;
use crate::inode::{self, InodeId, size_word};
use crate::layout::{BLOCK, CELL, Geometry};
use crate::map_word::Target;
use crate::owner::{Kind, Owner};
use crate::region::Region;
use crate::space::Class;
use crate::support::{Initial, attached, chunk_word, chunk_word_at, owner_at};

/// Chunks: cells, then blocks.
pub const CHUNKS: u64 = 2;

const DATA_AT: u64 = Geometry::of(CHUNKS).data_at;

/// The file.
pub const FILE: InodeId = InodeId::from_word((DATA_AT + 2 * CELL) / CELL);

/// Offset of the file's block.
pub const BLOCK_AT: u64 = DATA_AT + crate::layout::CHUNK;

/// Offset of the owner word of a block.
pub fn block_owner_at(unit: u64) -> u64 {
    owner_at(CHUNKS, 1, Class::Block, unit)
}

/// Offset of the file's owner word.
pub const FILE_OWNER_AT: u64 = DATA_AT + 2 * 8;

/// The owner word of something that belongs to an inode.
pub fn linked(kind: Kind, inode: u64) -> u64 {
    Owner::decode(0).expect("a word").linked(kind, inode as u32).encode()
}

/// A file of `size` bytes, which are `fill`.
pub fn one_file(size: u64, fill: u64) -> Initial {
    let root = (DATA_AT + CELL) / CELL;
    let mut words = Initial::from([
        (chunk_word_at(CHUNKS, 0), chunk_word(Class::Cell)),
        (chunk_word_at(CHUNKS, 1), chunk_word(Class::Block)),
        (DATA_AT + 8, linked(Kind::Inode, root)),
        (root * CELL + inode::MODE, (inode::DIRECTORY | 0o755) as u64),
        (root * CELL + inode::LINKS, inode::links_word(2)),
        (FILE_OWNER_AT, linked(Kind::Inode, FILE.number())),
        (FILE.at() + inode::MODE, (inode::REGULAR | 0o644) as u64),
        (FILE.at() + inode::LINKS, inode::links_word(1)),
        (FILE.at() + inode::SIZE, size_word(size, 0)),
        (FILE.at() + inode::ROOT, Target::Block(BLOCK_AT).encode()),
        (FILE.at() + inode::ROOT_CHECKSUM, crate::checksum::Checksum::STALE.encode()),
        (FILE.at() + inode::BLOCKS, BLOCK / 512),
        (block_owner_at(0), linked(Kind::Data, FILE.number())),
    ]);
    words.extend((0..size).step_by(8).map(|at| (BLOCK_AT + at, fill)));
    words
}

/// The file system as process `number` has it attached; none when a word was missing or it died over it.
pub fn files(world: &World, number: usize, dies_at: Option<u32>) -> Option<FileSystem> {
    let region: Region = attached(world, number, CHUNKS, dies_at);
    let died = region.process.is_dead();
    match FileSystem::attach(region, b"/m") {
        Ok(files) => Some(files),
        Err(error) if died || !world.counts() || error == crate::region::DEAD => None,
        Err(error) => panic!("attach: {error}"),
    }
}
