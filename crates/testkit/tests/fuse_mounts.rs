//! The fear: a mount that cannot be undone, that stays dead after its server was killed, that shows other bytes than
//! intercepted programs see, or that takes the region with it.

use lifeboat_testkit::command::{lifeboat, limited, path};
use lifeboat_testkit::fuse_mount::{FuseMounted, may_mount, open_device_to_users};
use lifeboat_testkit::programs::is_installed;
use lifeboat_testkit::random::bytes;
use lifeboat_testkit::report;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, is_root, tag};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn is_mounted(at: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("the table of mounts");
    table.lines().any(|line| line.split(' ').nth(4) == at.to_str())
}

/// Waits a little for what happens in another process.
fn soon(what: &str, mut happens: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !happens() {
        assert!(Instant::now() < end, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn kill(pid: u32, signal: &str) {
    // The shell's own: there may be no program of that name.
    let status = Command::new("sh").args(["-c", "kill \"$0\" \"$1\"", signal, &pid.to_string()]).status();
    let status = status.expect("start a shell");
    assert!(status.success());
}

/// One that has ended and is not looked after yet by process 1 is none.
fn is_process(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

fn check_is_clean(mounted: &FuseMounted) {
    let checked = lifeboat(["region", "check", mounted.region().name()]).output().expect("start lifeboat");
    assert!(checked.status.success(), "{}", text(&checked));
}

#[test]
fn unmounting_leaves_no_process_no_mount_and_no_directory() {
    let _nothing_left = NoResidue::begin();
    let Some(mounted) = FuseMounted::new("unmount", "64MiB") else { return };
    let (at, server) = (mounted.at().to_path_buf(), mounted.server());
    std::fs::write(at.join("file"), "stays").expect("write");
    let again = mounted.mount();
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again).contains("mounted") && text(&again).contains("unmount"), "{}", text(&again));
    let open = File::open(at.join("file")).expect("open");
    let busy = mounted.unmount(&[]);
    assert!(text(&busy).contains("in use") && is_mounted(&at), "{}", text(&busy));
    drop(open);
    let done = mounted.unmount(&[]);
    assert!(done.status.success(), "{}", text(&done));
    assert!(!is_process(server) && !is_mounted(&at) && !at.exists(), "something is left");
    let none = mounted.unmount(&[]);
    assert!(text(&none).contains("no region is mounted"), "{}", text(&none));
    // The region has lost nothing, and a directory that was there before stays.
    std::fs::create_dir(&at).expect("mkdir");
    assert!(mounted.mount().status.success());
    assert_eq!(std::fs::read(at.join("file")).expect("read"), b"stays");
    assert!(mounted.unmount(&[]).status.success());
    assert!(at.exists(), "the directory was not ours");
    std::fs::remove_dir(&at).expect("rmdir");
    check_is_clean(&mounted);
}

#[test]
fn a_killed_server_leaves_the_region_whole_and_mounting_again_brings_it_back() {
    let _nothing_left = NoResidue::begin();
    let Some(mounted) = FuseMounted::new("killed", "64MiB") else { return };
    let at = mounted.at().to_path_buf();
    for round in 0..4 {
        std::fs::write(at.join(format!("kept {round}")), bytes(round, 300_000)).expect("write");
        // A file without a name, a directory that somebody stands in, and writers in the middle of their work.
        let path = at.join("gone");
        let mut nameless = File::create(&path).expect("create");
        nameless.write_all(&[7; 100_000]).expect("write");
        std::fs::remove_file(&path).expect("remove");
        let mut writers: Vec<_> = (0..3)
            .map(|number| {
                let script = format!("cd {}; while :; do date >> log{number} || exit; done", at.display());
                Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).spawn().expect("start sh")
            })
            .collect();
        std::thread::sleep(Duration::from_millis(100));
        kill(mounted.server(), "-KILL");
        for writer in &mut writers {
            writer.wait().expect("wait");
        }
        let dead = std::fs::read_dir(&at).map(|_| ()).map_err(|error| error.raw_os_error());
        assert_eq!(dead, Err(Some(libc::ENOTCONN)));
        drop(nameless);
        if round == 2 {
            assert!(mounted.unmount(&[]).status.success(), "a dead mount is cleared away");
            assert!(!is_mounted(&at) && !at.exists());
        }
        let below = mounted.mount();
        assert!(below.status.success(), "{}", text(&below));
        for earlier in 0..=round {
            let found = std::fs::read(at.join(format!("kept {earlier}"))).expect("read");
            assert!(found == bytes(earlier, 300_000), "round {round}: {earlier}");
        }
        check_is_clean(&mounted);
    }
    let names = std::fs::read_dir(&at).expect("list").count();
    assert_eq!(names, 4 + 3, "nothing else has appeared");
}

#[test]
fn a_signal_ends_the_mount_in_order() {
    let _nothing_left = NoResidue::begin();
    let Some(mounted) = FuseMounted::new("signal", "64MiB") else { return };
    let (at, server) = (mounted.at().to_path_buf(), mounted.server());
    kill(server, "-TERM");
    soon("the end of the server", || !is_process(server));
    assert!(!is_mounted(&at) && !at.exists(), "something is left");
    let at_text = at.to_str().expect("text");
    let mut command = lifeboat(["mount", "--foreground", "--name", mounted.region().name(), at_text]);
    let mut foreground = command.spawn().expect("start lifeboat");
    soon("the mount", || is_mounted(&at));
    assert_eq!(foreground.try_wait().expect("wait"), None, "it stays in the foreground");
    kill(foreground.id(), "-INT");
    let status = foreground.wait().expect("wait");
    assert!(status.success(), "{status}");
    assert!(!is_mounted(&at) && !at.exists(), "something is left");
}

#[test]
fn a_mounted_region_is_not_removed_without_force() {
    let _nothing_left = NoResidue::begin();
    let Some(mounted) = FuseMounted::new("remove", "64MiB") else { return };
    let name = mounted.region().name();
    let refused = lifeboat(["region", "remove", name]).output().expect("start lifeboat");
    assert!(!refused.status.success() && text(&refused).contains("is mounted at"), "{}", text(&refused));
    let info = lifeboat(["region", "info", name]).output().expect("start lifeboat");
    assert!(text(&info).contains(mounted.at().to_str().expect("text")), "{}", text(&info));
    let server = mounted.server();
    let forced = lifeboat(["region", "remove", "--force", name]).output().expect("start lifeboat");
    assert!(forced.status.success(), "{}", text(&forced));
    assert!(!is_mounted(mounted.at()) && !mounted.at().exists() && !is_process(server), "something is left");
}

#[test]
fn intercepted_programs_and_the_kernel_see_the_same_bytes_at_once() {
    let _nothing_left = NoResidue::begin();
    let Some(mounted) = FuseMounted::new("coherent", "64MiB") else { return };
    let file = mounted.at().join("shared");
    let shown = file.display();
    std::fs::write(&file, b"").expect("create");
    // An intercepted program answers each line on its input with what the file holds, after writing the line at its end.
    let script = format!(
        "exec 3<>{shown}; while read line; do case $line in cut) : > {shown};; *) echo \"$line\" >> {shown};; esac; \
         md5sum < {shown}; stat -c %s {shown}; done"
    );
    let mut program = mounted
        .region()
        .exec()
        .args(["bash", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start lifeboat");
    let (mut to, mut from) = (program.stdin.take().expect("a pipe"), program.stdout.take().expect("a pipe"));
    let open = OpenOptions::new().read(true).write(true).open(&file).expect("open");
    let mut expected = Vec::new();
    for round in 0..200_u64 {
        if round % 17 == 16 {
            to.write_all(b"cut\n").expect("tell");
            expected.clear();
        } else {
            to.write_all(format!("line {round}\n").as_bytes()).expect("tell");
            expected.extend(format!("line {round}\n").as_bytes());
        }
        let sum = line(&mut from);
        let size: usize = line(&mut from).parse().expect("a size");
        assert_eq!((size, open.metadata().expect("stat").size() as usize), (expected.len(), expected.len()));
        assert_eq!(sum, md5(&expected), "round {round}: what the intercepted program reads");
        let mut read = vec![0; expected.len() + 10];
        let count = open.read_at(&mut read, 0).expect("read");
        assert_eq!(&read[..count], &expected[..], "round {round}: what the kernel reads");
        // Now the other way round.
        let patch = bytes(round, 1 + round as usize * 37 % 5000);
        let at = round as usize % (expected.len() + 1);
        open.write_all_at(&patch, at as u64).expect("write");
        expected.resize(expected.len().max(at + patch.len()), 0);
        expected[at..at + patch.len()].copy_from_slice(&patch);
    }
    drop(to);
    assert!(program.wait().expect("wait").success());
    check_is_clean(&mounted);
}

/// One line of another program's output, up to the first blank.
fn line(from: &mut impl Read) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while from.read(&mut byte).expect("read a pipe") == 1 && byte[0] != b'\n' {
        text.push(byte[0]);
    }
    let text = String::from_utf8(text).expect("text");
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn md5(bytes: &[u8]) -> String {
    let mut child = Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start md5sum");
    child.stdin.take().expect("a pipe").write_all(bytes).expect("write");
    let output = child.wait_with_output().expect("wait");
    text(&output).split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn removals_by_others_are_answered_and_never_mistaken() {
    let _nothing_left = NoResidue::begin();
    let Some(mounted) = FuseMounted::new("others", "64MiB") else { return };
    let at = mounted.at();
    let (name, directory) = (at.join("name"), at.join("directory"));
    for round in 0..30 {
        std::fs::write(&name, format!("old {round}")).expect("write");
        std::fs::create_dir(&directory).expect("mkdir");
        let open = File::open(&name).expect("open");
        let stands = File::open(&directory).expect("open");
        // An intercepted program takes both away and makes others, whose inodes may have the same numbers.
        let script = format!(
            "rm {0} && rmdir {1} && mkdir {1} && echo new {round} > {0} && echo x > {1}/inside",
            name.display(),
            directory.display()
        );
        let output = limited(mounted.region().exec().args(["sh", "-c", &script]), 60).output().expect("start");
        assert!(output.status.success(), "{}", text(&output));
        let mut old = vec![0; 100];
        let count = open.read_at(&mut old, 0).expect("an open file stays");
        assert_eq!(&old[..count], format!("old {round}").as_bytes());
        assert_eq!(open.metadata().expect("fstat").nlink(), 0);
        assert_eq!(stands.metadata().expect("fstat").nlink(), 0);
        assert_eq!(std::fs::read(&name).expect("read"), format!("new {round}\n").as_bytes());
        assert_eq!(std::fs::read_dir(&directory).expect("list").count(), 1);
        std::fs::remove_dir_all(&directory).expect("remove");
    }
    drop(mounted.unmount(&[]));
    check_is_clean(&mounted);
}

/// `lifeboat` as somebody who may not mount: as user 65534 where the tests run as root.
struct OrdinaryUser {
    name: String,
    /// Holds copies of the command and the library: the build folder may be closed to others.
    folder: ScratchDirectory,
}

impl OrdinaryUser {
    fn new(label: &str) -> Self {
        let folder = ScratchDirectory::new("/tmp", label);
        for file in ["lifeboat", "liblifeboat_preload.so"] {
            let built = path().with_file_name(file);
            std::fs::copy(built, folder.path().join(file)).expect("copy a build product");
        }
        Self { name: format!("{}-{label}", tag()), folder }
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments);
        let mut limited = limited(&command, 60);
        if is_root() {
            limited.uid(65534).gid(65534);
        }
        limited
    }

    fn lifeboat(&self, arguments: &[&str]) -> Output {
        self.command(&self.folder.path().join("lifeboat"), arguments).output().expect("start lifeboat")
    }
}

impl Drop for OrdinaryUser {
    fn drop(&mut self) {
        self.lifeboat(&["region", "remove", "--force", &self.name]);
    }
}

#[test]
fn ordinary_users_mount_through_fusermount3() {
    let _nothing_left = NoResidue::begin();
    if !is_installed("fusermount3") || !may_mount() {
        return;
    }
    if !Path::new("/etc/mtab").exists() {
        return report::skipped("mounts of ordinary users", "fusermount3 unmounts nothing without /etc/mtab");
    }
    let user = OrdinaryUser::new("user");
    if is_root() && !open_device_to_users(user.folder.path()) {
        return;
    }
    let at = user.folder.path().join("mount");
    let at_text = at.to_str().expect("text");
    let done = |output: &Output| assert!(output.status.success(), "{}", text(output));
    done(&user.lifeboat(&["region", "create", &user.name, "--size", "32MiB"]));
    let command = user.folder.path().join("lifeboat");
    let command = command.to_str().expect("text");
    let without = ["PATH=/nowhere", command, "mount", "--name", &user.name, at_text];
    let without = user.command(Path::new("/usr/bin/env"), &without).output().expect("start env");
    assert_eq!(without.status.code(), Some(1));
    assert!(text(&without).contains("fuse3"), "the package is named: {}", text(&without));
    assert!(!at.exists(), "nothing is left of the attempt");

    let run = |script: &str| {
        let shell = Path::new("/bin/sh");
        let output = user.command(shell, &["-c", script]).output().expect("start sh");
        (output.status.success(), text(&output))
    };
    // Over a directory that was made for the mount, then over the unwritable one that `exec` makes.
    for round in ["made", "covered"] {
        if round == "covered" {
            done(&user.lifeboat(&["exec", "--name", &user.name, "--mount", at_text, "--", "true"]));
            assert_eq!(std::fs::metadata(&at).expect("stat").mode() & 0o222, 0, "unwritable");
        }
        done(&user.lifeboat(&["mount", "--name", &user.name, at_text]));
        assert!(is_mounted(&at), "{round}");
        assert_eq!(
            run(&format!("echo {round} >> {at_text}/file && tail -n 1 {at_text}/file")),
            (true, format!("{round}\n"))
        );
        let intercepted =
            user.lifeboat(&["exec", "--name", &user.name, "--mount", at_text, "--", "cat", &format!("{at_text}/file")]);
        assert!(text(&intercepted).ends_with(&format!("{round}\n")), "{}", text(&intercepted));
        if is_root() {
            let others = std::fs::read_dir(&at).map(drop).map_err(|error| error.raw_os_error());
            assert_eq!(others, Err(Some(libc::EACCES)), "the mount is its user's alone");
        }
        done(&user.lifeboat(&["unmount", at_text]));
        assert!(!is_mounted(&at));
        assert_eq!(at.exists(), round == "covered");
    }
    assert_eq!(std::fs::metadata(&at).expect("stat").mode() & 0o222, 0, "as unwritable as before");
    done(&user.lifeboat(&["region", "remove", &user.name]));
    assert!(!at.exists(), "the cover goes with the region");
}
