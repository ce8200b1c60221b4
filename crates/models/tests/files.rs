//! Writes beside cuts, and open files beside unlinking.

mod support;
use lifeboat_models::harness::explore_deaths;
use lifeboat_models::real_files as real;
use lifeboat_models::real_files::cut_against_write::Way;
use lifeboat_models::real_files::open_files;
use lifeboat_models::{
    a_cut_does_not_hold_writers, a_place_is_believed_without_its_words, a_write_in_place_looks_for_no_cut,
    a_write_that_goes_on_is_held_by_no_cut, an_announcement_is_not_seen_at_once, the_count_is_looked_at_too_early,
    the_range_of_a_kept_lane_is_seen_late, unlinked_is_freed_without_a_look_at_announcements,
    what_a_dead_writer_left_is_not_zeroed, what_the_dead_had_open_stays_open, who_closes_looks_for_no_name,
    who_opens_looks_for_no_name,
};
use support::{caught, explored, explored_deaths, explored_deaths_deeper};

/// Writers announce themselves in two ways, may know where the bytes are, and go on with a checksum.
const WAYS: [Way; 4] = [Way::Claimed, Way::Kept, Way::Known, Way::GoesOn];

/// Open files are counted in two ways.
const COUNTED: [open_files::Way; 2] = [open_files::Way::Locked, open_files::Way::InPlace];

/// In the quick set a death at every so many-th step.
const STRIDE: usize = 11;

#[test]
fn a_block_that_a_writer_may_touch_is_not_given_away() {
    for way in WAYS {
        explored(&format!("write ({way:?}) beside a cut that gives the block away"), |bounds| {
            real::cut_against_write::a_block_that_a_writer_may_touch_is_not_given_away(bounds, None, way)
        });
    }
}

#[test]
fn a_unit_that_is_freed_without_a_look_at_announcements_is_caught() {
    use unlinked_is_freed_without_a_look_at_announcements::cut_against_write as planted;
    caught("a late write went into a block that is another's", |bounds| {
        planted::a_block_that_a_writer_may_touch_is_not_given_away(bounds, None, planted::Way::Claimed)
    });
}

#[test]
fn an_announcement_that_is_not_seen_at_once_is_caught() {
    use an_announcement_is_not_seen_at_once::cut_against_write as planted;
    caught("a late write went into a block that is another's", |bounds| {
        planted::a_block_that_a_writer_may_touch_is_not_given_away(bounds, None, planted::Way::Claimed)
    });
}

#[test]
fn a_cut_and_a_write_behind_the_new_end() {
    for way in WAYS {
        explored(&format!("write ({way:?}) behind the new end of a cut"), |bounds| {
            real::cut_against_write::a_cut_and_a_write_behind_the_new_end(bounds, None, way)
        });
    }
}

#[test]
fn a_cut_that_does_not_hold_writers_is_caught() {
    use a_cut_does_not_hold_writers::cut_against_write as planted;
    caught("a write that has ended is lost", |bounds| {
        planted::a_cut_and_a_write_behind_the_new_end(bounds, None, planted::Way::Claimed)
    });
}

#[test]
fn a_dead_write_is_zeroed_beside_a_living_one() {
    for way in WAYS {
        explored(&format!("a dead write is zeroed beside a living one ({way:?})"), |bounds| {
            real::cut_against_write::a_dead_write_is_zeroed_beside_a_living_one(bounds, way)
        });
    }
}

#[test]
fn a_range_in_a_kept_lane_that_is_seen_too_late_is_caught() {
    use the_range_of_a_kept_lane_is_seen_late::cut_against_write as planted;
    caught("a write that has ended is lost", |bounds| {
        planted::a_dead_write_is_zeroed_beside_a_living_one(bounds, planted::Way::Kept)
    });
}

#[test]
fn a_write_in_place_that_looks_for_no_cut_is_caught() {
    use a_write_in_place_looks_for_no_cut::cut_against_write as planted;
    caught("lies beyond the size", |bounds| {
        planted::a_cut_and_a_write_behind_the_new_end(bounds, None, planted::Way::Kept)
    });
}

#[test]
fn a_write_that_goes_on_and_is_held_by_no_cut_is_caught() {
    use a_write_that_goes_on_is_held_by_no_cut::cut_against_write as planted;
    caught("a write that has ended is lost", |bounds| {
        planted::a_dead_write_is_zeroed_beside_a_living_one(bounds, planted::Way::GoesOn)
    });
}

#[test]
fn a_place_that_is_believed_without_its_words_is_caught() {
    use a_place_is_believed_without_its_words::cut_against_write as planted;
    caught("a late write went into a block", |bounds| {
        planted::a_block_that_a_writer_may_touch_is_not_given_away(bounds, None, planted::Way::Known)
    });
}

#[test]
fn two_open_files_never_share_a_slot() {
    explored("two open", real::open_files::two_open_files_never_share_a_slot);
}

#[test]
fn an_unlinked_file_lives_as_long_as_it_is_open() {
    for way in COUNTED {
        explored(&format!("open ({way:?}) beside unlink"), |bounds| {
            real::open_files::an_unlinked_file_lives_as_long_as_it_is_open(bounds, None, false, way)
        });
        explored(&format!("open and close ({way:?}) beside unlink"), |bounds| {
            real::open_files::an_unlinked_file_lives_as_long_as_it_is_open(bounds, None, true, way)
        });
    }
}

#[test]
fn who_opens_and_looks_for_no_name_is_caught() {
    use who_opens_looks_for_no_name::open_files as planted;
    caught("taken apart while it is open", |bounds| {
        planted::an_unlinked_file_lives_as_long_as_it_is_open(bounds, None, false, planted::Way::InPlace)
    });
}

#[test]
fn who_closes_and_looks_for_no_name_is_caught() {
    use who_closes_looks_for_no_name::open_files as planted;
    caught("nobody takes it apart", |bounds| {
        planted::an_unlinked_file_lives_as_long_as_it_is_open(bounds, None, true, planted::Way::InPlace)
    });
}

#[test]
fn a_count_that_is_looked_at_before_the_name_is_gone_is_caught() {
    use the_count_is_looked_at_too_early::open_files as planted;
    caught("taken apart while it is open", |bounds| {
        planted::an_unlinked_file_lives_as_long_as_it_is_open(bounds, None, false, planted::Way::InPlace)
    });
}

#[test]
fn a_writer_that_dies_beside_a_cut_leaves_nothing_in_the_block_of_another() {
    for way in WAYS {
        let what = format!("death of a writer ({way:?}) beside a cut that gives the block away");
        explored_deaths(&what, 3 * STRIDE, |bounds, step| {
            real::cut_against_write::a_block_that_a_writer_may_touch_is_not_given_away(bounds, Some(step), way)
        });
    }
}

#[test]
fn a_writer_that_dies_behind_the_new_end_leaves_nothing_there() {
    // Found with two interruptions: a death between a write that met a cut and its second try left bytes.
    for way in WAYS {
        let what = format!("death of a writer ({way:?}) behind the new end of a cut");
        explored_deaths_deeper(&what, STRIDE, |bounds, step| {
            real::cut_against_write::a_cut_and_a_write_behind_the_new_end(bounds, Some(step), way)
        });
    }
}

#[test]
fn who_dies_over_an_open_has_nothing_open() {
    for (closes, way) in [(false, COUNTED[0]), (true, COUNTED[0]), (false, COUNTED[1]), (true, COUNTED[1])] {
        explored_deaths(&format!("death over an open ({way:?}) beside unlink"), STRIDE, |bounds, step| {
            real::open_files::an_unlinked_file_lives_as_long_as_it_is_open(bounds, Some(step), closes, way)
        });
    }
}

#[test]
fn bytes_of_a_dead_writer_that_are_not_zeroed_are_caught() {
    use what_a_dead_writer_left_is_not_zeroed::cut_against_write as planted;
    caught("lies beyond the size", |bounds| {
        explore_deaths(STRIDE, |step| {
            planted::a_cut_and_a_write_behind_the_new_end(bounds, Some(step), planted::Way::Claimed)
        })
    });
}

#[test]
fn an_open_file_of_the_dead_that_stays_open_is_caught() {
    use what_the_dead_had_open_stays_open::open_files as planted;
    caught("nobody has it open, and it is still there", |bounds| {
        // It shows only after a death within a few steps.
        explore_deaths(3, |step| {
            planted::an_unlinked_file_lives_as_long_as_it_is_open(bounds, Some(step), false, planted::Way::Locked)
        })
    });
}
