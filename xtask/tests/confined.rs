//! The fear: tests "as an ordinary user" run as root all the same.

use std::process::Command;

#[test]
fn an_ordinary_user_keeps_nothing_of_root() {
    let user = "60999";
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["confined", "--user", user, "--", "sh", "-c", "id -u; id -g; id -G; grep CapEff /proc/self/status"])
        .output()
        .expect("xtask starts");
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        // Without root nobody else can be become, and it must say so.
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot start sh"));
        return println!("skipped: root: we are not root");
    }
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..3], [user, user, user], "{text}");
    assert!(lines[3].ends_with("0000000000000000"), "{text}");
}

#[test]
fn a_missing_command_is_one_clear_line() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_xtask")).args(["confined", "--", "/no/such"]).output().expect("xtask starts");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
}
