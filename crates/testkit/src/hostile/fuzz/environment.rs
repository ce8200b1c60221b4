//! Bytes become the environment of a program that is started with the interception library, as anybody may start one.

use super::Target;
use crate::command::{self, Mounted};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a line of the input sets, by its first byte.
const NAMES: [&str; 9] = [
    "LIFEBOAT_REGION",
    "LIFEBOAT_MOUNT",
    "LIFEBOAT_CWD",
    "LIFEBOAT_KERNELS",
    "LIFEBOAT_TRAP_RAW",
    "LIFEBOAT_GUARD",
    "LIFEBOAT_CLAIMS",
    "LIFEBOAT_UNKNOWN",
    "LIFEBOAT_CHECKSUMS",
];
const TEXT: &str = "kept\n";

/// A file in a region, one with the same text outside, and a program that reads either.
pub struct Environment {
    mounted: Mounted,
    outside: PathBuf,
    library: PathBuf,
}

impl Environment {
    pub fn new() -> Self {
        let mounted = Mounted::new("fuzz-environment", "8MiB");
        let inside = mounted.prefix().join("file").display().to_string();
        let written = mounted.shell(&format!("printf '{TEXT}' > {inside}"));
        assert!(written.status.success(), "{written:?}");
        let outside = mounted.prefix().with_file_name("outside");
        std::fs::write(&outside, TEXT).expect("a file outside");
        let library = command::path().with_file_name("liblifeboat_preload.so");
        Self { mounted, outside, library }
    }

    /// `cat` of a file with the variables that the input sets; those of the region where it sets none.
    fn start(&self, input: &[u8], file: &Path) -> Command {
        let mut cat = Command::new("/bin/cat");
        cat.arg(file).env("LD_PRELOAD", &self.library).stdin(Stdio::null());
        cat.env(NAMES[0], self.mounted.directory()).env(NAMES[1], self.mounted.prefix());
        for line in input.split(|byte| *byte == b'\n') {
            let Some((first, value)) = line.split_first() else { continue };
            let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
            cat.env(NAMES[*first as usize % NAMES.len()], OsStr::from_bytes(value));
        }
        cat
    }
}

/// Whether the input sets a mount that the file lies below.
fn may_cover(input: &[u8], file: &Path) -> bool {
    let lines = input.split(|byte| *byte == b'\n').filter_map(|line| line.split_first());
    let mounts = lines.filter(|(name, _)| NAMES[**name as usize % NAMES.len()] == "LIFEBOAT_MOUNT");
    mounts.into_iter().any(|(_, value)| {
        let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
        !value.is_empty() && file.starts_with(OsStr::from_bytes(value))
    })
}

impl Target for Environment {
    fn run(&mut self, input: &[u8]) -> Result<(), String> {
        for file in [&self.outside, &self.mounted.prefix().join("file")] {
            let output = self.start(input, file).output().map_err(|error| format!("cannot start cat: {error}"))?;
            if let Some(signal) = output.status.signal() {
                return Err(format!("cat {} ended by signal {signal}", file.display()));
            }
            let said = String::from_utf8_lossy(&output.stderr);
            if output.status.success() && output.stdout != TEXT.as_bytes() {
                return Err(format!("cat {} read something else: {said}", file.display()));
            }
            // What lies outside is refused only where the environment says that the mount covers it.
            if *file == self.outside && !output.status.success() && !may_cover(input, file) {
                return Err(format!("a file outside the mount is not read: {said}"));
            }
        }
        Ok(())
    }
}
