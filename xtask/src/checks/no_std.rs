//! The interception library must never contain `std`, whose own calls would come back to its hooks.

use super::code;
use crate::failure::{Context, Failure, Outcome};
use crate::workspace::Workspace;
use std::path::Path;

/// Crates whose code runs inside hooks.
const IN_HOOKS: &[&str] = &["kernels", "region", "fs", "preload"];

/// No crate turns on rustix's `std`, and every crate of the hooks says `no_std`.
pub fn check_source(workspace: &Workspace) -> Outcome {
    let mut wrong = Vec::new();
    for node in workspace.metadata["resolve"]["nodes"].as_array().into_iter().flatten() {
        let id = node["id"].as_str().unwrap_or_default();
        let features = node["features"].as_array().into_iter().flatten();
        let is_rustix = id.contains("#rustix@") || id.starts_with("rustix ");
        if is_rustix && features.into_iter().any(|feature| feature == "std") {
            wrong.push(
                "some crate turns on the feature `std` of rustix (`cargo tree -e features -i rustix` says which)"
                    .to_owned(),
            );
        }
    }
    for name in IN_HOOKS {
        let file = workspace.root.join("crates").join(name).join("src/lib.rs");
        let text = std::fs::read_to_string(&file).context(format_args!("read {}", file.display()))?;
        if !says_no_std(&text, *name == "preload") {
            wrong.push(format!("{} is not no_std", file.display()));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::new(wrong.join("\n   "))) }
}

/// Below the hooks `std` is allowed in the crate's own tests, through `cfg_attr`.
fn says_no_std(text: &str, always: bool) -> bool {
    text.lines().map(code).any(|line| {
        let line = line.replace(' ', "");
        line.starts_with("#![no_std]")
            || (!always && line.starts_with("#![cfg_attr(not(") && line.ends_with("no_std)]"))
    })
}

/// The built library has no piece of `std` in it: its panics would name files of it.
pub fn check_library(library: &Path) -> Outcome {
    let bytes = std::fs::read(library).context(format_args!("read {}", library.display()))?;
    for piece in [&b"library/std/src/"[..], b"library/alloc/src/", b"rust_panic_with_hook"] {
        if bytes.windows(piece.len()).any(|window| window == piece) {
            let piece = String::from_utf8_lossy(piece);
            return Err(Failure::new(format!("{} contains {piece}: std was linked in", library.display())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::says_no_std;

    #[test]
    fn a_library_with_std_is_not_taken_for_one_without() {
        assert!(says_no_std("//! x\n#![no_std]\n", true));
        assert!(says_no_std("#![cfg_attr(not(test), no_std)]\n", false));
        assert!(!says_no_std("#![cfg_attr(not(test), no_std)]\n", true));
        assert!(!says_no_std("// #![no_std]\n", false));
    }
}
