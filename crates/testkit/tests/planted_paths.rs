//! The fear: something lies where Lifeboat opens or makes its files - a link, a pipe, a socket, a file of another's - and
//! is followed, written, waited for, or believed.
//!
//! Whatever lies there: every command ends in time with words and without a signal, and what a link leads to is what it was.

use lifeboat_testkit::command::{lifeboat, limited};
use lifeboat_testkit::report::{full, skipped};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, is_root};
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// An ordinary user of this machine, whom root becomes.
const NOBODY: u32 = 65534;

/// What a link may lead to, and how it must stay.
struct Victim {
    file: PathBuf,
    folder: PathBuf,
    before: (Vec<u8>, u32, i64),
}

impl Victim {
    fn new(parent: &Path) -> Victim {
        let (file, folder) = (parent.join("victim"), parent.join("victims"));
        fs::write(&file, "precious\n").unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
        let before = Victim::look(&file);
        Victim { file, folder, before }
    }

    fn look(file: &Path) -> (Vec<u8>, u32, i64) {
        let metadata = fs::metadata(file).unwrap();
        (fs::read(file).unwrap(), metadata.mode(), metadata.mtime_nsec())
    }

    fn assert_untouched(&self, what: &str) {
        assert_eq!(Victim::look(&self.file), self.before, "{what}: a link was followed");
        let inside: Vec<_> = fs::read_dir(&self.folder).unwrap().flatten().map(|entry| entry.path()).collect();
        assert!(inside.is_empty(), "{what}: a link was followed to {inside:?}");
        assert_eq!(fs::metadata(&self.folder).unwrap().mode() & 0o777, 0o700, "{what}: a link was followed");
    }
}

fn make_pipe(path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: a C string; the call only makes a name.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

/// Unless it lies in another file system, where there can be none.
fn make_hard_link(victim: &Path, at: &Path) {
    let made = fs::hard_link(victim, at);
    assert!(made.is_ok() || made.is_err_and(|error| error.kind() == std::io::ErrorKind::CrossesDevices));
}

type Plant = fn(&Victim, &Path);

const PLANTS: [(&str, Plant); 9] = [
    ("a link to a file", |victim, at| symlink(&victim.file, at).unwrap()),
    ("a link to a directory", |victim, at| symlink(&victim.folder, at).unwrap()),
    ("a link to nothing", |victim, at| symlink(victim.folder.join("new"), at).unwrap()),
    ("a hard link", |victim, at| make_hard_link(&victim.file, at)),
    ("a pipe", |_, at| make_pipe(at)),
    ("a socket", |_, at| drop(UnixListener::bind(at).unwrap())),
    ("an empty file", |_, at| fs::write(at, "").unwrap()),
    ("a file of nonsense, open to all", |_, at| {
        // Where there is room: the folder of placeholders has none for root.
        let _ = fs::write(at, "\0\u{1}nonsense 1 2 3\n../../x\n");
        fs::set_permissions(at, PermissionsExt::from_mode(0o666)).unwrap();
    }),
    ("a directory, open to all", |_, at| {
        fs::create_dir(at).unwrap();
        fs::set_permissions(at, PermissionsExt::from_mode(0o777)).unwrap();
    }),
];

/// Every path below a place that some part of Lifeboat opens or makes.
const PATHS: [&str; 13] = [
    "",
    "r",
    "r/memory",
    "r/memory/region",
    "r/memory/region.new",
    "r/tags",
    "r/tags/0",
    "r/images",
    "r/images/0",
    "r/keeper",
    "r/keeper.sock",
    "r/mounts",
    "r/ready",
];

/// Somebody's directory for regions, on a tmpfs.
struct Place(ScratchDirectory);

impl Place {
    fn new(label: &str) -> Place {
        Place(ScratchDirectory::on_tmpfs(label))
    }

    fn base(&self) -> PathBuf {
        self.0.path().join("base")
    }

    fn command(&self, words: &[&str]) -> Command {
        let verb = if words[0] == "region" { 2 } else { 1 };
        let base = self.base();
        let place = ["--place", base.to_str().unwrap()];
        limited(&lifeboat([&words[..verb], &place, &words[verb..]].concat()), 20)
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("start lifeboat")
    }

    fn create(&self) {
        let made = self.run(&["region", "create", "r", "--size", "8MiB", "--carrier", "shm"]);
        assert!(made.status.success(), "{made:?}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.run(&["region", "remove", "--force", "r"]);
        // What a removal refuses to touch.
        unmount_below(self.0.path());
    }
}

fn unmount_below(path: &Path) {
    for point in mounted_below(path).iter().rev() {
        let _ = Command::new("umount").args(["-l", point]).status();
    }
}

/// What a removal that was refused has left mounted goes with the test.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        unmount_below(&self.0);
    }
}

fn put_away(path: &Path) {
    unmount_below(path);
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// Ends in time, in words, without a signal.
fn assert_in_words(what: &str, output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), None, "{what}: killed; it said {said}");
    let code = output.status.code().unwrap();
    assert!(code != 124 && code != 137, "{what}: did not end in time");
    assert!(!said.contains("panicked"), "{what}: {said}");
    assert!(code == 0 || !said.trim().is_empty(), "{what}: ended with {code} and no word");
    assert!(said.lines().count() <= 3, "{what}: {said}");
}

#[test]
fn whatever_lies_where_lifeboat_has_its_files_is_neither_followed_nor_believed() {
    let _clean = NoResidue::begin();
    let files = ScratchDirectory::new("/dev/shm", "victims");
    let _mounts = Unmount(files.path().to_owned());
    let victim = Victim::new(files.path());
    let mount = files.path().join("mount");
    let write = format!("echo x > {}/f", mount.display());
    let commands: [&[&str]; 5] = [
        &["region", "list"],
        &["region", "check", "r"],
        &["exec", "--name", "r", "--size", "8MiB", "--mount", mount.to_str().unwrap(), "--", "sh", "-c", &write],
        &["region", "create", "r", "--size", "8MiB", "--carrier", "shm"],
        &["region", "remove", "--force", "r"],
    ];
    for (which, path) in PATHS.into_iter().enumerate() {
        // A third of them in the quick set: each path, each kind.
        let chosen = |index: usize| full() || (which + index).is_multiple_of(3);
        for (_, (kind, plant)) in PLANTS.into_iter().enumerate().filter(|(index, _)| chosen(*index)) {
            let place = Place::new("planted");
            place.create();
            let at = if path.is_empty() { place.base() } else { place.base().join(path) };
            if path == "r/tags/0" {
                fs::create_dir_all(at.parent().unwrap()).unwrap();
            }
            put_away(&at);
            plant(&victim, &at);
            for command in commands {
                let what = format!("{kind} at {path:?}, {}", command[..2].join(" "));
                assert_in_words(&what, &place.run(command));
                victim.assert_untouched(&what);
            }
        }
    }
}

/// Another user's process that never stops changing what lies at `at`; ended when dropped.
struct Meddler(std::process::Child);

impl Meddler {
    fn start(at: &Path, victim: &Victim) -> Meddler {
        let script = "while :; do mkdir \"$1\"; rmdir \"$1\"; ln -s \"$2\" \"$1\"; rm -f \"$1\"; mkfifo \"$1\"; rm -f \"$1\"; \
                      ln -s \"$3\" \"$1\"; rm -f \"$1\"; done 2>/dev/null";
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "60", "sh", "-c", script, "sh"]).arg(at).arg(&victim.folder).arg(&victim.file);
        command.uid(NOBODY).gid(NOBODY).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Meddler(command.process_group(0).spawn().unwrap())
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        // SAFETY: the group is of the child that we started and have not waited for.
        unsafe { libc::kill(-(self.0.id() as i32), libc::SIGKILL) };
        let _ = self.0.wait();
    }
}

/// A directory in which everybody may make names and only their owners take them away, as /dev/shm and /tmp are.
fn sticky(parent: &Path, name: &str) -> PathBuf {
    let path = parent.join(name);
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o1777)).unwrap();
    path
}

#[test]
fn another_user_who_changes_the_path_between_check_and_use_gains_nothing() {
    let _clean = NoResidue::begin();
    if !is_root() {
        return skipped("races with another user", "only root can be two users");
    }
    let files = ScratchDirectory::new("/dev/shm", "races");
    let _mounts = Unmount(files.path().to_owned());
    let victim = Victim::new(files.path());
    let parent = sticky(files.path(), "sticky");
    let limit = Duration::from_secs(if full() { 40 } else { 2 });
    for (what, name) in [("the place of regions", "base"), ("the mount prefix", "mount")] {
        let at = parent.join(name);
        let base = if name == "base" { at.clone() } else { files.path().join("quiet") };
        let mount = if name == "mount" { at.clone() } else { files.path().join("mount") };
        let (mut won, mut refused) = (0, 0);
        let start = Instant::now();
        let _meddler = Meddler::start(&at, &victim);
        while fs::symlink_metadata(&at).is_err() && start.elapsed() < limit {
            std::thread::yield_now();
        }
        while start.elapsed() < limit {
            let words =
                ["exec", "--place", base.to_str().unwrap(), "--name", "r", "--size", "8MiB", "--carrier", "shm"];
            let more = ["--mount", mount.to_str().unwrap(), "--", "true"];
            for _ in 0..20 {
                let output = limited(&lifeboat(words.iter().chain(&more)), 20).output().unwrap();
                assert_in_words(what, &output);
                if output.status.success() {
                    won += 1
                } else {
                    refused += 1
                }
                victim.assert_untouched(what);
                if output.status.success() {
                    assert_eq!(fs::symlink_metadata(&base).unwrap().uid(), 0, "{what}");
                    assert_eq!(fs::symlink_metadata(&base).unwrap().mode() & 0o7777, 0o700, "{what}");
                    break;
                }
            }
            let remove = ["region", "remove", "--place", base.to_str().unwrap(), "--force", "r"];
            assert_in_words(what, &limited(&lifeboat(remove), 20).output().unwrap());
            victim.assert_untouched(what);
            assert_eq!(mounted_below(files.path()), Vec::<String>::new(), "{what}: mounted, and not by name of ours");
        }
        println!("{what}: {won} times made beside the other user, {refused} times refused");
    }
}

fn mounted_below(path: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| Path::new(point).starts_with(path)).map(str::to_owned).collect()
}
