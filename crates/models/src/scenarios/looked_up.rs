//! What threads of one process keep of what they looked up: an answer is the one that belongs to its look-up, or none.

use crate::Result;
use crate::harness::{Bounds, Explored, World, explore, spawn};
use crate::private_cache::{CacheLine, Key, WHAT, answer, keep};
use crate::region::Region;
use crate::support::Initial;
use crate::walk_cache::{Walk, WalkLine, WalkWitness, find, remember};
use crate::witness::Words;
use std::sync::Arc;

/// Look-up `number`, and its answer.
fn look_up(number: u64) -> (Key, u64) {
    (Key { what: [number; WHAT], state: number }, number)
}

/// Two lines, both in use, so that what is kept next takes the place of something.
fn full_lines() -> Arc<[CacheLine]> {
    let lines: Arc<[CacheLine]> = [CacheLine::default(), CacheLine::default()].into();
    [1, 2].into_iter().for_each(|number| note(&lines, number));
    lines
}

fn note(lines: &[CacheLine], number: u64) {
    let (key, value) = look_up(number);
    keep(lines, &key, value);
}

fn ask(lines: &[CacheLine], number: u64) {
    let (key, value) = look_up(number);
    let found = answer(lines, &key);
    assert!(found.is_none_or(|found| found == value), "look-up {number} has the answer {found:?}");
}

/// A thread keeps an answer while another does something else; `after`: when both have.
fn beside_a_writer(bounds: Bounds, other: fn(&[CacheLine]), after: fn(&[CacheLine])) -> Explored {
    explore(bounds, &Initial::new(), move |world: &World| {
        let lines = full_lines();
        world.start();
        let writer = {
            let lines = lines.clone();
            spawn(move || note(&lines, 3))
        };
        other(&lines);
        writer.join().expect("the writer");
        world.end();
        after(&lines);
    })
}

/// A thread keeps an answer while another asks for it, and for one whose place it may take.
pub fn answers_are_whole(bounds: Bounds) -> Explored {
    beside_a_writer(bounds, |lines| [3, 1].into_iter().for_each(|number| ask(lines, number)), |_| ())
}

/// Two threads keep an answer each at once.
pub fn two_answers_at_once(bounds: Bounds) -> Explored {
    beside_a_writer(bounds, |lines| note(lines, 4), |lines| (1..=4).for_each(|number| ask(lines, number)))
}

/// Words none of which ever changes: each is its offset.
struct Unchanged;

impl Words for Unchanged {
    fn region(&self) -> &Region {
        panic!("no walk of these asks for it")
    }

    fn load(&self, at: u64) -> Result<u64> {
        Ok(at)
    }
}

const WALKS: [(u64, &[u8]); 2] = [(1, b"one/"), (2, b"two/")];

fn walk_to(lines: &[WalkLine], number: usize) {
    let (who, path) = WALKS[number];
    let witness = WalkWitness::new(&Unchanged);
    witness.load(who * 8).expect("a word");
    remember(lines, &Walk::new(who, 1, path).expect("short enough"), who * 100, who * 8, &witness);
}

fn ask_for_walk(lines: &[WalkLine], number: usize) {
    let (who, path) = WALKS[number];
    // SAFETY: these words are not loaded from memory by their offsets.
    let found = unsafe { find(lines, &Unchanged, &Walk::new(who, 1, path).expect("short enough")) };
    let found = found.map(|found| (found.end, found.before));
    assert!(found.is_none_or(|found| found == (who * 100, who * 8)), "walk {number} has the answer {found:?}");
}

/// A thread remembers a walk in place of another, while somebody asks for both.
pub fn walks_are_whole(bounds: Bounds) -> Explored {
    explore(bounds, &Initial::new(), move |world: &World| {
        let lines: Arc<[WalkLine]> = [WalkLine::default()].into();
        walk_to(&lines, 0);
        world.start();
        let writer = {
            let lines = lines.clone();
            spawn(move || walk_to(&lines, 1))
        };
        [1, 0].into_iter().for_each(|number| ask_for_walk(&lines, number));
        writer.join().expect("the writer");
        world.end();
        ask_for_walk(&lines, 1);
    })
}
