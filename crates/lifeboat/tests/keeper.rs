//! Carriers `keeper` and `keeper-hugetlb`: huge pages for users who may not mount, as long as a process keeps them.
//!
//! As root, an ordinary user (65534) does what is done here; else whoever runs the tests.

mod support;

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use lifeboat_testkit::report::skipped;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::is_root;
use support::kept::{KEPT, NOBODY, User, holder, within};
use support::{Ended, end};

#[test]
fn a_region_outlives_its_creator_without_a_mount_and_leaves_nothing() {
    let _clean = NoResidue::begin();
    let users = if is_root() { vec![Some(NOBODY), None] } else { vec![None] };
    for (id, carrier) in users.into_iter().flat_map(|id| KEPT.map(|carrier| (id, carrier))) {
        let user = User::new("kept", id);
        let Some(kept) = user.keep_on(carrier, "k", "32MiB") else { continue };
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&format!("{}/k/memory", user.here.place().display())), "{mounts}");
        let info = user.json(&["region", "info", "k", "--json"]);
        assert_eq!((&info["carrier"], &info["keeper"]), (&carrier.into(), &kept.pid.into()), "{info}");
        assert_eq!(info["huge_bytes"], 32 << 20, "{info}");
        assert!(user.must(&["region", "info", "k"]).contains(&format!("process {}, alive", kept.pid)));
        let listed = user.json(&["region", "list", "--json"]);
        assert_eq!(listed[0]["survives"], "process, job step while its keeper lives", "{listed}");
        assert_eq!(listed[0]["state"], "ready", "{listed}");
        let maps_files = carrier != "keeper-hugetlb";
        assert_eq!(
            (&listed[0]["maps_files"], &info["maps_files"]),
            (&maps_files.into(), &maps_files.into()),
            "{listed}"
        );
        assert_eq!(user.must(&["region", "list"]).contains("(no mmap)"), !maps_files);
        // No descriptor of the starter's, no terminal, nobody's child.
        let status = fs::read_to_string(format!("/proc/{}/status", kept.pid)).unwrap();
        assert!(!status.contains(&format!("PPid:\t{}\n", std::process::id())), "{status}");
        assert_eq!(fs::read_to_string(format!("/proc/{}/oom_score_adj", kept.pid)).unwrap().trim(), own_oom_score());

        user.must(&["cp", "--name", "k", "/etc/passwd", ":a"]);
        assert_eq!(user.must(&["cat", "--name", "k", ":a"]), fs::read_to_string("/etc/passwd").unwrap());
        assert!(user.must(&["region", "check", "k"]).contains("clean"));
        user.must(&["region", "remove", "k"]);
        assert!(kept.has_ended());
        assert_eq!(fs::read_dir(user.here.place()).unwrap().count(), 0);
    }
}

fn own_oom_score() -> String {
    fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().to_string()
}

#[test]
fn a_killed_keeper_is_told_in_one_line_and_cleared_away() {
    let _clean = NoResidue::begin();
    for carrier in KEPT {
        let user = User::ordinary("killed");
        let Some(kept) = user.keep_on(carrier, "k", "8MiB") else { continue };
        kept.signal("-KILL");
        assert!(kept.has_ended());
        for command in [&["ls", "--name", "k"][..], &["region", "info", "k"], &["region", "check", "k"]] {
            user.run(command).refused(3, "keeper process has ended and the region is lost");
        }
        let listed = user.json(&["region", "list", "--json"]);
        assert_eq!((&listed[0]["state"], &listed[0]["carrier"]), (&"lost".into(), &carrier.into()), "{listed}");
        user.must(&["region", "remove", "k"]);
        assert_eq!(fs::read_dir(user.here.place()).unwrap().count(), 0);
    }
}

#[test]
fn a_stopped_keeper_is_an_error_in_time_and_can_be_removed() {
    let _clean = NoResidue::begin();
    for carrier in KEPT {
        let user = User::ordinary("stopped");
        let Some(kept) = user.keep_on(carrier, "k", "8MiB") else { continue };
        kept.signal("-STOP");
        for command in [&["ls", "--name", "k"][..], &["region", "info", "k"], &["region", "check", "k"]] {
            let start = Instant::now();
            user.run(command).refused(3, "does not answer within 2 s");
            assert!(start.elapsed() < Duration::from_secs(10), "{command:?}: {:?}", start.elapsed());
        }
        let start = Instant::now();
        let listed = user.json(&["region", "list", "--json"]);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert_eq!(listed[0]["state"], "not answering", "{listed}");
        kept.signal("-CONT");
        user.must(&["ls", "--name", "k"]);
        // A stopped process does not take the request to end.
        kept.signal("-STOP");
        user.must(&["region", "remove", "k", "--force"]);
        assert!(kept.has_ended());
    }
}

#[test]
fn connections_that_say_and_read_nothing_block_nobody() {
    let _clean = NoResidue::begin();
    let user = User::ordinary("silent");
    let Some(kept) = user.keep("k", "8MiB") else { return };
    let silent: Vec<_> = (0..200).map(|_| UnixStream::connect(kept.directory.join("keeper.sock")).unwrap()).collect();
    let start = Instant::now();
    user.must(&["ls", "--name", "k"]);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    drop(silent);
}

#[test]
fn many_processes_attach_at_once() {
    let _clean = NoResidue::begin();
    let expected = fs::read("/etc/passwd").unwrap();
    for carrier in KEPT {
        let user = User::ordinary("many");
        let Some(_kept) = user.keep_on(carrier, "k", "16MiB") else { continue };
        user.must(&["cp", "--name", "k", "/etc/passwd", ":a"]);
        let cat = |_| user.command(&["cat", "--name", "k", ":a"]).stdout(Stdio::piped()).spawn().unwrap();
        let running: Vec<Child> = (0..32).map(cat).collect();
        let ended = running.into_iter().map(|child| child.wait_with_output().unwrap());
        let wrong: Vec<_> = ended.filter(|got| got.stdout != expected).collect();
        assert!(wrong.is_empty(), "{carrier}: {wrong:?}");
    }
}

#[test]
fn a_region_that_a_process_has_mapped_is_not_taken_away_even_without_its_keeper() {
    let _clean = NoResidue::begin();
    for carrier in KEPT {
        let user = User::ordinary("mapped");
        let Some(kept) = user.keep_on(carrier, "k", "8MiB") else { continue };
        let Some(mut holder) = holder(&user, &kept) else { return };
        let refused = user.run(&["region", "remove", "k"]);
        let alive = user.run(&["ls", "--name", "k"]);
        kept.signal("-KILL");
        let ended = kept.has_ended();
        let refused_again = user.run(&["region", "remove", "k"]);
        drop(holder.stdin.take());
        holder.wait().unwrap();
        refused.refused(1, "in use by a living process");
        assert_eq!(alive.code, Some(0), "{alive:?}");
        assert!(ended);
        refused_again.refused(1, "in use by a living process");
        user.must(&["region", "remove", "k"]);
    }
}

#[test]
fn a_keeper_whose_creator_is_killed_ends_and_the_next_creator_clears_up() {
    let _clean = NoResidue::begin();
    let user = User::ordinary("creator");
    if user.keep("k", "8MiB").is_none() {
        return;
    }
    user.must(&["region", "remove", "k"]);
    for delay in [0, 5, 20, 60] {
        let mut creator = user.command(&["region", "create", "k", "--size", "256MiB", "--carrier", "keeper"]);
        let mut creator = creator.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let note = user.here.place().join("k/keeper");
        let started = within(Duration::from_secs(20), || fs::metadata(&note).is_ok_and(|note| note.len() > 0));
        std::thread::sleep(Duration::from_millis(delay));
        let kept = started.then(|| user.kept("k"));
        // It may be done already.
        let _ = creator.kill();
        creator.wait().unwrap();
        let kept = kept.expect("the keeper did not write who it is");
        if user.json(&["region", "list", "--json"])[0]["state"] == "ready" {
            user.must(&["region", "remove", "k"]);
        }
        assert!(kept.has_ended(), "after {delay} ms");
        user.must(&["region", "create", "k", "--size", "8MiB", "--carrier", "shm"]);
        user.must(&["region", "remove", "k"]);
    }
}

#[test]
fn a_keeper_whose_directory_is_deleted_by_hand_does_not_hold_memory_for_ever() {
    let _clean = NoResidue::begin();
    let user = User::ordinary("deleted");
    let Some(kept) = user.keep("k", "8MiB") else { return };
    fs::remove_dir_all(&kept.directory).unwrap();
    assert!(kept.has_ended());
}

#[test]
fn a_keeper_does_not_hold_descriptors_of_its_starter() {
    let _clean = NoResidue::begin();
    let user = User::ordinary("descriptors");
    let Some(kept) = user.keep("k", "8MiB") else { return };
    let open = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    // For a moment it has the files of its last answer: the fewest of a second are those that it keeps.
    let kept_open = |pid: u32| {
        let look = |_| {
            std::thread::sleep(Duration::from_millis(20));
            open(pid)
        };
        (0..50).map(look).min()
    };
    let before = kept_open(kept.pid);
    user.must(&["region", "remove", "k"]);
    let words = user.words(&["region", "create", "k", "--size", "8MiB", "--carrier", "keeper"]);
    // Would never come back if somebody kept the pipe open.
    let ended = end(user.program("sh").args(["-c", "\"$@\" 7>&1 9>&2", "sh"]).args(words));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(kept_open(user.kept("k").pid), before);
}

#[test]
fn without_huge_pages_on_dev_shm_an_ordinary_user_gets_a_keeper() {
    let _clean = NoResidue::begin();
    let user = User::ordinary("auto");
    if user.id.is_none() && is_root() || user.keep("k", "8MiB").is_none() {
        return;
    }
    let collapsed = user.json(&["region", "create", "plain", "--size", "8MiB", "--json"]);
    assert!(["shm", "keeper"].contains(&collapsed["carrier"].as_str().unwrap()), "{collapsed}");
    // PR_SET_THP_DISABLE: no page of this process or its children is made huge.
    let script = "import ctypes,os,sys; ctypes.CDLL(None).prctl(41,1,0,0,0); os.execv(sys.argv[1],sys.argv[1:])";
    let words = user.words(&["region", "create", "small", "--size", "8MiB", "--json"]);
    let mut command = user.program("python3");
    let ended = match command.args(["-c", script]).args(words).output() {
        Ok(output) => output,
        Err(error) => return skipped("keeper: automatic choice", &format!("python3: {error}")),
    };
    let made: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
    assert_eq!(made["carrier"], "keeper", "{ended:?}");
    user.must(&["ls", "--name", "small"]);
}

#[test]
fn without_user_namespaces_the_line_says_what_else_there_is() {
    let _clean = NoResidue::begin();
    let user = User::ordinary("none");
    // The limit holds in the namespace that it is set in.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces || exit 77; exec \"$@\"";
    let words = user.words(&["region", "create", "k", "--size", "8MiB", "--carrier", "keeper"]);
    let ended = match user.program("unshare").args(["-U", "-r", "sh", "-c", script, "sh"]).args(words).output() {
        Ok(output) => output,
        Err(error) => return skipped("keeper: no user namespaces", &format!("unshare: {error}")),
    };
    let line = String::from_utf8_lossy(&ended.stderr).into_owned();
    if ended.status.code() == Some(77) || line.starts_with("unshare: ") {
        return skipped("keeper: no user namespaces", line.trim());
    }
    Ended { code: ended.status.code(), out: ended.stdout, err: line }.refused(1, "take --carrier shm");
    assert_eq!(fs::read_dir(user.here.place()).unwrap().count(), 0);
}

#[test]
fn a_program_under_exec_sees_the_files() {
    let _clean = NoResidue::begin();
    let user = User::ordinary("exec");
    let Some(library) = user.library() else { return };
    let mount = user.here.file("m");
    let script = format!("echo hello > {0}/a && cat {0}/a", mount.display());
    for carrier in KEPT {
        let Some(_kept) = user.keep_on(carrier, "k", "8MiB") else { continue };
        let words = ["exec", "--name", "k", "--mount", mount.to_str().unwrap(), "--", "sh", "-c", &script];
        let ended = end(user.command(&words).env("LIFEBOAT_PRELOAD", &library));
        assert_eq!((ended.code, &ended.out[..]), (Some(0), &b"hello\n"[..]), "{carrier}: {ended:?}");
        assert_eq!(user.must(&["cat", "--name", "k", ":a"]), "hello\n");
        user.must(&["region", "remove", "k"]);
    }
}
