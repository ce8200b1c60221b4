//! The fear: somebody who asked for checksums while data is written does not get them, or somebody who did not, and asked for speed,
//! pays for them; programs that a program starts do otherwise than it.

use lifeboat_testkit::command::{Mounted, lifeboat, limited};
use lifeboat_testkit::residue::NoResidue;

/// How many blocks of the file of this name have a checksum of the time when they were written, and one of when it was sealed.
fn blocks(node: &Mounted, name: &str) -> (u64, u64) {
    let output = limited(&lifeboat(["verify", "--name", node.name(), "--json", name]), 60).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let count = |what: &str| {
        let value = said.split(&format!("\"{what}\":")).nth(1).unwrap_or_else(|| panic!("no {what}: {said}"));
        value.trim_start().split(|byte: char| !byte.is_ascii_digit()).next().and_then(|digits| digits.parse().ok())
    };
    let count = |what: &str| -> u64 { count(what).unwrap_or_else(|| panic!("no number for {what}: {said}")) };
    assert_eq!(count("bad"), 0);
    (count("end_to_end"), count("as_of_seal"))
}

/// Writes a file of five blocks by a program that another one starts; what is said by the library.
fn write(node: &Mounted, name: &str, flags: &[&str], setting: Option<&str>) -> String {
    let prefix = node.prefix().to_str().expect("text");
    let mut command = lifeboat(["exec", "--name", node.name(), "--size", "16MiB", "--mount", prefix]);
    command.args(flags).arg("--");
    if let Some(setting) = setting {
        command.args(["env", &format!("LIFEBOAT_CHECKSUMS={setting}")]);
    }
    command.args(["sh", "-c", "sh -c 'head -c 300000 /dev/zero' > \"$0\"; :"]).arg(node.prefix().join(name));
    let output = limited(&command, 60).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn checksums_are_made_when_they_were_asked_for() {
    let _nothing_left = NoResidue::begin();
    let node = Mounted::new("at-seal", "16MiB");
    let seal = |name: &str| {
        let output = limited(&lifeboat(["seal", "--name", node.name(), name]), 60).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    write(&node, "plain", &[], None);
    assert_eq!(blocks(&node, "/plain"), (5, 0));
    write(&node, "flag", &["--checksums-at-seal"], None);
    write(&node, "setting", &[], Some("seal"));
    for name in ["/flag", "/setting"] {
        assert_eq!(blocks(&node, name), (0, 0));
        seal(name);
        assert_eq!(blocks(&node, name), (0, 5));
    }
    write(&node, "asked", &["--checksums-at-seal"], Some("write"));
    assert_eq!(blocks(&node, "/asked"), (5, 0));
    let said = write(&node, "wrong", &[], Some("never"));
    assert_eq!(blocks(&node, "/wrong"), (5, 0));
    assert!(said.contains("LIFEBOAT_CHECKSUMS is 'write' or 'seal', not 'never'"), "{said}");
}
