//! `lifeboat exec`: what the program gets, how it ends, and what is left of it.
//!
//! A harmless library stands in for the interception library, whose own tests are elsewhere.

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;

use lifeboat_testkit::report::skipped;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::is_root;
use support::{Ended, Here, end, lifeboat};

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_program_is_told_where_its_files_are() {
    let _clean = NoResidue::begin();
    let here = Here::new("environment");
    let mount = here.file("m");
    let script = "echo $LIFEBOAT_REGION; echo $LIFEBOAT_MOUNT; echo $LD_PRELOAD; echo \"$@\"";
    let mut command =
        here.exec(&["--size", "8MiB", "--mount", text(&mount)], &["sh", "-c", script, "sh", "a b", "--size", "--"]);
    let ended = end(&mut command);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    assert!(ended.err.contains("created region `default`: 8 MiB"), "{ended:?}");
    let out = String::from_utf8(ended.out).unwrap();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], text(&here.place().join("default")));
    assert_eq!(lines[1], text(&mount));
    assert!(lines[2].ends_with("so") || lines[2].contains("libc.so"), "{out}");
    assert_eq!(lines[3], "a b --size --");
    // The second time there is nothing to say.
    let ended = end(&mut here.exec(&["--mount", text(&mount)], &["true"]));
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    let ended = end(&mut here.exec(&["--size", "16MiB", "--mount", text(&mount)], &["true"]));
    assert!(ended.code == Some(0) && ended.err.contains("exists with 8 MiB"), "{ended:?}");
}

#[test]
fn inside_exec_the_other_commands_know_the_region() {
    let _clean = NoResidue::begin();
    let here = Here::new("inside");
    fs::write(here.file("x"), b"hello").unwrap();
    let mount = here.file("m");
    let command = env!("CARGO_BIN_EXE_lifeboat");
    let (x, m) = (here.file("x"), text(&mount));
    let script = format!("{command} cp {} {m}/x && {command} exec -- {command} cat {m}/x", text(&x));
    let mut command = here.exec(&["--size", "8MiB", "--name", "job", "--mount", text(&mount)], &["sh", "-c", &script]);
    let ended = end(&mut command);
    assert_eq!((ended.code, &ended.out[..]), (Some(0), &b"hello"[..]), "{ended:?}");
}

#[test]
fn the_program_ends_as_it_would_without_us() {
    let _clean = NoResidue::begin();
    let here = Here::new("codes");
    let mount = here.file("m");
    let arguments = ["--size", "8MiB", "--mount", text(&mount)];
    end(&mut here.exec(&arguments, &["true"]));
    for code in [0, 1, 2, 3, 42, 255] {
        let script = format!("exit {code}");
        assert_eq!(end(&mut here.exec(&arguments, &["sh", "-c", &script])).code, Some(code));
    }
    let status = here.exec(&arguments, &["sh", "-c", "kill -TERM $$"]).status().unwrap();
    assert_eq!(status.signal(), Some(15));
    // SIGPIPE kills as it does from a shell.
    let status = here.exec(&arguments, &["sh", "-c", "kill -PIPE $$; exit 7"]).status().unwrap();
    assert_eq!(status.signal(), Some(13));
    end(&mut here.exec(&arguments, &["/no/such/program"])).refused(127, "/no/such/program");
    end(&mut here.exec(&arguments, &["no-such-program"])).refused(127, "no-such-program");
    fs::write(here.file("plain"), b"").unwrap();
    end(&mut here.exec(&arguments, &[text(&here.file("plain"))])).refused(126, "permission denied");
    end(&mut here.exec(&arguments, &["/tmp"])).refused(126, "permission denied");
}

#[test]
fn no_right_or_limit_changes_for_the_program() {
    let _clean = NoResidue::begin();
    let here = Here::new("limits");
    let mount = here.file("m");
    let script = "cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l; grep -E '^Sig(Blk|Ign)' /proc/self/status";
    let plain = std::process::Command::new("sh").args(["-c", script]).output().unwrap();
    let ended = end(&mut here.exec(&["--size", "8MiB", "--mount", text(&mount)], &["sh", "-c", script]));
    assert_eq!(without_signals_of_libc(&ended.out), without_signals_of_libc(&plain.stdout));
}

/// Lines of sets of signals without the two (32, 33) that libc has for its threads: no program can handle, ignore or ask for them, and
/// the first thread, as those that reserve memory, takes them back from a parent who had them ignored past libc.
fn without_signals_of_libc(text: &[u8]) -> String {
    let set = |line: &str| -> Option<String> {
        let (name, set) = line.split_once(":\t")?;
        let set = u64::from_str_radix(set, 16).ok().filter(|_| name.starts_with("Sig"))?;
        Some(format!("{name} {:x}", set & !(3 << 31)))
    };
    let lines = std::str::from_utf8(text).expect("text").lines();
    lines.map(|line| set(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

#[test]
fn the_real_directory_under_the_prefix_cannot_be_written_and_goes_with_the_region() {
    let _clean = NoResidue::begin();
    let here = Here::new("cover");
    let mount = here.file("m");
    let script = format!("echo lost > {}/x", text(&mount));
    let ended = end(&mut here.exec(&["--size", "8MiB", "--mount", text(&mount)], &["sh", "-c", &script]));
    if is_root() && ended.err.contains("no permission to mount") {
        skipped("covered prefix", "root may not mount here");
    } else {
        // Nothing intercepts here, so the shell meets the cover.
        assert_ne!(ended.code, Some(0), "{ended:?}");
    }
    assert_eq!(fs::read_dir(&mount).unwrap().count(), 0);
    // A second region under the same prefix, and the first goes.
    end(&mut here.exec(&["--size", "8MiB", "--name", "b", "--mount", text(&mount)], &["true"]));
    here.must(&["region", "remove", "default"]);
    assert!(mount.exists());
    if !ended.err.contains("no permission to mount") {
        assert!(fs::write(mount.join("x"), b"lost").is_err());
    }
    here.must(&["region", "remove", "b"]);
    assert!(!mount.exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(text(&mount)));
}

#[test]
fn a_prefix_with_files_or_of_another_user_is_refused() {
    let _clean = NoResidue::begin();
    let here = Here::new("prefix");
    let full = here.file("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("file"), b"precious").unwrap();
    let run = |mount: &str| end(&mut here.exec(&["--size", "8MiB", "--mount", mount], &["true"]));
    run("/tmp/..");
    let _ = run(text(&here.file("first")));
    run(text(&full)).refused(1, "holds files");
    run(text(&full.join("file"))).refused(1, "not a directory");
    run(text(&here.file("no/parent"))).refused(1, "parent directory does not exist");
    if is_root() {
        let other = here.file("other");
        fs::create_dir(&other).unwrap();
        std::os::unix::fs::chown(&other, Some(65534), None).unwrap();
        run(text(&other)).refused(1, "belongs to user 65534");
    } else {
        run("/usr").refused(1, "belongs to user 0");
    }
    assert_eq!(fs::read(full.join("file")).unwrap(), b"precious");
}

#[test]
fn many_programs_at_once_share_one_new_region() {
    let _clean = NoResidue::begin();
    let here = Here::new("ranks");
    let mount = here.file("m");
    let ended: Vec<Ended> = std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let script = "echo $LIFEBOAT_REGION";
                    end(&mut here.exec(&["--size", "64MiB", "--mount", text(&mount)], &["sh", "-c", script]))
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert!(ended.iter().all(|ended| ended.code == Some(0)), "{ended:?}");
    assert_eq!(ended.iter().filter(|ended| ended.err.contains("created region")).count(), 1, "{ended:?}");
    assert!(ended.iter().all(|ended| ended.out == ended_path(&here)), "{ended:?}");
    here.must(&["region", "check"]);
}

fn ended_path(here: &Here) -> Vec<u8> {
    format!("{}\n", text(&here.place().join("default"))).into_bytes()
}

#[test]
fn a_missing_interception_library_is_said_before_anything_is_made() {
    let _clean = NoResidue::begin();
    let here = Here::new("library");
    let mut command = lifeboat();
    command.arg("exec").arg("--place").arg(here.place()).args(["--size", "8MiB", "--", "true"]);
    end(command.env("LIFEBOAT_PRELOAD", "/no/such/library.so")).refused(1, "LIFEBOAT_PRELOAD");
    assert_eq!(fs::read_dir(here.place()).unwrap().count(), 0);
}
