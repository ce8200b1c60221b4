//! Where checkpoints go: the region, or a folder of the kernel to compare with.

use super::REGION_SIZE;
use crate::confine::Stage;
use crate::failure::{Context, Failure, Outcome};
use crate::run;
use serde_json::Value;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The demonstration's region; removed with the value.
pub struct Region {
    /// Its name.
    pub name: String,
    /// The prefix under which programs see it.
    pub mount: PathBuf,
    command: PathBuf,
}

impl Region {
    /// Reserves the memory. `command` is the built `lifeboat`.
    pub fn create(command: &Path, scratch: &Stage) -> Outcome<Self> {
        let mount = scratch.folder_of("mount", None)?;
        let region = Self { name: format!("demo-{}", std::process::id()), mount, command: command.to_owned() };
        region.lifeboat(&["region", "create", &region.name, "--size", REGION_SIZE])?;
        Ok(region)
    }

    fn lifeboat(&self, arguments: &[&str]) -> Outcome<String> {
        run::output_of(Command::new(&self.command).args(arguments), Duration::from_secs(60))
    }

    /// Words before a program so that it sees the region.
    pub fn words(&self) -> Vec<String> {
        let [command, mount] = [&self.command, &self.mount].map(|path| path.to_string_lossy().into_owned());
        vec![command, "exec".into(), "--name".into(), self.name.clone(), "--mount".into(), mount, "--".into()]
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // Not through `run`, and out of reach of a second Ctrl-C: the region goes away also after an interrupt.
        let mut command = Command::new(&self.command);
        let removed = command.args(["region", "remove", &self.name, "--force"]).process_group(0).output();
        match removed {
            Ok(output) if output.status.success() => {}
            Ok(output) => eprintln!(
                "xtask: left behind: region {}: {}",
                self.name,
                String::from_utf8_lossy(&output.stderr).trim()
            ),
            Err(error) => eprintln!("xtask: left behind: region {}: {error}", self.name),
        }
    }
}

/// Name and size of a file.
pub type Listed = (String, u64);

/// A folder for checkpoints.
pub enum Place<'a> {
    /// Below the region's mount.
    Region(&'a Region, PathBuf),
    /// Of a file system of the kernel.
    Folder(PathBuf),
}

impl<'a> Place<'a> {
    /// A new folder in the region, made by an unmodified `mkdir`.
    pub fn in_region(region: &'a Region, name: &str) -> Outcome<Self> {
        let folder = region.mount.join(name);
        let [first, rest @ ..] = &region.words()[..] else { return Err(Failure::new("no command")) };
        run::output_of(Command::new(first).args(rest).arg("mkdir").arg(&folder), Duration::from_secs(60))?;
        Ok(Self::Region(region, folder))
    }

    /// A new folder of the kernel's.
    pub fn in_folder(folder: PathBuf) -> Outcome<Self> {
        fs::create_dir(&folder).context(format_args!("make {}", folder.display()))?;
        Ok(Self::Folder(folder))
    }

    /// As programs name it.
    pub fn path(&self) -> &Path {
        match self {
            Self::Region(_, path) | Self::Folder(path) => path,
        }
    }

    /// Words before a program that writes here.
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::Region(region, _) => region.words(),
            Self::Folder(_) => Vec::new(),
        }
    }

    /// Names and sizes of the files here. The region is asked without interception, by `lifeboat ls`.
    pub fn list(&self, patience: Duration) -> Outcome<Vec<Listed>> {
        match self {
            Self::Region(region, path) => {
                let mount = region.mount.to_string_lossy();
                let mut command = Command::new(&region.command);
                command.args(["ls", "--json", "--name", &region.name, "--mount", &mount]).arg(path);
                let output = run::output_of(&mut command, patience)?;
                let json: Value = serde_json::from_str(&output).context("understand `lifeboat ls --json`")?;
                let mut files = Vec::new();
                collect_files(&json, &mut files);
                Ok(files)
            }
            Self::Folder(path) => {
                let entries = fs::read_dir(path).context(format_args!("read {}", path.display()))?.flatten();
                let files =
                    entries.filter_map(|e| Some((e.file_name().to_str()?.to_owned(), e.metadata().ok()?.len())));
                Ok(files.collect())
            }
        }
    }

    /// Removes the folder with everything in it.
    pub fn remove(self) -> Outcome {
        match self {
            Self::Region(region, path) => {
                let mount = region.mount.to_string_lossy();
                region.lifeboat(&[
                    "rm",
                    "--recursive",
                    "--name",
                    &region.name,
                    "--mount",
                    &mount,
                    &path.to_string_lossy(),
                ])?;
                Ok(())
            }
            Self::Folder(path) => fs::remove_dir_all(&path).context(format_args!("remove {}", path.display())),
        }
    }
}

/// Every object with a name (or path) and a size is a file.
fn collect_files(json: &Value, files: &mut Vec<Listed>) {
    match json {
        Value::Array(items) => items.iter().for_each(|item| collect_files(item, files)),
        Value::Object(fields) => {
            let name = fields.get("name").or_else(|| fields.get("path")).and_then(Value::as_str);
            if let (Some(name), Some(size)) = (name, fields.get("size").and_then(Value::as_u64)) {
                files.push((name.rsplit('/').next().unwrap_or(name).to_owned(), size));
            }
            fields.values().for_each(|value| collect_files(value, files));
        }
        _ => {}
    }
}
