//! The fear: a program makes system calls by itself, past libc, and its files are not where it wrote them.

use lifeboat_testkit::command::{Mounted, limited};
use lifeboat_testkit::programs::compile;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::ScratchDirectory;
use std::process::{Command, Output};

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn calls_past_libc_are_served_and_named_when_they_are_trapped() {
    let _nothing_left = NoResidue::begin();
    let tmpfs = ScratchDirectory::on_tmpfs("past-libc");
    let Some(program) = compile("gcc", "past_libc.c", &["-O1", "-Wall", "-pthread"], tmpfs.path()) else { return };
    let files = tmpfs.make("files");
    let expected = Command::new(&program).arg(&files).output().expect("the program runs");
    let mounted = Mounted::new("past-libc", "32MiB");
    let mut trapped = mounted.exec();
    trapped.env("LIFEBOAT_TRAP_RAW", "1").arg(&program).arg(mounted.prefix());
    let served = limited(&trapped, 60).output().expect("the program runs");
    let (shown, said) = text(&served);
    if said.contains("is not to be had here") {
        return println!("skipped: trapping: {said}");
    }
    assert_eq!(shown, text(&expected).0, "{said}");
    assert!(said.contains("past_libc_c+0x") && said.contains("past libc: served"), "nobody was named: {said}");
    // Without trapping the same calls reach the covered directory, where nothing can be made.
    let mut plain = mounted.exec();
    plain.arg(&program).arg(mounted.prefix());
    let missed = limited(&plain, 60).output().expect("the program runs");
    assert!(text(&missed).0.starts_with("main: open 0"), "{:?}", text(&missed));
}

#[test]
fn whole_programs_run_while_calls_are_trapped() {
    let _nothing_left = NoResidue::begin();
    let mounted = Mounted::new("trapped", "32MiB");
    let script = "set -e; cd \"$0\"; seq 20000 > numbers; sort -r numbers | tail -n 1; gzip numbers; gzip -t numbers.gz; \
                  python3 -c 'import os, subprocess, threading\n\
                  thread = threading.Thread(target=lambda: open(\"by-thread\", \"w\").write(\"x\" * 100000))\n\
                  thread.start(); thread.join()\n\
                  print(os.path.getsize(\"by-thread\"), subprocess.check_output([\"ls\"]).split())'";
    let mut command = mounted.exec();
    command.env("LIFEBOAT_TRAP_RAW", "1").args(["bash", "-c", script]).arg(mounted.prefix());
    let output = limited(&command, 60).output().expect("bash runs");
    let (shown, said) = text(&output);
    assert!(output.status.success(), "{shown}{said}");
    assert_eq!(shown, "1\n100000 [b'by-thread', b'numbers.gz']\n", "{said}");
}
