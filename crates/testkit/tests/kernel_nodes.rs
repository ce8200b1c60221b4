//! The fear: what the kernel has behind a name, the FIFO or socket beside the placeholders, stays when the name goes, or
//! is found by an inode that came later.

use lifeboat_testkit::command::{Mounted, lifeboat, limited};
use lifeboat_testkit::programs::is_installed;
use lifeboat_testkit::residue::NoResidue;
use std::path::PathBuf;
use std::process::Output;

/// Names beside the placeholders, which are numbers.
fn nodes(mounted: &Mounted) -> Vec<String> {
    let folder = std::fs::read_dir(mounted.directory().join("tags")).expect("the folder of placeholders");
    let names = folder.map(|entry| entry.expect("an entry").file_name().into_string().expect("our names are text"));
    let mut names: Vec<String> = names.filter(|name| name.starts_with(['p', 's'])).collect();
    names.sort();
    names
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn run(mounted: &Mounted, script: &str) -> String {
    let mut command = mounted.exec();
    command.args(["bash", "-c", &format!("cd \"{}\"; {script}", mounted.prefix().display())]);
    let output = limited(&command, 60).output().expect("start lifeboat");
    assert!(output.status.success(), "{script}: {}", said(&output));
    said(&output)
}

#[test]
fn a_removed_name_leaves_no_node_of_the_kernel() {
    let _nothing_left = NoResidue::begin();
    let mounted = Mounted::new("nodes", "32MiB");
    run(&mounted, "mkfifo p q r; ln r s; for f in p q r; do exec 5<>$f; exec 5>&-; done");
    assert_eq!(nodes(&mounted).len(), 3, "one FIFO for each inode that was opened");
    run(&mounted, "rm p; : > x; mv x q; rm s");
    assert_eq!(nodes(&mounted).len(), 1, "`r` has a name left: {:?}", nodes(&mounted));
    run(&mounted, "exec 5<>r; rm r; echo open >&5; read a <&5; [ $a = open ]");
    assert_eq!(nodes(&mounted), Vec::<String>::new());
    if is_installed("python3") {
        let bind = "import socket; socket.socket(socket.AF_UNIX).bind(\"s\")";
        run(&mounted, &format!("python3 -c '{bind}'; ls s"));
        assert_eq!(nodes(&mounted).len(), 1);
        // Whoever removes the name: here the command, which works on the region directly.
        let removed = lifeboat(["rm", "--name", mounted.name(), "/s"]).output().expect("start lifeboat");
        assert!(removed.status.success(), "{}", said(&removed));
        assert_eq!(nodes(&mounted), Vec::<String>::new());
    }
}

#[test]
fn a_program_killed_while_it_waits_for_a_fifo_leaves_nothing_for_ever() {
    let _nothing_left = NoResidue::begin();
    let mounted = Mounted::new("waits", "32MiB");
    // The name goes while the program waits; the node goes with it.
    run(&mounted, "mkfifo p; cat p & sleep 0.3; rm p; kill -9 $!; wait; true");
    assert_eq!(nodes(&mounted), Vec::<String>::new());
    // Nodes of inodes that do not exist, as of a program that was killed between looking a name up and opening it.
    let leave = |name: &str| {
        let path: PathBuf = mounted.directory().join("tags").join(name);
        std::process::Command::new("mkfifo").arg(path).status().expect("start mkfifo")
    };
    assert!(leave("p123456").success() && leave("p123456-77").success() && leave("s98765").success());
    run(&mounted, "mkfifo kept; exec 5<>kept");
    assert_eq!(nodes(&mounted).len(), 4);
    let checked = lifeboat(["region", "check", mounted.name()]).output().expect("start lifeboat");
    assert!(checked.status.success(), "{}", said(&checked));
    assert_eq!(nodes(&mounted).len(), 1, "only that of a name is left: {:?}", nodes(&mounted));
    assert!(run(&mounted, "cat kept & echo served > kept; wait").contains("served"));
}
