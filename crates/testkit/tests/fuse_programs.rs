//! The fear: a program that no library can be loaded into does not see the region, or sees something else.

use lifeboat_testkit::fuse_mount::FuseMounted;
use lifeboat_testkit::programs::compile;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::ScratchDirectory;
use std::path::Path;
use std::process::{Command, Output};

/// Ends programs that hang.
fn run(program: &Path, arguments: &[&Path]) -> Output {
    Command::new("timeout").args(["-k", "2", "60"]).arg(program).args(arguments).output().expect("start timeout")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_static_program_in_the_mount_does_there_what_it_does_on_tmpfs() {
    let _nothing_left = NoResidue::begin();
    let Some(mounted) = FuseMounted::new("static", "64MiB") else { return };
    let tmpfs = ScratchDirectory::on_tmpfs("static");
    let Some(program) = compile("gcc", "plain.c", &["-static"], tmpfs.path()) else { return };
    let inside = mounted.at().join("plain");
    std::fs::copy(&program, &inside).expect("copy into the mount");
    let theirs = run(&program, &[&tmpfs.make("work")]);
    let ours = run(&inside, &[&mounted.make("work")]);
    assert!(theirs.status.success(), "on tmpfs: {}", text(&theirs));
    assert_eq!(text(&ours), text(&theirs));
    assert_eq!(ours.status.code(), theirs.status.code());
}
