//! The fear: a file grows after it was mapped, or has holes, and whoever reads the mapping sees zeros, or dies, or takes
//! memory for what nobody ever wrote.

use lifeboat_testkit::command::{Mounted, limited};
use lifeboat_testkit::programs::compile;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, attach, check};
use std::process::Command;

/// The program maps a file of 64 GiB that is nearly all hole in a region of 64 MiB.
#[test]
fn mappings_larger_than_their_files_answer_as_on_tmpfs() {
    let _nothing_left = NoResidue::begin();
    let tmpfs = ScratchDirectory::on_tmpfs("mapped-growth");
    let options = ["-O1", "-Wall", "-Wno-unused-result", "-pthread"];
    let Some(program) = compile("gcc", "mapped_growth.c", &options, tmpfs.path()) else { return };
    let files = tmpfs.make("files");
    let expected = Command::new(&program).arg(&files).output().expect("the program runs");
    assert!(expected.status.success());
    let mounted = Mounted::new("mapped-growth", "64MiB");
    let mut command = mounted.exec();
    command.arg(&program).arg(mounted.prefix());
    let found = limited(&command, 120).output().expect("the program runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(text(&found.stdout), text(&expected.stdout), "{}", text(&found.stderr));
    assert!(found.status.success());
    let checked = check(&attach(&mounted.directory()).expect("attach"));
    assert!(checked.is_clean(), "{checked}");
}
