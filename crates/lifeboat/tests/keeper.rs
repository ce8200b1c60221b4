//! Carrier `keeper`: huge pages for users who may not mount, as long as a process keeps them.
//!
//! As root, an ordinary user (65534) does what is done here; else whoever runs the tests.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lifeboat_testkit::report::skipped;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::is_root;
use support::{Ended, Here, end, lifeboat};

const NOBODY: u32 = 65534;

/// A directory for regions of one user, who removes them when it is dropped.
struct User {
    here: Here,
    id: Option<u32>,
    program: PathBuf,
}

impl User {
    /// An ordinary one.
    fn ordinary(label: &str) -> User {
        User::new(label, is_root().then_some(NOBODY))
    }

    fn new(label: &str, id: Option<u32>) -> User {
        let here = Here::new(label);
        if id.is_some() {
            chown(here.place(), id, id).unwrap();
        }
        // Where everybody may run it.
        let program = here.file("lifeboat");
        fs::copy(env!("CARGO_BIN_EXE_lifeboat"), &program).unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        User { here, id, program }
    }

    /// Any program, as this user.
    fn program(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in lifeboat().get_envs() {
            command.env_remove(name);
        }
        if let Some(id) = self.id {
            command.uid(id).gid(id);
        }
        command.stdin(Stdio::null()).current_dir("/");
        command
    }

    /// The words of `lifeboat COMMAND...` on this user's regions.
    fn words(&self, arguments: &[&str]) -> Vec<String> {
        let (verb, rest) = arguments.split_at(if arguments[0] == "region" { 2 } else { 1 });
        let place = ["--place", self.here.place().to_str().unwrap()];
        let program = [self.program.to_str().unwrap()];
        [&program, verb, &place, rest].concat().into_iter().map(String::from).collect()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let words = self.words(arguments);
        let mut command = self.program(&words[0]);
        command.args(&words[1..]);
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        end(&mut self.command(arguments))
    }

    fn must(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.err);
        String::from_utf8(ended.out).unwrap()
    }

    /// A region with a keeper; `None`, and said so, where users get no namespace.
    fn keep(&self, name: &str, size: &str) -> Option<Kept> {
        let ended = self.run(&["region", "create", name, "--size", size, "--carrier", "keeper"]);
        if ended.code != Some(0) && (ended.err.contains("user namespace") || ended.err.contains("may not mount")) {
            skipped("carrier keeper", ended.err.trim());
            return None;
        }
        assert_eq!(ended.code, Some(0), "{ended:?}");
        Some(self.kept(name))
    }

    fn kept(&self, name: &str) -> Kept {
        let directory = self.here.place().join(name);
        let note = fs::read_to_string(directory.join("keeper")).unwrap();
        Kept { pid: note.split(' ').next().unwrap().parse().unwrap(), directory }
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.must(arguments)).unwrap()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.here.place()).into_iter().flatten().flatten() {
            let _ = self.run(&["region", "remove", "--force", entry.file_name().to_str().unwrap_or_default()]);
        }
    }
}

struct Kept {
    pid: u32,
    directory: PathBuf,
}

impl Kept {
    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.pid.to_string()]).status().unwrap().success());
    }

    /// Whether the keeper ended (or is a zombie that nobody has looked at) within five seconds.
    fn has_ended(&self) -> bool {
        within(Duration::from_secs(5), || {
            let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
            !status.contains("lifeboat-keeper") || status.contains("State:\tZ")
        })
    }
}

fn within(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

#[test]
fn a_region_outlives_its_creator_without_a_mount_and_leaves_nothing() {
    let _clean = NoResidue::begin();
    for id in if is_root() { vec![Some(NOBODY), None] } else { vec![None] } {
        let user = User::new("kept", id);
        let Some(kept) = user.keep("k", "32MiB") else { return };
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&format!("{}/k/memory", user.here.place().display())), "{mounts}");
        let info = user.json(&["region", "info", "k", "--json"]);
        assert_eq!((&info["carrier"], &info["keeper"]), (&"keeper".into(), &kept.pid.into()), "{info}");
        assert_eq!(info["huge_bytes"], 32 << 20, "{info}");
        assert!(user.must(&["region", "info", "k"]).contains(&format!("process {}, alive", kept.pid)));
        let listed = user.json(&["region", "list", "--json"]);
        assert_eq!(listed[0]["survives"], "process, job step while its keeper lives", "{listed}");
        assert_eq!(listed[0]["state"], "ready", "{listed}");
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
    let user = User::ordinary("killed");
    let Some(kept) = user.keep("k", "8MiB") else { return };
    kept.signal("-KILL");
    assert!(kept.has_ended());
    for command in [&["ls", "--name", "k"][..], &["region", "info", "k"], &["region", "check", "k"]] {
        user.run(command).refused(3, "keeper process has ended and the region is lost");
    }
    let listed = user.json(&["region", "list", "--json"]);
    assert_eq!(listed[0]["state"], "lost", "{listed}");
    user.must(&["region", "remove", "k"]);
    assert_eq!(fs::read_dir(user.here.place()).unwrap().count(), 0);
}

#[test]
fn a_stopped_keeper_is_an_error_in_time_and_can_be_removed() {
    let _clean = NoResidue::begin();
    let user = User::ordinary("stopped");
    let Some(kept) = user.keep("k", "8MiB") else { return };
    kept.signal("-STOP");
    let start = Instant::now();
    user.run(&["ls", "--name", "k"]).refused(3, "does not answer within 2 s");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    kept.signal("-CONT");
    user.must(&["ls", "--name", "k"]);
    // A stopped process does not take the request to end.
    kept.signal("-STOP");
    user.must(&["region", "remove", "k", "--force"]);
    assert!(kept.has_ended());
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
    let user = User::ordinary("many");
    let Some(_kept) = user.keep("k", "16MiB") else { return };
    user.must(&["cp", "--name", "k", "/etc/passwd", ":a"]);
    let running: Vec<Child> =
        (0..32).map(|_| user.command(&["cat", "--name", "k", ":a"]).stdout(Stdio::piped()).spawn().unwrap()).collect();
    let expected = fs::read("/etc/passwd").unwrap();
    let wrong = running.into_iter().map(|child| child.wait_with_output().unwrap()).find(|got| got.stdout != expected);
    assert!(wrong.is_none(), "{wrong:?}");
}

/// A process of the user's that gets the region's file as any other and maps it until its input ends.
fn holder(user: &User, kept: &Kept) -> Option<Child> {
    let script = "import mmap,socket,sys\n\
        s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n\
        f=socket.recv_fds(s,1,1)[1][0]; m=mmap.mmap(f,4096); print('mapped',flush=True); sys.stdin.read()";
    let mut command = user.program("python3");
    command.args(["-c", script]).arg(kept.directory.join("keeper.sock")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child =
        command.spawn().map_err(|error| skipped("keeper: region in use", &format!("python3: {error}"))).ok()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "mapped\n");
    Some(child)
}

#[test]
fn a_region_that_a_process_has_mapped_is_not_taken_away_even_without_its_keeper() {
    let _clean = NoResidue::begin();
    let user = User::ordinary("mapped");
    let Some(kept) = user.keep("k", "8MiB") else { return };
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
    let beside = Path::new(env!("CARGO_BIN_EXE_lifeboat")).with_file_name("liblifeboat_preload.so");
    let folder = std::env::var_os("LIFEBOAT_BIN_DIR").map(std::path::PathBuf::from);
    let library = folder.map_or(beside, |folder| folder.join("liblifeboat_preload.so"));
    if !library.exists() {
        return skipped(
            "keeper: exec",
            &format!("{} is not built (cargo build -p lifeboat-preload)", library.display()),
        );
    }
    if user.keep("k", "8MiB").is_none() {
        return;
    }
    let copy = user.here.file("liblifeboat_preload.so");
    fs::copy(&library, &copy).unwrap();
    fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
    let mount = user.here.file("m");
    let script = format!("echo hello > {0}/a && cat {0}/a", mount.display());
    let words = ["exec", "--name", "k", "--mount", mount.to_str().unwrap(), "--", "sh", "-c", &script];
    let ended = end(user.command(&words).env("LIFEBOAT_PRELOAD", &copy));
    assert_eq!((ended.code, &ended.out[..]), (Some(0), &b"hello\n"[..]), "{ended:?}");
    assert_eq!(user.must(&["cat", "--name", "k", ":a"]), "hello\n");
}
