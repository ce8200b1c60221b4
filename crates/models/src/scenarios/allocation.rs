//! Space: two operations never have the same unit, also when a chunk becomes one of another class under them, and
//! whoever dies over it leaves nothing that nobody can have.

use crate::harness::{Bounds, Explored, World, explore, spawn};
use crate::lane::Lane;
use crate::layout::{OWNERS_PER_CHUNK, RENAME_LOCK};
use crate::owner::Owner;
use crate::region::Region;
use crate::space::{self, ChunkState, Class, Unit};
use crate::support::{
    Initial, NothingToFinish, assert_nothing_held, attached, chunk_word, chunk_word_at, live, owner_at, recover, unless_dead,
};
use crate::{Errno, MustFence, Result};

/// What a process got: the unit, and the owner word that it should have.
type Got = Option<Result<(Unit, u64)>>;

fn allocate_and_keep(region: Region, class: Class) -> (Region, Got) {
    let got = unless_dead((|| -> Result<(Unit, u64)> {
        let lane = Lane::claim(&region)?;
        let unit = lane.allocate(class, None)?;
        let mine = Owner::decode(0).expect("a word").taken_by(lane.index(), lane.generation());
        // Kept: unit and lane go with the process.
        std::mem::forget(lane);
        Ok((unit, mine.holder as u64))
    })());
    if got.is_none() {
        region.process.die();
    }
    (region, got)
}

fn assert_is_its_own(region: &Region, chunks: u64, unit: &Unit, holder: u64) {
    let owner = Owner::decode(region.load(unit.owner_at).expect("the owner word")).expect("a word");
    assert_eq!(owner.holder as u64, holder, "{unit:?} has another owner: {owner:?}");
    let chunk = (0..chunks).find(|&chunk| {
        let at = owner_at(chunks, chunk, Class::Block, 0);
        (at..owner_at(chunks, chunk + 1, Class::Block, 0)).contains(&unit.owner_at)
    });
    let (_, said) = space::chunk(region, chunk.expect("a chunk") as u32).expect("the chunk");
    assert_eq!(said, ChunkState::Used(unit.class), "{unit:?} lies in a chunk of another kind");
}

fn two_processes(
    bounds: Bounds,
    initial: Initial,
    chunks: u64,
    classes: [Class; 2],
    dies_at: Option<u32>,
    judge: impl Fn(&Region, [Got; 2]) + Send + Sync + 'static,
) -> Explored {
    explore(bounds, &initial, move |world: &World| {
        let observer = attached(world, 2, chunks, None);
        let first = attached(world, 0, chunks, dies_at);
        let second = attached(world, 1, chunks, None);
        world.start();
        let first = spawn(move || allocate_and_keep(first, classes[0]));
        let (second, others) = allocate_and_keep(second, classes[1]);
        let (first, got) = first.join().expect("the first");
        world.end();
        world.died(got.is_none());
        // A chunk that the dead one had claimed is what it was again.
        let recovered = recover(&observer);
        if world.counts() {
            recovered.expect("recovery");
            judge(&observer, [got, others]);
        }
        [first, second].iter().for_each(|region| region.process.die());
        let recovered = recover(&observer);
        if world.counts() {
            recovered.expect("recovery");
            assert_nothing_held(&observer, chunks);
        }
    })
}

/// Two extents are free and two processes want one each.
pub fn two_processes_never_have_the_same_unit(bounds: Bounds) -> Explored {
    let initial = Initial::from([(chunk_word_at(1, 0), chunk_word(Class::Extent))]);
    two_processes(bounds, initial, 1, [Class::Extent; 2], None, |region, gots| {
        let units: Vec<_> = gots.into_iter().map(|got| got.expect("alive").expect("there is one for each")).collect();
        assert_ne!(units[0].0.at, units[1].0.at, "one unit for two");
        for (unit, holder) in &units {
            assert_is_its_own(region, 1, unit, *holder);
        }
    })
}

/// One process takes a block of an empty chunk while the other makes extents of it.
pub fn a_chunk_becomes_another_class_only_when_nobody_has_a_unit(bounds: Bounds) -> Explored {
    let initial = Initial::from([(chunk_word_at(1, 0), chunk_word(Class::Block))]);
    two_processes(bounds, initial, 1, [Class::Block, Class::Extent], None, |region, gots| {
        let got: Vec<_> = gots.into_iter().map(|got| got.expect("alive")).collect();
        for (unit, holder) in got.iter().flatten() {
            assert_is_its_own(region, 1, unit, *holder);
        }
        assert!(got.iter().filter(|got| got.is_ok()).count() < 2, "one chunk for two classes: {got:?}");
        assert!(got.iter().all(|got| got.is_ok() || *got == Err(Errno::NOSPC)), "{got:?}");
    })
}

/// As before, and the first dies at `step`.
pub fn a_death_over_an_allocation_leaks_nothing(bounds: Bounds, classes: [Class; 2], step: u32) -> Explored {
    let initial = Initial::from([
        (chunk_word_at(1, 0), chunk_word(Class::Block)),
        (owner_at(1, 0, Class::Block, 3), if classes[0] == classes[1] { live() } else { 0 }),
    ]);
    two_processes(bounds, initial, 1, classes, Some(step), |region, gots| {
        for (unit, holder) in gots.into_iter().flatten().flatten() {
            assert_is_its_own(region, 1, &unit, holder);
        }
    })
}

/// Frees two units in one transaction.
fn free_two(region: &Region) -> Result<()> {
    let lane = Lane::claim(region)?;
    lane.lock(RENAME_LOCK, &NothingToFinish)?;
    let mut transaction = lane.begin();
    for unit in [3, 5] {
        let at = owner_at(1, 0, Class::Block, unit);
        let owner = Owner::decode(region.load(at)?).expect("a word");
        transaction.set_free(at, owner.freed().encode())?;
    }
    transaction.commit(MustFence::nothing())
}

/// All units are taken. One process frees two and dies at `step`; what it freed is had by another at once, and stays his
/// whoever recovers the dead one.
pub fn a_unit_freed_by_the_dead_stays_with_whoever_takes_it(bounds: Bounds, step: u32) -> Explored {
    let mut initial = Initial::from([(chunk_word_at(1, 0), chunk_word(Class::Block))]);
    initial.extend((0..OWNERS_PER_CHUNK).map(|unit| (owner_at(1, 0, Class::Block, unit), live())));
    explore(bounds, &initial, move |world: &World| {
        let observer = attached(world, 3, 1, None);
        let victim = attached(world, 0, 1, Some(step));
        let (taker, recoverer) = (attached(world, 1, 1, None), attached(world, 2, 1, None));
        let freed = unless_dead(free_two(&victim));
        world.died(victim.process.is_dead());
        victim.process.die();
        world.start();
        let recoverer = spawn(move || recover(&recoverer).map(|_| recoverer));
        let (_taker, got) = allocate_and_keep(taker, Class::Block);
        let first = recoverer.join().expect("the recoverer").map(|_| ());
        world.end();
        let second = recover(&observer);
        if world.counts() {
            assert_eq!((first, second.map(|_| ())), (Ok(()), Ok(())), "the dead one is not recovered ({got:?})");
            match got.expect("alive") {
                Ok((unit, holder)) => assert_is_its_own(&observer, 1, &unit, holder),
                Err(error) => assert_eq!((error, freed), (Errno::NOSPC, None), "nothing is free"),
            }
        }
    })
}
