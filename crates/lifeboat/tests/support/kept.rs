//! Users with regions that keepers hold.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lifeboat_testkit::huge_pages::HugePages;
use lifeboat_testkit::report::skipped;
use lifeboat_testkit::scratch::is_root;

use super::{Ended, Here, end, lifeboat};

/// The carriers of keepers.
pub const KEPT: [&str; 2] = ["keeper", "keeper-hugetlb"];

/// An ordinary user of this machine, whom root becomes for the tests.
pub const NOBODY: u32 = 65534;

/// A directory for regions of one user, who removes them when it is dropped.
pub struct User {
    pub here: Here,
    pub id: Option<u32>,
    pub program: PathBuf,
}

impl User {
    /// An ordinary one.
    pub fn ordinary(label: &str) -> User {
        User::new(label, is_root().then_some(NOBODY))
    }

    pub fn new(label: &str, id: Option<u32>) -> User {
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
    pub fn program(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
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
    pub fn words(&self, arguments: &[&str]) -> Vec<String> {
        let (verb, rest) = arguments.split_at(if arguments[0] == "region" { 2 } else { 1 });
        let place = ["--place", self.here.place().to_str().unwrap()];
        let program = [self.program.to_str().unwrap()];
        [&program, verb, &place, rest].concat().into_iter().map(String::from).collect()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let words = self.words(arguments);
        let mut command = self.program(&words[0]);
        command.args(&words[1..]);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ended {
        end(&mut self.command(arguments))
    }

    pub fn must(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.err);
        String::from_utf8(ended.out).unwrap()
    }

    /// A region with a keeper; `None`, and said so, where users get no namespace.
    pub fn keep(&self, name: &str, size: &str) -> Option<Kept> {
        self.keep_on("keeper", name, size)
    }

    /// The same on any carrier of [`KEPT`], with the huge pages that it takes.
    pub fn keep_on(&self, carrier: &str, name: &str, size: &str) -> Option<Kept> {
        let mut pages = None;
        if carrier == "keeper-hugetlb" {
            let count = size.strip_suffix("MiB").unwrap().parse::<u64>().unwrap() / 2;
            pages = Some(HugePages::of(count).map_err(|none| none.skip("carrier keeper-hugetlb")).ok()?);
        }
        let ended = self.run(&["region", "create", name, "--size", size, "--carrier", carrier]);
        if ended.code != Some(0) && (ended.err.contains("user namespace") || ended.err.contains("may not mount")) {
            skipped("carrier keeper", ended.err.trim());
            return None;
        }
        assert_eq!(ended.code, Some(0), "{ended:?}");
        Some(Kept { _pages: pages, ..self.kept(name) })
    }

    pub fn kept(&self, name: &str) -> Kept {
        let directory = self.here.place().join(name);
        let note = fs::read_to_string(directory.join("keeper")).unwrap();
        Kept { pid: note.split(' ').next().unwrap().parse().unwrap(), directory, _pages: None }
    }

    /// The interception library where this user can load it; `None`, and said so, when it is not built.
    pub fn library(&self) -> Option<PathBuf> {
        let beside = Path::new(env!("CARGO_BIN_EXE_lifeboat")).with_file_name("liblifeboat_preload.so");
        let folder = std::env::var_os("LIFEBOAT_BIN_DIR").map(PathBuf::from);
        let library = folder.map_or(beside, |folder| folder.join("liblifeboat_preload.so"));
        if !library.exists() {
            let why = format!("{} is not built (cargo build -p lifeboat-preload)", library.display());
            skipped("keeper: exec", &why);
            return None;
        }
        let copy = self.here.file("liblifeboat_preload.so");
        fs::copy(&library, &copy).unwrap();
        fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
        Some(copy)
    }

    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
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

/// A keeper of a region.
pub struct Kept {
    pub pid: u32,
    pub directory: PathBuf,
    /// Given back last.
    _pages: Option<HugePages>,
}

impl Kept {
    pub fn signal(&self, signal: &str) {
        // The shell's own: there may be no program of that name.
        let status = Command::new("sh").args(["-c", "kill \"$0\" \"$1\"", signal, &self.pid.to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Whether the keeper ended (or is a zombie that nobody has looked at) within five seconds.
    pub fn has_ended(&self) -> bool {
        within(Duration::from_secs(5), || {
            let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
            !status.contains("lifeboat-keeper") || status.contains("State:\tZ")
        })
    }
}

/// Whether `condition` came true in time.
pub fn within(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// A process of the user's that gets the region's file as any other and maps it until its input ends.
pub fn holder(user: &User, kept: &Kept) -> Option<Child> {
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
