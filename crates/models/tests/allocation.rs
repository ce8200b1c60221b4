//! Space under all interleavings.

mod support;
use lifeboat_models::harness::explore_deaths;
use lifeboat_models::real::space::Class;
use lifeboat_models::{
    a_unit_is_stored_not_exchanged, no_second_look_at_the_chunk, no_second_look_at_the_units, real,
    what_the_dead_did_is_stored_again,
};
use support::{caught, explored, explored_deaths};

#[test]
fn two_processes_never_have_the_same_unit() {
    explored("two take a unit", real::allocation::two_processes_never_have_the_same_unit);
}

#[test]
fn a_unit_that_is_stored_and_not_exchanged_is_caught() {
    caught("one unit for two", a_unit_is_stored_not_exchanged::allocation::two_processes_never_have_the_same_unit);
}

#[test]
fn a_chunk_becomes_another_class_only_when_nobody_has_a_unit() {
    explored("a chunk changes its class", real::allocation::a_chunk_becomes_another_class_only_when_nobody_has_a_unit);
}

#[test]
fn a_class_that_is_changed_under_a_unit_is_caught() {
    caught(
        "lies in a chunk of another kind",
        no_second_look_at_the_chunk::allocation::a_chunk_becomes_another_class_only_when_nobody_has_a_unit,
    );
    caught(
        "lies in a chunk of another kind",
        no_second_look_at_the_units::allocation::a_chunk_becomes_another_class_only_when_nobody_has_a_unit,
    );
}

#[test]
fn a_death_over_an_allocation_leaks_nothing() {
    for classes in [[Class::Block, Class::Block], [Class::Extent, Class::Block]] {
        explored_deaths(&format!("death over an allocation, {classes:?}"), 1, |bounds, step| {
            real::allocation::a_death_over_an_allocation_leaks_nothing(bounds, classes, step)
        });
    }
}

#[test]
fn a_unit_that_the_dead_freed_stays_with_whoever_takes_it() {
    explored_deaths("death over freeing units that another takes", 1, |bounds, step| {
        real::allocation::a_unit_freed_by_the_dead_stays_with_whoever_takes_it(bounds, step)
    });
}

#[test]
fn a_word_of_the_dead_that_is_stored_again_is_caught() {
    use what_the_dead_did_is_stored_again::allocation as planted;
    caught("has another owner", |bounds| {
        explore_deaths(1, |step| planted::a_unit_freed_by_the_dead_stays_with_whoever_takes_it(bounds, step))
    });
}
