//! Publication: whoever sees the word sees what it speaks for; of words that change together nobody sees a part, also
//! when their writer dies.

use crate::harness::{Bounds, Explored, World, explore, spawn};
use crate::lane::Lane;
use crate::layout::{CELL, Geometry, INODE_SEQUENCE};
use crate::owner::{Kind, Owner};
use crate::space::Class;
use crate::region::Region;
use crate::support::{Initial, chunk_word, chunk_word_at, NothingToFinish, attached, recover, unless_dead};
use crate::{MustFence, Result};
use core::sync::atomic::Ordering;

const CHUNKS: u64 = 1;
/// An inode, for its lock and its sequence word.
const LOCK: u64 = Geometry::of(CHUNKS).data_at + CELL;
const SEQUENCE: u64 = LOCK + INODE_SEQUENCE;
const FIRST: u64 = LOCK + 64;
const SECOND: u64 = LOCK + 128;

fn one_inode() -> Initial {
    let inode = Owner::decode(0).expect("a word").linked(Kind::Inode, (LOCK / CELL) as u32);
    Initial::from([
        (chunk_word_at(CHUNKS, 0), chunk_word(Class::Cell)),
        (Geometry::of(CHUNKS).data_at + 8, inode.encode()),
    ])
}

/// Data by relaxed stores (as copying is), then the word by `commit`.
pub fn who_sees_the_word_sees_the_data(bounds: Bounds) -> Explored {
    published(bounds, |region| region.commit(LOCK, 1, MustFence::nothing()))
}

/// As before, with the word exchanged.
pub fn who_sees_the_exchanged_word_sees_the_data(bounds: Bounds) -> Explored {
    published(bounds, |region| region.commit_exchange(LOCK, 0, 1, MustFence::nothing()).map(|_| ()))
}

fn published(bounds: Bounds, publish: fn(&Region) -> Result<()>) -> Explored {
    explore(bounds, &Initial::new(), move |world: &World| {
        let (writer, reader) = (attached(world, 0, CHUNKS, None), attached(world, 1, CHUNKS, None));
        world.start();
        let writer = spawn(move || {
            for at in [FIRST, SECOND] {
                writer.word(at)?.store(7, Ordering::Relaxed);
            }
            publish(&writer)
        });
        let seen = (|| {
            let word = reader.load(LOCK)?;
            let data = [FIRST, SECOND].map(|at| reader.word(at).map(|data| data.load(Ordering::Relaxed)));
            Ok::<_, crate::Errno>((word, data[0]?, data[1]?))
        })();
        let _ = writer.join().expect("the writer");
        world.end();
        if let (true, Ok((word, first, second))) = (world.counts(), seen) {
            assert!(word == 0 || (first, second) == (7, 7), "published, but the data is {first}, {second}");
        }
    })
}

/// Adds one to both words, under the lock.
fn add_to_both(region: &Region) -> Result<u64> {
    let lane = Lane::claim(region)?;
    lane.lock(LOCK, &NothingToFinish)?;
    let mut transaction = lane.begin();
    let (first, second) = (transaction.get(FIRST)?, transaction.get(SECOND)?);
    assert_eq!(first, second, "under the lock, one word is changed and the other is not");
    transaction.guard(SEQUENCE)?;
    transaction.set(FIRST, first + 1)?;
    transaction.set(SECOND, second + 1)?;
    transaction.commit(MustFence::nothing())?;
    Ok(first + 1)
}

/// Two processes change both words; the first dies at `step`, if one is given.
pub fn words_that_change_together(bounds: Bounds, step: Option<u32>) -> Explored {
    explore(bounds, &one_inode(), move |world: &World| {
        let observer = attached(world, 2, CHUNKS, None);
        let (first, second) = (attached(world, 0, CHUNKS, step), attached(world, 1, CHUNKS, None));
        world.start();
        let first = spawn(move || {
            let answer = unless_dead(add_to_both(&first));
            first.process.die();
            answer
        });
        let second_answer = unless_dead(add_to_both(&second));
        let first_answer = first.join().expect("the first");
        world.end();
        world.died(first_answer.is_none());
        let _ = recover(&observer);
        let words = [LOCK, SEQUENCE, FIRST, SECOND].map(|at| observer.load(at).unwrap_or(0));
        if world.counts() {
            assert_eq!(words[2], words[3], "one word is changed and the other is not");
            assert_eq!((words[0], words[1] & 1), (0, 0), "a lock or a guard stays");
            let done = u64::from(first_answer.is_some()) + 1;
            assert!(second_answer.expect("alive").is_ok(), "the survivor did not come to its end");
            assert!(words[2] == done || (first_answer.is_none() && words[2] == 2), "{words:?}, {first_answer:?}");
        }
    })
}

/// One process alone takes both words forward and dies at `step`; another, which waits for the lock, and a third, which
/// recovers, meet what it left.
pub fn a_waiter_and_a_recoverer(bounds: Bounds, step: u32, second_step: Option<u32>) -> Explored {
    explore(bounds, &one_inode(), move |world: &World| {
        let observer = attached(world, 3, CHUNKS, None);
        let victim = attached(world, 0, CHUNKS, Some(step));
        let (waiter, recoverer) = (attached(world, 1, CHUNKS, None), attached(world, 2, CHUNKS, second_step));
        let before = unless_dead(add_to_both(&victim));
        world.died(before.is_none());
        victim.process.die();
        world.start();
        let recoverer = spawn(move || {
            let _ = crate::recovery::recover_all(&recoverer, &NothingToFinish);
            recoverer.process.die();
        });
        let answer = unless_dead(add_to_both(&waiter));
        recoverer.join().expect("the recoverer");
        world.end();
        let _ = recover(&observer);
        let words = [LOCK, SEQUENCE, FIRST, SECOND].map(|at| observer.load(at).unwrap_or(0));
        if world.counts() {
            assert_eq!(words[2], words[3], "one word is changed and the other is not");
            assert_eq!((words[0], words[1] & 1), (0, 0), "a lock or a guard stays");
            assert!(matches!(answer, Some(Ok(_))), "the survivor did not come to its end: {answer:?}");
            assert!(words[2] == 2 || (before.is_none() && words[2] == 1), "{words:?}, {before:?}");
        }
    })
}
