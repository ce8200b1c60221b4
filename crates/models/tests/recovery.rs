//! Recoverers that race, and die.

mod support;
use lifeboat_models::harness::explore_deaths;
use lifeboat_models::{
    a_lock_that_somebody_begins_to_wait_for_is_not_taken_over, a_recoverer_does_not_look_at_the_slot_again, real,
};
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

#[test]
fn a_lock_of_the_dead_comes_free_beside_who_waits() {
    // Found by 25,750 kills: who had begun to wait in the moment in which the lock was taken over, and died, left it to nobody.
    explored("a lock of the dead, and somebody who waits", |bounds| {
        real::recoverers::a_lock_of_the_dead_comes_free_beside_who_waits(bounds, None)
    });
    explored_deaths("a lock of the dead, and somebody who waits and dies", 3, |bounds, step| {
        real::recoverers::a_lock_of_the_dead_comes_free_beside_who_waits(bounds, Some(step))
    });
}

#[test]
fn a_lock_that_is_not_taken_over_is_caught() {
    use a_lock_that_somebody_begins_to_wait_for_is_not_taken_over::recoverers as planted;
    caught("a lock stays the dead's", |bounds| {
        explore_deaths(1, |step| planted::a_lock_of_the_dead_comes_free_beside_who_waits(bounds, Some(step)))
    });
}
