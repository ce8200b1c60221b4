//! Test programs compiled on the spot, from `crates/testkit/programs`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder with the sources of test programs: of the package as it lies for this run (an ordinary user may not be
/// able to read the checkout), else where it was built.
pub fn folder() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).join("programs")
}

/// Compiles `source` (a file of `programs/`) into `folder`; `None`, with a counted line, when the compiler is absent.
/// A source that does not compile fails the test.
pub fn compile(compiler: &str, source: &str, options: &[&str], folder: &Path) -> Option<PathBuf> {
    let file = self::folder().join(source);
    let program = folder.join(source.replace('.', "_"));
    let mut command = Command::new(compiler);
    let built = command.arg(&file).arg("-o").arg(&program).args(options).output();
    match built {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            crate::report::skipped(source, &format!("{compiler} is not installed"));
            None
        }
        Err(error) => panic!("cannot start {compiler}: {error}"),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{compiler} refuses {source}:\n{text}");
            Some(program)
        }
    }
}

/// Whether a program is in the search path; says so in a counted line when it is not.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !found {
        crate::report::skipped(program, "not installed");
    }
    found
}
