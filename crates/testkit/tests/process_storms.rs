//! The fear: among many short-lived processes an offset goes wrong, a descriptor leaks, or a child finds no mount.

use lifeboat_testkit::command::{Mounted, limited};
use lifeboat_testkit::programs::compile;
use lifeboat_testkit::report::note;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, attach, check};

#[test]
fn a_thousand_processes_share_offsets_and_leave_nothing() {
    let _nothing_left = NoResidue::begin();
    let folder = ScratchDirectory::new("/tmp", "storm");
    let Some(program) = compile("gcc", "storm.c", &["-O1", "-w"], folder.path()) else { return };
    let mounted = Mounted::new("storm", "64MiB");
    let mut command = mounted.exec();
    command.arg(&program).arg(mounted.prefix()).arg("1000").arg(&program);
    let output = limited(&command, 300).output().expect("start the storm");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    note("storm", said.trim());
    let files = attach(&mounted.directory()).expect("attach");
    files.reap(None);
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
}

#[test]
fn what_is_opened_while_a_child_is_made_is_the_childs_too() {
    let _nothing_left = NoResidue::begin();
    let folder = ScratchDirectory::new("/tmp", "forking");
    let flags = ["-O1", "-Wall", "-pthread"];
    let Some(program) = compile("gcc", "opened_while_forking.c", &flags, folder.path()) else { return };
    let mounted = Mounted::new("forking", "64MiB");
    let output = limited(mounted.exec().arg(&program).arg(mounted.prefix()), 120).output().expect("start the program");
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    let files = attach(&mounted.directory()).expect("attach");
    files.reap(None);
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
}
