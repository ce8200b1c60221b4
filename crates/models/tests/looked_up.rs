//! What a process keeps of what it looked up, under all interleavings of its threads.

mod support;
use lifeboat_models::{a_line_is_looked_at_once, real};
use support::{caught, explored};

#[test]
fn answers_are_whole_or_none() {
    explored("answers", real::looked_up::answers_are_whole);
    explored("two answers at once", real::looked_up::two_answers_at_once);
}

#[test]
fn walks_are_whole_or_none() {
    explored("walks", real::looked_up::walks_are_whole);
}

#[test]
fn a_line_that_is_looked_at_once_is_caught() {
    caught("has the answer", a_line_is_looked_at_once::looked_up::answers_are_whole);
    caught("has the answer", a_line_is_looked_at_once::looked_up::walks_are_whole);
}
