//! Where a region's metadata is, by its byte map: the list of what can be damaged.

use lifeboat_fs::FileSystem;
use lifeboat_region::layout::{
    BLOCK, CELL, ENTRY, FILE_LOCK, IMAGE, LANE, OPEN_FILE, OWNER, OWNERS_PER_CHUNK, PIN, RUN_WORDS, SUPERBLOCK,
};
use lifeboat_region::owner::{Kind, State};
use lifeboat_region::space::{self, Class};

/// Bytes of one kind of structure.
#[derive(Clone, Debug)]
pub struct Place {
    /// What is there.
    pub what: &'static str,
    /// First byte.
    pub at: u64,
    /// Bytes.
    pub length: u64,
}

/// Everything in the region that is not contents of files, in order of the byte map. Tables are listed whole, space as far
/// as it is used, and owner words of all chunks that are used.
pub fn places(files: &FileSystem) -> Vec<Place> {
    let g = *files.region().geometry();
    let mut found = vec![
        Place { what: "superblock", at: 0, length: 2 * SUPERBLOCK },
        Place { what: "run words", at: RUN_WORDS, length: BLOCK },
        Place { what: "process slots", at: g.images_at, length: g.images * IMAGE },
        Place { what: "lanes", at: g.lanes_at, length: g.lanes * LANE },
        Place { what: "open files", at: g.open_files_at, length: g.open_files * OPEN_FILE },
        Place { what: "pins", at: g.pins_at, length: g.pins * PIN },
        Place { what: "file locks", at: g.file_locks_at, length: g.file_locks * FILE_LOCK },
        Place { what: "chunk words", at: g.chunk_words_at, length: g.chunks * 8 },
    ];
    let owners = g.chunks * OWNERS_PER_CHUNK * OWNER;
    let mut units = Vec::new();
    let walked = space::each_unit(files.region(), |unit, owner| {
        if owner.state == State::Clean {
            return Ok(());
        }
        if matches!(unit.class, Class::Entry | Class::Cell) {
            units.push(Place { what: "owner words in chunks", at: unit.owner_at, length: 8 });
        }
        if !matches!(owner.state, State::Live | State::Limbo | State::Owned) {
            return Ok(());
        }
        match (owner.kind, unit.class) {
            (Kind::Inode, _) => units.push(Place { what: "inodes", at: unit.at, length: CELL }),
            (Kind::Entry, _) => units.push(Place { what: "entries", at: unit.at, length: ENTRY }),
            (Kind::Name, _) => units.push(Place { what: "long names", at: unit.at, length: CELL }),
            (Kind::Attributes, class) => {
                units.push(Place { what: "attributes", at: unit.at, length: class.size().min(BLOCK) });
            }
            (Kind::Index | Kind::Extents | Kind::Blocks, _) => {
                units.push(Place { what: "map and index nodes", at: unit.at, length: CELL });
            }
            _ => {}
        }
        Ok(())
    });
    walked.expect("a whole region");
    found.push(Place { what: "owner records", at: g.owners_at, length: owners });
    found.extend(units);
    found
}

/// Bytes of tables that nothing uses are mostly alike; those in use come first.
pub fn total(places: &[Place]) -> u64 {
    places.iter().map(|place| place.length).sum()
}

/// The byte with this number, and what it belongs to.
pub fn byte_at(places: &[Place], mut number: u64) -> (u64, &'static str) {
    for place in places {
        if number < place.length {
            return (place.at + number, place.what);
        }
        number -= place.length;
    }
    unreachable!("a number below the total")
}
