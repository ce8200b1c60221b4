//! The fear: a program reaches the kernel past the library with a descriptor of ours, and its bytes are lost without a word.
//! Each line of the table "What goes round the library" in docs/compatibility.md is held here.

use lifeboat_testkit::command::{Mounted, limited};
use lifeboat_testkit::programs::compile;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, is_root};
use std::collections::BTreeMap;

#[test]
fn calls_past_the_library_fail_or_are_told_of() {
    let _nothing_left = NoResidue::begin();
    let scratch = ScratchDirectory::on_tmpfs("round");
    let Some(program) = compile("gcc", "round.c", &["-O1", "-w"], scratch.path()) else { return };
    let mounted = Mounted::new("round", "32MiB");
    let run = |trap: bool| {
        let mut command = mounted.exec();
        if trap {
            command.env("LIFEBOAT_TRAP_RAW", "1");
        }
        command.arg(&program).arg(mounted.prefix());
        let output = limited(&command, 60).output().expect("the program runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    };
    let (out, said) = run(false);
    let answers: BTreeMap<_, _> = out.lines().filter_map(|line| line.split_once(": ")).collect();
    for loud in ["read", "write", "readv", "writev", "sendfile"] {
        assert_eq!(answers.get(loud), Some(&"EINVAL"), "{loud}: {out}{said}");
    }
    assert_eq!(answers.get("pread"), Some(&"0"), "{out}");
    assert_eq!(answers.get("fcntl lock"), Some(&"EAGAIN"), "{out}");
    for silent in ["fcntl lock of a part", "flock"] {
        assert_eq!(answers.get(silent), Some(&"0"), "{out}");
    }
    assert_eq!(answers.get("the file"), Some(&"10 0123456789"), "{out}{said}");
    let told = said.contains("were written into an open file") && said.contains("--trap-raw");
    match answers.get("pwrite") {
        Some(&"ENOSPC") => assert!(is_root() && !told, "{said}"),
        Some(&"5") => assert!(!is_root() && told, "bytes were lost without a word: {said}"),
        other => panic!("pwrite answers {other:?}"),
    }
    // The next one finds the placeholder empty.
    let again = run(false).0;
    assert_eq!(again, out);
    let (out, said) = run(true);
    if said.contains("is not to be had here") {
        return println!("skipped: trapping: {said}");
    }
    assert!(
        out.contains("read: 10\n") && out.contains("pwrite: 5\n") && out.contains("fcntl lock: 0\n"),
        "{out}{said}"
    );
    assert!(said.contains("round_c+0x"), "nobody was named: {said}");
}
