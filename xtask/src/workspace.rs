//! The workspace as cargo sees it.

use crate::failure::{Context, Failure, Outcome};
use crate::run;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Folders, packages and their dependencies.
pub struct Workspace {
    /// Where the root Cargo.toml is.
    pub root: PathBuf,
    /// Where cargo builds.
    pub target: PathBuf,
    /// Names of the workspace's own packages.
    pub members: Vec<Member>,
    /// Everything that `cargo metadata` said.
    pub metadata: Value,
}

/// A package of the workspace.
pub struct Member {
    /// Its name in Cargo.toml.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Names of the packages that it uses, tests aside.
    pub dependencies: Vec<String>,
    /// Names of the packages that only its tests use.
    pub test_dependencies: Vec<String>,
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Set by `cargo run` for us alone; a build script that sees them would be built again.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME"] {
        command.env_remove(name);
    }
    command
}

fn text<'a>(value: &'a Value, key: &str) -> Outcome<&'a str> {
    value[key].as_str().ok_or_else(|| Failure::new(format!("cargo metadata has no {key}")))
}

impl Workspace {
    /// Asks cargo.
    pub fn read() -> Outcome<Self> {
        // Only standard output is JSON; cargo's words on standard error would spoil it.
        let output = cargo().args(["metadata", "--format-version", "1", "--quiet"]).output().context("start cargo")?;
        if !output.status.success() {
            return Err(Failure::new(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim())));
        }
        let metadata: Value = serde_json::from_slice(&output.stdout).context("understand cargo metadata")?;
        let ids: Vec<_> = metadata["workspace_members"].as_array().into_iter().flatten().collect();
        let mut members = Vec::new();
        for package in metadata["packages"].as_array().into_iter().flatten().filter(|p| ids.contains(&&p["id"])) {
            let manifest = Path::new(text(package, "manifest_path")?);
            let used = |test: bool| {
                let all = package["dependencies"].as_array().into_iter().flatten();
                let fitting = all.filter(|dependency| (dependency["kind"].as_str() == Some("dev")) == test);
                fitting.filter_map(|dependency| dependency["name"].as_str().map(str::to_owned)).collect()
            };
            members.push(Member {
                name: text(package, "name")?.to_owned(),
                folder: manifest.parent().unwrap_or(manifest).to_owned(),
                dependencies: used(false),
                test_dependencies: used(true),
            });
        }
        let root = PathBuf::from(text(&metadata, "workspace_root")?);
        let target = PathBuf::from(text(&metadata, "target_directory")?);
        Ok(Self { root, target, members, metadata })
    }

    /// Builds the command and the interception library as users get them; answers the folder that holds both.
    pub fn build_release(&self) -> Outcome<PathBuf> {
        // Two calls: in one, the features that the command asks for would be turned on for the library, too.
        for package in ["lifeboat", "lifeboat-preload"] {
            let mut command = cargo();
            command.current_dir(&self.root).args(["build", "--quiet", "--release", "--package", package]);
            run::visibly(&mut command)?;
        }
        let folder = self.target.join("release");
        for name in ["lifeboat", "liblifeboat_preload.so"] {
            if !folder.join(name).is_file() {
                return Err(Failure::new(format!("the build made no {}", folder.join(name).display())));
            }
        }
        Ok(folder)
    }
}

/// The toolchain must be as new as the workspace's `rust-version`.
pub fn check_toolchain(workspace: &Workspace) -> Outcome {
    let wanted = workspace.metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "lifeboat")
        .and_then(|package| package["rust_version"].as_str())
        .unwrap_or("1.89");
    let said = run::output_of(Command::new("rustc").arg("--version"), Duration::from_secs(60))?;
    let have = said.split_whitespace().nth(1).unwrap_or_default();
    if numbers(have) >= numbers(wanted) {
        return Ok(());
    }
    Err(Failure::new(format!("rustc {have} is too old: {wanted} or newer is needed, `rustup update stable` brings it")))
}

fn numbers(version: &str) -> Vec<u32> {
    let plain = version.split(['-', '+']).next().unwrap_or_default();
    plain.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}
