//! Writes beside cuts, and open files beside unlinking.

mod support;
use lifeboat_models::real_files as real;
use lifeboat_models::{
    a_cut_does_not_hold_writers, an_announcement_is_not_seen_at_once, unlinked_is_freed_without_a_look_at_announcements,
};
use support::{caught, explored};

#[test]
fn a_block_that_a_writer_may_touch_is_not_given_away() {
    explored("write beside a cut that gives the block away", |bounds| {
        real::cut_against_write::a_block_that_a_writer_may_touch_is_not_given_away(bounds, None)
    });
}

#[test]
fn a_unit_that_is_freed_without_a_look_at_announcements_is_caught() {
    use unlinked_is_freed_without_a_look_at_announcements::cut_against_write as planted;
    caught("a late write went into a block that is another's", |bounds| {
        planted::a_block_that_a_writer_may_touch_is_not_given_away(bounds, None)
    });
}

#[test]
fn an_announcement_that_is_not_seen_at_once_is_caught() {
    use an_announcement_is_not_seen_at_once::cut_against_write as planted;
    caught("a late write went into a block that is another's", |bounds| {
        planted::a_block_that_a_writer_may_touch_is_not_given_away(bounds, None)
    });
}

#[test]
fn a_cut_and_a_write_behind_the_new_end() {
    explored("write behind the new end of a cut", |bounds| {
        real::cut_against_write::a_cut_and_a_write_behind_the_new_end(bounds, None)
    });
}

#[test]
fn a_cut_that_does_not_hold_writers_is_caught() {
    use a_cut_does_not_hold_writers::cut_against_write as planted;
    caught("a write that has ended is lost", |bounds| planted::a_cut_and_a_write_behind_the_new_end(bounds, None));
}

#[test]
fn two_open_files_never_share_a_slot() {
    explored("two open", real::open_files::two_open_files_never_share_a_slot);
}

#[test]
fn an_unlinked_file_lives_as_long_as_it_is_open() {
    explored("open beside unlink", |bounds| {
        real::open_files::an_unlinked_file_lives_as_long_as_it_is_open(bounds, None, false)
    });
    explored("open and close beside unlink", |bounds| {
        real::open_files::an_unlinked_file_lives_as_long_as_it_is_open(bounds, None, true)
    });
}
