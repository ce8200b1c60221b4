//! What the scenarios share: regions to begin with, and a floor above that has nothing to finish.

use crate::harness::World;
use crate::image::{self, Image};
use crate::lane::{Lane, Task};
use crate::layout::{BLOCK, EXTENT, Geometry, OWNER, OWNERS_PER_CHUNK};
use crate::owner::{Kind, Owner, State};
use crate::recovery::{self, Finish};
use crate::region::{DEAD, Region};
use crate::space::{self, ChunkState, Class};
use crate::Result;
use std::collections::BTreeMap;

/// A file system without tasks.
pub struct NothingToFinish;

impl Finish for NothingToFinish {
    fn finish(&self, _lane: &Lane<'_>, _task: Task) -> Result<bool> {
        Ok(true)
    }
    fn clean_up(&self, _lane: &Lane<'_>, _task: Task) -> Result<bool> {
        Ok(true)
    }
    fn image_gone(&self, _image: Image) -> Result<bool> {
        Ok(true)
    }
}

/// Process `number`, attached: its slot is taken before the exploration starts.
pub fn attached(world: &World, number: usize, chunks: u64, dies_at: Option<u32>) -> Region {
    let region = Region::of(world.process(number, dies_at), chunks);
    let _ = image::own(&region);
    region
}

/// The word of a chunk in use.
pub const fn chunk_word(class: Class) -> u64 {
    space::chunk_word(Some(class))
}

/// Offset of the word of `chunk`.
pub const fn chunk_word_at(chunks: u64, chunk: u64) -> u64 {
    Geometry::of(chunks).chunk_words_at + chunk * 8
}

/// Offset of the owner word of a block or extent.
pub const fn owner_at(chunks: u64, chunk: u64, class: Class, unit: u64) -> u64 {
    let each = match class {
        Class::Extent => EXTENT / BLOCK,
        _ => 1,
    };
    Geometry::of(chunks).owners_at + (chunk * OWNERS_PER_CHUNK + unit * each) * OWNER
}

/// The word of a unit that somebody uses.
pub fn live() -> u64 {
    Owner::decode(0).expect("a word").linked(Kind::Data, 77).encode()
}

/// Recovers everybody who is dead. Fails only in an execution that does not count.
pub fn recover(region: &Region) -> Result<u32> {
    recovery::recover_all(region, &NothingToFinish)
}

/// What an operation answered that may have died.
pub fn unless_dead<T>(answer: Result<T>) -> Option<Result<T>> {
    match answer {
        Err(DEAD) => None,
        other => Some(other),
    }
}

/// Nothing is owned and no chunk is claimed: what operations took that did not use it is free again.
pub fn assert_nothing_held(region: &Region, chunks: u64) {
    for chunk in 0..chunks {
        // Words that are looked at for the first time end the execution.
        let Ok((_, said)) = space::chunk(region, chunk as u32) else { return };
        let (class, units) = match said {
            ChunkState::Used(Class::Block) => (Class::Block, OWNERS_PER_CHUNK),
            ChunkState::Used(Class::Extent) => (Class::Extent, OWNERS_PER_CHUNK * BLOCK / EXTENT),
            ChunkState::Claimed(..) | ChunkState::Damaged => panic!("chunk {chunk} stays {said:?}"),
            _ => continue,
        };
        for unit in 0..units {
            let Ok(word) = region.load(owner_at(chunks, chunk, class, unit)) else { return };
            let owner = Owner::decode(word).expect("a word that is one");
            assert_ne!(owner.state, State::Owned, "unit {unit} of chunk {chunk} stays owned: {word:#x}");
        }
    }
}

/// The words of a region to begin with.
pub type Initial = BTreeMap<u64, u64>;
