//! What is written about the command is what it does.

use std::process::Command;

#[test]
fn the_page_of_the_command_is_up_to_date() {
    let output = Command::new(env!("CARGO_BIN_EXE_lifeboat")).args(["documents", "--markdown"]).output().unwrap();
    let written = include_str!("../../../docs/command.md");
    assert!(
        output.stdout == written.as_bytes(),
        "docs/command.md is out of date: `lifeboat documents --markdown > docs/command.md` writes it"
    );
}

#[test]
fn every_command_has_help_and_help_is_no_error() {
    for arguments in [&["--help"][..], &["exec", "--help"], &["region", "create", "--help"], &["--version"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_lifeboat")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(output.stderr.is_empty() && !output.stdout.is_empty(), "{arguments:?}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_lifeboat")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
