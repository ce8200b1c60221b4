//! What the tests of the command share.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod kept;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lifeboat_testkit::scratch::ScratchDirectory;

/// A directory for regions and one for files of this test's own; both go with everything in them and mounted there.
pub struct Here {
    place: ScratchDirectory,
    files: ScratchDirectory,
}

/// How a run of the command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

impl Here {
    pub fn new(label: &str) -> Here {
        let place = ScratchDirectory::on_tmpfs(label);
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(place.path(), permissions).unwrap();
        Here { place, files: ScratchDirectory::new("/tmp", label) }
    }

    /// The directory that holds the regions.
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// The memory of a region.
    pub fn memory(&self, name: &str) -> PathBuf {
        self.place.path().join(name).join("memory/region")
    }

    /// A path for an ordinary file.
    pub fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// `lifeboat COMMAND...` with this directory for regions; the first words must be the command's.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = lifeboat();
        let words = if arguments.first().is_some_and(|word| word.as_ref() == "region") { 2 } else { 1 };
        let (verb, rest) = arguments.split_at(words.min(arguments.len()));
        command.args(verb).arg("--place").arg(self.place()).args(rest);
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ended {
        end(&mut self.command(arguments))
    }

    /// Runs what has to succeed and returns its output.
    pub fn must<S: AsRef<OsStr> + std::fmt::Debug>(&self, arguments: &[S]) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.err);
        String::from_utf8(ended.out).unwrap()
    }

    /// `lifeboat exec ARGUMENTS -- PROGRAM` with a harmless library in place of the interception library.
    pub fn exec(&self, arguments: &[&str], program: &[&str]) -> Command {
        let mut command = lifeboat();
        command.arg("exec").arg("--place").arg(self.place()).args(arguments).arg("--").args(program);
        command.env("LIFEBOAT_PRELOAD", harmless_library());
        command
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.place()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let _ = end(self.command(&[OsStr::new("region"), OsStr::new("remove")]).arg("--force").arg(&name));
        }
        // What a damaged region did not let go.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for point in mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)) {
            let point = Path::new(point);
            if point.starts_with(self.place()) || point.starts_with(self.files.path()) {
                let _ = Command::new("umount").arg("-l").arg(point).status();
            }
        }
    }
}

/// The command without anything of a surrounding `exec` in its environment.
pub fn lifeboat() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
    for name in ["LIFEBOAT_REGION", "LIFEBOAT_MOUNT", "LIFEBOAT_PRELOAD", "LIFEBOAT_CLAIMS", "LD_PRELOAD"] {
        command.env_remove(name);
    }
    command.env("LIFEBOAT_NODES", "none").stdin(Stdio::null());
    command
}

/// Runs to the end.
pub fn end(command: &mut Command) -> Ended {
    let Output { status, stdout, stderr } = command.output().unwrap();
    Ended { code: status.code(), out: stdout, err: String::from_utf8_lossy(&stderr).into_owned() }
}

impl Ended {
    /// It failed with this code and said so in one line that contains `expected`.
    pub fn refused(&self, code: i32, expected: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.starts_with("lifeboat: "), "{self:?}");
        assert!(self.err.contains(expected), "{expected:?} is not in {:?}", self.err);
    }
}

/// A library that any program here has loaded anyway.
fn harmless_library() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc =
        maps.lines().filter_map(|line| line.split_ascii_whitespace().nth(5)).find(|path| path.contains("/libc.so"));
    PathBuf::from(libc.expect("tests are linked with libc dynamically"))
}
