//! What threads of one process keep of what they looked up: an answer is the one that belongs to its look-up, or none.

use crate::harness::{Bounds, Explored, World, explore, spawn};
use crate::private_cache::{CacheLine, Key, WHAT, answer, keep};
use crate::support::Initial;
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
