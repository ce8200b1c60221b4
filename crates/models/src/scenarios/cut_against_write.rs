//! A write without a lock beside a cut of the same file: what was cut off is not given to others while the write may
//! still touch it, and no byte beyond the size is ever anything but zero.

use crate::checksum::{Checksum, State};
use crate::file_system::FileSystem;
use crate::files::{BLOCK_AT, CHUNKS, FILE, block_owner_at, files, linked, one_file};
use crate::harness::{Bounds, Explored, World, explore, spawn};
use crate::inode::{self, size_of};
use crate::layout::BLOCK;
use crate::map_word::Target;
use crate::owner::Kind;
use crate::pieces::Source;
use crate::recovery;
use crate::space::{self, Class, Unit};
use crate::support::unless_dead;
use crate::{MustFence, Result, UserSource};

const WRITTEN: [u8; 8] = [0x77; 8];
/// The file's word from the start.
const WORD: u64 = 0x2222;
const OTHERS: u64 = 0x1111_1111_1111_1111;

/// How the writer announces what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// In a lane that it claims for the write.
    Claimed,
    /// In one that it kept from before.
    Kept,
    /// As `Kept`, and it knows from a write before where the file's bytes are.
    Known,
    /// As `Known`, and it goes on with the checksum of all bytes up to there.
    GoesOn,
}

fn prepare(writer: Option<&FileSystem>, way: Way) {
    // It may die over it, too.
    if way != Way::Claimed {
        let _ = writer.map(|files| files.lane().and_then(|lane| files.region().keep(lane)));
    }
    if way == Way::Known || way == Way::GoesOn {
        let _ = writer.map(|files| write_bytes(files, 0, &WORD.to_le_bytes()));
    }
    if way == Way::GoesOn {
        // What the CRC is does not matter.
        let sum = Checksum { state: State::Running, valid: 16, crc: 5, end_to_end: false };
        let at = FILE.at() + inode::ROOT_CHECKSUM;
        let _ = writer.map(|files| files.region().commit(at, sum.encode(), MustFence::nothing()));
    }
}

fn write_eight(files: &FileSystem, at: u64) -> Result<u64> {
    write_bytes(files, at, &WRITTEN)
}

fn write_bytes(files: &FileSystem, at: u64, bytes: &[u8]) -> Result<u64> {
    let pieces = [UserSource::from_slice(bytes)];
    let length = bytes.len() as u64;
    // As the file system does: what cannot be done in place is done the general way.
    if files.write_in_place(FILE, &Source::new(&pieces), at, length) {
        return Ok(length);
    }
    files.write_range(FILE, &mut Source::new(&pieces), at, length)
}

/// Cuts the file to nothing and gives the next free block to somebody else, who fills it.
fn cut_and_use_again(files: &FileSystem) -> Result<Unit> {
    files.resize(FILE, 0)?;
    let lane = files.lane()?;
    let unit = lane.allocate(Class::Block, None)?;
    for at in (0..16).step_by(8) {
        files.region().commit(unit.at + at, OTHERS, MustFence::nothing())?;
    }
    files.region().commit(unit.owner_at, linked(Kind::Data, 99), MustFence::nothing())?;
    Ok(unit)
}

/// Ends a process; whether it had died before, over its last call perhaps only after that had its answer.
fn ended(files: &FileSystem) -> bool {
    let died = files.region().process.is_dead();
    files.region().process.die();
    died
}

/// The writer has the block in its hands while it is cut off.
pub fn a_block_that_a_writer_may_touch_is_not_given_away(bounds: Bounds, step: Option<u32>, way: Way) -> Explored {
    explore(bounds, &one_file(16, WORD), move |world: &World| {
        let [observer, writer, cutter] = [(2, None), (0, step), (1, None)].map(|(n, step)| files(world, n, step));
        let (Some(observer), Some(cutter)) = (observer, cutter) else { return };
        prepare(writer.as_ref(), way);
        world.start();
        let writer = spawn(move || {
            let wrote = writer.as_ref().and_then(|files| unless_dead(write_eight(files, 8)));
            (wrote, writer.is_none_or(|files| ended(&files)))
        });
        let unit = cut_and_use_again(&cutter);
        let (wrote, died) = writer.join().expect("the writer");
        world.end();
        world.died(died);
        let _ = recovery::recover_all(observer.region(), &observer);
        let at = unit.map_or(BLOCK_AT, |unit| unit.at);
        let others = [at, at + 8].map(|at| observer.region().load(at));
        let size = observer.field(FILE, inode::SIZE).map(size_of);
        let words = bytes_of_the_file(&observer);
        if world.counts() {
            let (unit, size) = (unit.expect("there are blocks enough"), size.expect("the size"));
            let whose = "a late write went into a block that is another's by now";
            assert_eq!(others, [Ok(OTHERS); 2], "{whose} ({unit:?}, {wrote:?})");
            if let Some(words) = words.expect("the bytes") {
                assert_zero_beyond_the_size(size, &words);
            }
        }
    })
}

/// Bytes of the file's block, as they lie there.
fn bytes_of_the_file(files: &FileSystem) -> Result<Option<Vec<u64>>> {
    let region = files.region();
    match Target::decode(files.field(FILE, inode::ROOT)?)? {
        Target::Block(at) => {
            let words = (0..BLOCK).step_by(8).map(|offset| region.load(at + offset)).collect::<Result<Vec<_>>>();
            words.map(Some)
        }
        Target::Hole => Ok(None),
        other => panic!("the file has another map: {other:?}"),
    }
}

fn assert_zero_beyond_the_size(size: u64, words: &[u64]) {
    for (index, word) in words.iter().enumerate() {
        let at = index as u64 * 8;
        let beyond = if at >= size { *word } else { 0 };
        assert_eq!(beyond, 0, "byte {at} lies beyond the size {size} and is not zero: {words:x?}");
    }
}

/// A file of 16 bytes is cut to 8 while somebody writes its bytes 16 to 24. Either way round, no byte that was cut off
/// shows again, and none beyond the size is there.
pub fn a_cut_and_a_write_behind_the_new_end(bounds: Bounds, step: Option<u32>, way: Way) -> Explored {
    explore(bounds, &one_file(16, WORD), move |world: &World| {
        let [observer, writer, cutter] = [(2, None), (0, step), (1, None)].map(|(n, step)| files(world, n, step));
        let (Some(observer), Some(cutter)) = (observer, cutter) else { return };
        prepare(writer.as_ref(), way);
        world.start();
        let writer = spawn(move || {
            let wrote = writer.as_ref().and_then(|files| unless_dead(write_eight(files, 16)));
            (wrote, writer.is_none_or(|files| ended(&files)))
        });
        let cut = cutter.resize(FILE, 8);
        let (wrote, died) = writer.join().expect("the writer");
        world.end();
        world.died(died);
        let recovered = recovery::recover_all(observer.region(), &observer);
        let size = observer.field(FILE, inode::SIZE).map(size_of);
        let words = bytes_of_the_file(&observer);
        if world.counts() {
            recovered.expect("recovery");
            cut.expect("the survivor's cut");
            let (size, words) = (size.expect("the size"), words.expect("the bytes").expect("the block stays"));
            assert_zero_beyond_the_size(size, &words);
            assert!(size == 8 || size == 24, "{size}");
            assert_eq!((words[0], words[1]), (WORD, 0), "what was cut off shows again: {words:x?}");
            if size == 24 {
                assert_eq!(words[2], u64::from_le_bytes(WRITTEN), "a write that has ended is lost: {words:x?}");
            }
        }
    })
}

/// A process died over a write behind the end, and what it left there is zeroed while somebody writes there, too: his bytes
/// stay.
pub fn a_dead_write_is_zeroed_beside_a_living_one(bounds: Bounds, way: Way) -> Explored {
    explore(bounds, &one_file(16, WORD), move |world: &World| {
        let [observer, writer, recoverer, dead] = [2, 0, 1, 3].map(|number| files(world, number, None));
        let (Some(observer), Some(recoverer), Some(dead)) = (observer, recoverer, dead) else { return };
        prepare(writer.as_ref(), way);
        let left = dead.lane().and_then(|lane| {
            lane.announce(FILE.to_word(), 16, 32)?;
            std::mem::forget(lane);
            Ok(())
        });
        dead.region().process.die();
        world.start();
        let writer = spawn(move || {
            let wrote = writer.as_ref().map(|files| write_eight(files, 16));
            (wrote, writer.is_none_or(|files| ended(&files)))
        });
        let recovered = recovery::recover_all(recoverer.region(), &recoverer);
        let (wrote, _) = writer.join().expect("the writer");
        world.end();
        let size = observer.field(FILE, inode::SIZE).map(size_of);
        let words = bytes_of_the_file(&observer);
        if world.counts() {
            left.expect("an announcement");
            recovered.expect("the recovery");
            assert_eq!(wrote, Some(Ok(8)));
            let (size, words) = (size.expect("the size"), words.expect("the bytes").expect("the block stays"));
            assert_eq!(size, 24);
            assert_eq!(words[2], u64::from_le_bytes(WRITTEN), "a write that has ended is lost: {words:x?}");
        }
    })
}
