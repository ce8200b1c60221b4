//! The `lifeboat` command as users run it.

use crate::child::RUN;
use crate::scratch::{ScratchDirectory, tag, this_user};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Folder in which the command and the interception library are looked for first.
const FOLDER: &str = "LIFEBOAT_BIN_DIR";

/// The command's path: in the folder that `LIFEBOAT_BIN_DIR` names, else `release` or `debug` of the build folder that
/// this test was built into. Fails the test when it is not built.
pub fn path() -> PathBuf {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return present(PathBuf::from(folder)).expect("LIFEBOAT_BIN_DIR holds lifeboat and liblifeboat_preload.so");
    }
    let own = std::env::current_exe().expect("path of the test binary");
    // target/PROFILE/deps/test
    let target = own.ancestors().nth(3).expect("a build folder").to_path_buf();
    ["release", "debug"].iter().find_map(|profile| present(target.join(profile))).unwrap_or_else(|| {
        panic!(
            "lifeboat and liblifeboat_preload.so are not in {}/release or debug; \
             build them with `cargo build --release -p lifeboat -p lifeboat-preload`",
            target.display()
        )
    })
}

fn present(folder: PathBuf) -> Option<PathBuf> {
    let both = folder.join("lifeboat").is_file() && folder.join("liblifeboat_preload.so").is_file();
    both.then(|| folder.join("lifeboat"))
}

/// `lifeboat` with these arguments.
pub fn lifeboat<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(path());
    // Whatever the home directory lies on: tests that are about other nodes say so.
    command.args(arguments).env(RUN, tag()).env("LIFEBOAT_NODES", "none").stdin(Stdio::null());
    command
}

/// A region and a mount prefix for `lifeboat exec`, removed when dropped.
#[derive(Debug)]
pub struct Mounted {
    name: String,
    size: String,
    prefix: PathBuf,
    _parent: ScratchDirectory,
}

impl Mounted {
    /// Chooses names; the region is created by the first [`Mounted::exec`].
    pub fn new(label: &str, size: &str) -> Self {
        let parent = ScratchDirectory::new("/tmp", label);
        let prefix = parent.path().join("mount");
        Self { name: format!("{}-{label}", tag()), size: size.to_string(), prefix, _parent: parent }
    }

    /// The mount's path, as programs below [`Mounted::exec`] see it.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// The region's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The region's directory.
    pub fn directory(&self) -> PathBuf {
        PathBuf::from(format!("/dev/shm/lifeboat-{}/{}", this_user().uid, self.name))
    }

    /// `lifeboat exec .. --`, to which the program and its arguments are added.
    pub fn exec(&self) -> Command {
        let prefix = self.prefix.to_str().expect("our paths are text");
        lifeboat(["exec", "--size", &self.size, "--name", &self.name, "--mount", prefix, "--"])
    }

    /// Runs a shell script below `lifeboat exec`.
    pub fn shell(&self, script: &str) -> Output {
        self.exec().args(["bash", "-c", script]).output().expect("start lifeboat")
    }

    /// What is really in the file system at the prefix or below it, seen without interception: nothing may be.
    pub fn escaped(&self) -> Vec<PathBuf> {
        std::fs::read_dir(&self.prefix).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.directory().exists() {
            return;
        }
        let removed = lifeboat(["region", "remove", &self.name]).output();
        if let Ok(output) = &removed
            && !output.status.success()
        {
            crate::report::line(&format!("cannot remove {}: {}", self.name, String::from_utf8_lossy(&output.stderr)));
        }
        let escaped = self.escaped();
        if !std::thread::panicking() {
            assert!(escaped.is_empty(), "written past the mount: {escaped:?}");
        }
    }
}

/// The same command, ended by `timeout` (exit code 124) when it takes longer than `seconds`.
pub fn limited(command: &Command, seconds: u32) -> Command {
    let mut outer = Command::new("timeout");
    outer.args(["-k", "2", &seconds.to_string()]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer.env(RUN, tag()).stdin(Stdio::null());
    outer
}
