//! Publication and transactions under all interleavings.

mod support;
use lifeboat_models::harness::explore_deaths;
use lifeboat_models::{applied_before_it_is_committed, real, relaxed_instead_of_release};
use support::{caught, explored, explored_deaths};

#[test]
fn who_sees_the_word_sees_the_data() {
    explored("publish", real::publication::who_sees_the_word_sees_the_data);
    explored("publish by exchange", real::publication::who_sees_the_exchanged_word_sees_the_data);
}

#[test]
fn a_word_that_is_published_relaxed_is_caught() {
    caught("published, but the data is", relaxed_instead_of_release::publication::who_sees_the_word_sees_the_data);
}

#[test]
fn words_that_change_together_are_never_seen_apart() {
    explored("two transactions", |bounds| real::publication::words_that_change_together(bounds, None));
}

#[test]
fn a_waiter_and_a_recoverer_find_all_of_a_dead_transaction_or_nothing() {
    explored_deaths("dead transaction", 1, |bounds, step| {
        real::publication::a_waiter_and_a_recoverer(bounds, step, None)
    });
}

#[test]
fn a_transaction_that_is_applied_before_it_is_committed_is_caught() {
    caught("one word is changed and the other is not", |bounds| {
        explore_deaths(1, |step| {
            applied_before_it_is_committed::publication::a_waiter_and_a_recoverer(bounds, step, None)
        })
    });
}
