//! The fear: a program that is interrupted in the middle of a call (by a handler that works itself, or jumps away, by the end
//! of the thread, by another program in the process, by descriptors that are closed) leaves a lock held, half of a change,
//! or waits for itself. Beside each a second process works on the same files, and must go on within a second.

use lifeboat_testkit::command::{Mounted, limited};
use lifeboat_testkit::programs::compile;
use lifeboat_testkit::report::{full, note};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, attach, check};
use std::process::Command;

/// A survivor's longest call, in milliseconds.
const PATIENCE: u64 = 1000;

fn survives(kind: &str, quick: u32) {
    let _nothing_left = NoResidue::begin();
    let folder = ScratchDirectory::new("/tmp", "interrupted");
    let Some(program) = compile("gcc", "interrupted.c", &["-O1", "-w", "-pthread"], folder.path()) else { return };
    let mounted = Mounted::new("interrupted", "64MiB");
    let count = if full() { 10 * quick } else { quick };
    let mut command = mounted.exec();
    command.arg(&program).arg(mounted.prefix()).arg(kind).arg(count.to_string());
    let output = limited(&command, 100).output().expect("start the program");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{kind}: {:?}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    let longest = said.lines().find_map(|line| line.strip_prefix("longest ")?.parse::<u64>().ok());
    let longest = longest.expect("the other process tells its longest call");
    note("interrupted", &format!("{count} {kind}; the other process's longest call {longest} ms"));
    assert!(longest < PATIENCE, "{kind}: the other process waited for {longest} ms");
    let files = attach(&mounted.directory()).expect("attach");
    files.reap(None);
    let checked = check(&files);
    assert!(checked.is_clean(), "after {count} {kind}: {checked}");
}

#[test]
fn a_handler_that_works_on_the_files_it_interrupts_waits_for_nothing() {
    survives("handlers", 2000);
}

#[test]
fn a_handler_that_jumps_out_of_a_call_leaves_no_lock_behind() {
    survives("jumps", 2000);
}

#[test]
fn cancelled_threads_leave_no_lock_behind_and_do_end() {
    survives("cancelled", 300);
}

#[test]
fn a_program_executed_while_threads_are_in_the_middle_of_renames_goes_on() {
    survives("exec", 40);
}

#[test]
fn descriptors_closed_behind_threads_at_work_stop_nobody() {
    survives("closed", 1000);
}

#[test]
fn every_call_with_bad_memory_answers_as_on_tmpfs() {
    let _nothing_left = NoResidue::begin();
    let folder = ScratchDirectory::new("/tmp", "bad-buffers");
    let Some(program) = compile("gcc", "bad_buffers.c", &["-O1", "-w"], folder.path()) else { return };
    let run = |mut command: Command, place: &std::path::Path| {
        command.arg(&program).arg(place);
        let output = limited(&command, 60).output().expect("start the program");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{:?}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr));
        said
    };
    let tmpfs = ScratchDirectory::on_tmpfs("bad-buffers");
    let wanted = run(Command::new("env"), tmpfs.path());
    let mounted = Mounted::new("bad-buffers", "32MiB");
    let found = run(mounted.exec(), mounted.prefix());
    let mut section = "";
    let mut differ = Vec::new();
    for (wanted, found) in wanted.lines().zip(found.lines()) {
        if !wanted.contains(':') {
            section = wanted;
        }
        if wanted != found {
            differ.push(format!("{section}: {found}, on tmpfs {wanted}"));
        }
    }
    assert!(differ.is_empty() && wanted.lines().count() == found.lines().count(), "{}", differ.join("\n"));
    let checked = check(&attach(&mounted.directory()).expect("attach"));
    assert!(checked.is_clean(), "{checked}");
}
