//! The fear: a typing error takes down a job, or makes or removes something that nobody meant.
//!
//! Every case must end with an exit code that says so and one line that says why, and must change nothing.

use lifeboat_testkit::command::{Mounted, lifeboat, limited};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, this_user};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

/// Runs it; it must fail in words, without a signal.
fn refused(command: &Command, what: &str) -> Output {
    let output = limited(command, 20).output().expect("start lifeboat");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.signal(), None, "{what}: killed; it said {said:?}");
    let code = output.status.code().expect("no signal");
    assert!(code != 0 && code != 124, "{what}: ended with {code}; it said {said:?}");
    assert!(!said.trim().is_empty() && !said.contains("panicked"), "{what}: said {said:?}");
    output
}

fn one_line(output: &Output, what: &str) -> String {
    let said = String::from_utf8_lossy(&output.stderr).trim_end().to_string();
    assert_eq!(said.lines().count(), 1, "{what}: not one line:\n{said}");
    said
}

fn is_there(name: &str) -> bool {
    std::path::Path::new(&format!("/dev/shm/lifeboat-{}/{name}", this_user().uid)).exists()
}

#[test]
fn impossible_sizes_are_refused_and_nothing_is_made() {
    let _nothing_left = NoResidue::begin();
    let mounted = Mounted::new("size", "8MiB");
    for size in ["10GGB", "-1", "0", "", "abc", "1.5.2GiB", "99999999999TiB", "18446744073709551616", "1 ", "900TiB"] {
        let create = lifeboat(["region", "create", mounted.name(), "--size", size]);
        let said = one_line(&refused(&create, size), size);
        assert!(said.len() > 15, "{size}: says only {said:?}");
        let exec = lifeboat(["exec", "--name", mounted.name(), "--size", size, "--", "true"]);
        refused(&exec, size);
        assert!(!is_there(mounted.name()), "{size}: a region was made");
    }
}

#[test]
fn impossible_names_and_carriers_are_refused() {
    let _nothing_left = NoResidue::begin();
    let long = "n".repeat(300);
    for name in ["a/b", "/", "..", ".", "", "../escape", long.as_str(), "new\nline"] {
        let create = lifeboat(["region", "create", "--size", "8MiB", "--", name]);
        one_line(&refused(&create, name), name);
    }
    let mounted = Mounted::new("carrier", "8MiB");
    for carrier in ["floppy", "", "SHM ", "/dev/shm"] {
        let create = lifeboat(["region", "create", mounted.name(), "--size", "8MiB", "--carrier", carrier]);
        one_line(&refused(&create, carrier), carrier);
        assert!(!is_there(mounted.name()), "carrier {carrier:?}: a region was made");
    }
}

#[test]
fn impossible_mounts_are_refused() {
    let _nothing_left = NoResidue::begin();
    let mounted = Mounted::new("mount", "8MiB");
    for mount in ["relative", "relative/path", "/", "", "//", "/..", "."] {
        let exec = lifeboat(["exec", "--name", mounted.name(), "--size", "8MiB", "--mount", mount, "--", "true"]);
        one_line(&refused(&exec, mount), mount);
    }
}

#[test]
fn a_second_region_of_the_same_name_is_refused_and_the_first_is_kept() {
    let _nothing_left = NoResidue::begin();
    let mounted = Mounted::new("twice", "16MiB");
    let file = mounted.prefix().join("kept").display().to_string();
    let written = mounted.shell(&format!("echo kept > {file}"));
    assert!(written.status.success(), "{written:?}");
    let again = lifeboat(["region", "create", mounted.name(), "--size", "16MiB"]);
    let said = one_line(&refused(&again, "again"), "again");
    assert!(said.contains(mounted.name()), "does not say which: {said:?}");
    let read = mounted.shell(&format!("cat {file}"));
    assert_eq!(String::from_utf8_lossy(&read.stdout), "kept\n", "the first region lost its file");
}

#[test]
fn what_is_absent_is_said_to_be_absent() {
    let _nothing_left = NoResidue::begin();
    let folder = ScratchDirectory::new("/tmp", "absent");
    let name = format!("{}-absent", lifeboat_testkit::scratch::tag());
    for arguments in [
        vec!["region", "info", &name],
        vec!["region", "check", &name],
        vec!["region", "remove", &name],
        vec!["ls", "--name", &name],
        vec!["cat", "--name", &name, ":x"],
        vec!["df", "--name", &name],
        vec!["verify", "--name", &name, ":x"],
    ] {
        let said = one_line(&refused(&lifeboat(&arguments), arguments[0]), arguments[0]);
        assert!(said.contains(&name), "{arguments:?} does not say which region: {said:?}");
        assert!(!is_there(&name), "{arguments:?} made a region");
    }
    let mounted = Mounted::new("programs", "8MiB");
    let mut absent = mounted.exec();
    absent.arg(folder.path().join("no such program"));
    assert_eq!(refused(&absent, "no such program").status.code(), Some(127));
    let mut directory = mounted.exec();
    directory.arg(folder.path());
    assert_eq!(refused(&directory, "a directory as a program").status.code(), Some(126));
}

#[test]
fn exit_codes_and_signals_of_the_program_come_through() {
    let _nothing_left = NoResidue::begin();
    let mounted = Mounted::new("codes", "8MiB");
    for code in [0, 1, 42, 255] {
        assert_eq!(mounted.shell(&format!("exit {code}")).status.code(), Some(code));
    }
    assert_eq!(mounted.shell("kill -9 $$").status.signal(), Some(9));
    assert_eq!(mounted.shell("kill -TERM $$").status.signal(), Some(15));
}
