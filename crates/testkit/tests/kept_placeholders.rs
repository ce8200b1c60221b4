//! The fear: what the library keeps of a file that was closed, so that the next one is opened sooner, holds that file or its space, is
//! taken for what the program put in its place, or shows through.

use lifeboat_testkit::command::{Mounted, limited};
use lifeboat_testkit::programs::compile;
use lifeboat_testkit::report::note;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, attach, check};

#[test]
fn what_is_kept_of_closed_files_is_in_nobodys_way() {
    let _nothing_left = NoResidue::begin();
    let folder = ScratchDirectory::new("/tmp", "kept");
    let Some(program) = compile("gcc", "kept_placeholders.c", &["-O1", "-Wall", "-pthread"], folder.path()) else {
        return;
    };
    let mounted = Mounted::new("kept", "256MiB");
    let output = limited(mounted.exec().arg(&program).arg(mounted.prefix()), 120).output().expect("start the program");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    let checks: Vec<u64> = said.lines().filter_map(|line| line.strip_suffix(" checks")?.parse().ok()).collect();
    assert!(checks.len() == 8 && said.lines().count() == 8, "{said}{}", String::from_utf8_lossy(&output.stderr));
    note("kept placeholders", &format!("{} checks", checks.iter().sum::<u64>()));
    let files = attach(&mounted.directory()).expect("attach");
    files.reap(None);
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
}
