//! Recoverers that race, and die.

mod support;
use lifeboat_models::{a_recoverer_does_not_look_at_the_slot_again, real};
use support::{caught, explored, explored_deaths};

#[test]
fn a_dead_process_is_recovered_once() {
    explored("two recoverers", |bounds| real::recoverers::a_dead_process_is_recovered_once(bounds, None));
    explored_deaths("two recoverers, one dies", 13, |bounds, step| {
        real::recoverers::a_dead_process_is_recovered_once(bounds, Some(step))
    });
}

#[test]
fn a_recoverer_that_does_not_look_again_is_caught() {
    caught("two recover one at the same time", |bounds| {
        a_recoverer_does_not_look_at_the_slot_again::recoverers::a_dead_process_is_recovered_once(bounds, None)
    });
}
