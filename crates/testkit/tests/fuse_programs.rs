//! The fear: a program that no library can be loaded into does not see the region, or sees something else.

use lifeboat_testkit::command::limited;
use lifeboat_testkit::fuse_mount::FuseMounted;
use lifeboat_testkit::programs::{compile, is_installed};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::ScratchDirectory;
use std::os::unix::fs::PermissionsExt;
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

#[test]
fn scripts_programs_and_libraries_in_the_mount_run_from_there() {
    let _nothing_left = NoResidue::begin();
    let Some(mounted) = FuseMounted::new("exec", "64MiB") else { return };
    let outside = ScratchDirectory::new("/tmp", "exec");
    let script = mounted.at().join("script");
    std::fs::write(&script, "#!/bin/sh\necho \"$0 $1\"; exit 7\n").expect("write");
    assert_eq!(run(&script, &[]).status.code(), Some(126), "it is not executable yet");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let output = run(&script, &[Path::new("argument")]);
    assert_eq!((text(&output), output.status.code()), (format!("{} argument\n", script.display()), Some(7)));
    let ls = mounted.at().join("ls");
    std::fs::copy("/bin/ls", &ls).expect("copy");
    assert_eq!(text(&run(&ls, &[mounted.at()])), "ls\nscript\n");

    let (source, library) = (outside.path().join("library.c"), mounted.at().join("library.so"));
    if !is_installed("gcc") {
        return;
    }
    for answer in [41, 42] {
        std::fs::write(&source, format!("int answer(void) {{ return {answer}; }}\n")).expect("write");
        let mut gcc = Command::new("gcc");
        let built = gcc.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output().expect("start gcc");
        assert!(built.status.success(), "gcc writes into the mount: {}", text(&built));
        let Some(loader) = compile("gcc", "loader.c", &["-ldl"], outside.path()) else { return };
        assert_eq!(text(&run(&loader, &[&library])), format!("{answer}\n"), "the library as it is now");
        // The same program below the library: its loader opens the file past all hooks.
        let below = limited(mounted.region().exec().arg(&loader).arg(&library), 60).output().expect("start");
        assert_eq!(text(&below), format!("{answer}\n"), "dlopen by an intercepted program");
    }
    assert!(mounted.unmount(&[]).status.success(), "nothing of it is held any more");
}

#[test]
fn a_program_that_is_replaced_runs_as_it_is_now() {
    let _nothing_left = NoResidue::begin();
    let Some(mounted) = FuseMounted::new("replaced", "64MiB") else { return };
    let outside = ScratchDirectory::new("/tmp", "replaced");
    let program = mounted.at().join("program");
    for (round, original) in ["/bin/true", "/bin/false", "/bin/true", "/bin/false"].iter().enumerate() {
        // Over the same inode, in turn by the kernel and by an intercepted program.
        if round % 2 == 0 {
            std::fs::copy(original, &program).expect("copy");
        } else {
            let copied = mounted.region().shell(&format!("cat {original} > {}", program.display()));
            assert!(copied.status.success(), "{}", text(&copied));
        }
        let status = run(&program, &[]).status;
        assert_eq!(status.success(), original.ends_with("true"), "round {round}: {status}");
    }
    drop(outside);
}

#[test]
fn a_go_program_uses_the_mount() {
    let _nothing_left = NoResidue::begin();
    if !is_installed("go") {
        return;
    }
    let Some(mounted) = FuseMounted::new("go", "64MiB") else { return };
    let outside = ScratchDirectory::new("/tmp", "go");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/files.go");
    let program = outside.path().join("files");
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&program).arg(&source).env("GOCACHE", outside.path().join("cache"));
    let built = go.env("GOFLAGS", "-mod=mod").env("CGO_ENABLED", "0").output().expect("start go");
    assert!(built.status.success(), "{}", text(&built));
    let tmpfs = ScratchDirectory::on_tmpfs("go");
    let theirs = run(&program, &[&tmpfs.make("work")]);
    assert!(theirs.status.success(), "on tmpfs: {}", text(&theirs));
    assert_eq!(text(&run(&program, &[&mounted.make("work")])), text(&theirs));
}
