//! The command line, parsed and refused.

use super::*;
use clap::CommandFactory;

fn refuse(arguments: &[&str]) -> String {
    let error = Arguments::try_parse_from(["lifeboat"].iter().chain(arguments)).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{arguments:?}");
    let line = one_line(&error.to_string());
    assert!(!line.contains('\n'), "{line}");
    line
}

#[test]
fn the_table_of_flags_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn bad_input_is_refused_in_one_line_that_says_what_is_wrong() {
    for (arguments, expected) in [
        (&["region", "create", "--size", "10GGB"][..], "unknown unit"),
        (&["region", "create", "--size", "-1"], "negative"),
        (&["region", "create", "--size=-1"], "negative"),
        (&["region", "create", "--size", "0"], "no bytes"),
        (&["region", "create", "--size", ""], "size is empty"),
        (&["region", "create", "--size", "99999999999TiB"], "larger than any memory"),
        (&["region", "create", "--carrier", "floppy"], "take auto, tmpfs, shm, hugetlbfs"),
        (&["region", "create", "a/b"], "slash"),
        (&["region", "create", ".."], "dot"),
        (&["exec", "--name", "a/b", "--", "true"], "slash"),
        (&["exec", "--mount", "relative", "--", "true"], "absolute"),
        (&["exec", "--mount", "/", "--", "true"], "absolute"),
        (&["exec", "--mount", "", "--", "true"], "empty"),
        (&["exec"], "CMD"),
        (&["frobnicate"], "frobnicate"),
        (&["ls", "--frobnicate"], "--frobnicate"),
        (&["cp", "one"], "DESTINATION"),
        (&["region", "remove"], "NAME"),
        (&["mount", "relative"], "absolute"),
        (&["mount", "--name", "a/b"], "slash"),
        (&["unmount", "/a/../b"], "plainly"),
    ] {
        let line = refuse(arguments);
        assert!(line.contains(expected), "{arguments:?}: {line}");
    }
}

#[test]
fn everything_behind_the_dashes_is_the_program() {
    let parsed = Arguments::try_parse_from(["lifeboat", "exec", "--size", "64M", "--", "ls", "--size", "-l"]).unwrap();
    let Command::Exec(exec) = parsed.command else { panic!("not exec") };
    assert_eq!(exec.command, ["ls", "--size", "-l"]);
    assert_eq!(exec.new.size, Some(64 << 20));
}

#[test]
fn every_command_shows_an_example() {
    fn look(command: &clap::Command) {
        if command.is_hide_set() {
            return;
        }
        let leaf = command.get_subcommands().next().is_none();
        let text = command.get_after_help().map(|text| text.to_string()).unwrap_or_default();
        assert!(!leaf || text.contains("Example"), "{}", command.get_name());
        command.get_subcommands().for_each(look);
    }
    look(&Arguments::command());
}
