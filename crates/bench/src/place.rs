//! The ground on which the work is done: a region of its own, and the file systems beside it.
//!
//! As root all of it lies in a mount namespace of this process and goes with it, however it ends.

use crate::measure::{Arm, Place};
use crate::worker::Job;
use serde_json::Value;
use std::ffi::CString;
use std::fs::{self, DirBuilder};
use std::io::{Error, Result};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::ptr::null;

const REGION: &str = "bench";
/// Its pages have 4 KiB.
const SMALL_PAGES: &str = "bench-small-pages";
/// The smallest.
const SMALL_REGION: &str = "bench-small";
/// As much as the smallest region has.
const SMALLEST: u64 = lifeboat_region::layout::SMALLEST;

/// What [`Ground::prepare`] is told.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The `lifeboat` command.
    pub program: PathBuf,
    /// Arguments of `lifeboat` for a worker, before the job's.
    pub worker: &'static str,
    /// Bytes of the region.
    pub size: u64,
    /// A folder on a disk, if one is to be compared with.
    pub disk: Option<PathBuf>,
    /// Whether there is to be a region with pages of 4 KiB, too.
    pub small_pages: bool,
    /// Whether there is to be a small region, too.
    pub small_region: bool,
}

/// Where work can be done. What was made for it goes when this is dropped.
#[derive(Debug)]
pub struct Ground {
    wanted: Wanted,
    /// Everything that was made.
    folder: PathBuf,
    disk: Option<PathBuf>,
    is_root: bool,
    has_small_pages: bool,
    /// What the region says of itself.
    region: Value,
}

fn mount_tmpfs(at: &Path, options: &str) -> Result<()> {
    let text = |text: &[u8]| CString::new(text).map_err(Error::other);
    let (at, options) = (text(at.as_os_str().as_bytes())?, text(options.as_bytes())?);
    // SAFETY: all are C strings that live until the call returns.
    let answer =
        unsafe { libc::mount(c"lifeboat-bench".as_ptr(), at.as_ptr(), c"tmpfs".as_ptr(), 0, options.as_ptr().cast()) };
    if answer == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// What is mounted from here on is seen by this process and its children only.
fn hide_mounts() -> Result<()> {
    // SAFETY: a namespace of its own for this process, which has one thread; then a change of that namespace's root.
    let answer = unsafe {
        match libc::unshare(libc::CLONE_NEWNS) {
            0 => libc::mount(null(), c"/".as_ptr(), null(), libc::MS_REC | libc::MS_PRIVATE, null()),
            failed => failed,
        }
    };
    if answer == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

fn finished(mut command: Command) -> Result<Output> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(output);
    }
    Err(Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn make(folder: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(folder)
}

impl Ground {
    /// Makes the region, and mounts what may be mounted.
    pub fn prepare(wanted: Wanted) -> Result<Ground> {
        // SAFETY: the call cannot fail.
        let is_root = unsafe { libc::geteuid() } == 0;
        let folder = PathBuf::from(format!("/dev/shm/lifeboat-bench-{}", std::process::id()));
        if is_root {
            hide_mounts()?;
        }
        make(&folder)?;
        let mut ground = Ground { wanted, folder, disk: None, is_root, has_small_pages: false, region: Value::Null };
        if is_root {
            // Everything else lies in it, so that nothing stays behind.
            mount_tmpfs(&ground.folder, "mode=0700")?;
        }
        for name in ["regions", "tmpfs", "huge"] {
            make(&ground.folder.join(name))?;
        }
        if is_root {
            mount_tmpfs(&ground.folder.join("tmpfs"), "mode=0700,huge=never")?;
            mount_tmpfs(&ground.folder.join("huge"), "mode=0700,huge=always")?;
        }
        if let Some(disk) = &ground.wanted.disk {
            let folder = disk.join(format!("lifeboat-bench-{}", std::process::id()));
            make(&folder)?;
            ground.disk = Some(folder);
        }
        let size = ground.wanted.size.to_string();
        ground.lifeboat(&["region", "create", REGION, "--size", &size])?;
        ground.region = ground.info(REGION)?;
        if ground.wanted.small_region {
            ground.lifeboat(&["region", "create", SMALL_REGION, "--size", &SMALLEST.to_string()])?;
        }
        if ground.wanted.small_pages {
            ground.has_small_pages = ground.create_with_small_pages(&size)?;
        }
        Ok(ground)
    }

    fn info(&self, region: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.lifeboat(&["region", "info", region, "--json"])?.stdout)?)
    }

    /// False where every file gets large ones: figures would be of something else.
    fn create_with_small_pages(&self, size: &str) -> Result<bool> {
        let mut command = self.words(&["region", "create", SMALL_PAGES, "--size", size, "--carrier", "shm"]);
        let no_huge_pages = || {
            // SAFETY: changes a setting of the child alone, before it executes its program.
            let answer = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
            if answer == 0 { Ok(()) } else { Err(Error::last_os_error()) }
        };
        // SAFETY: a system call, and nothing else.
        unsafe { command.pre_exec(no_huge_pages) };
        finished(command)?;
        Ok(self.info(SMALL_PAGES)?["huge_bytes"].as_u64() == Some(0))
    }

    /// What the region says of itself.
    pub fn region(&self) -> &Value {
        &self.region
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.wanted.program);
        // A surrounding `exec` means another region.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(b"LIFEBOAT_")) {
            if name != "LIFEBOAT_PRELOAD" && name != "LIFEBOAT_KERNELS" {
                command.env_remove(name);
            }
        }
        command.env_remove("LD_PRELOAD").env("LIFEBOAT_NODES", "none").args(words);
        command
    }

    fn words(&self, words: &[&str]) -> Command {
        let (verbs, rest) = words.split_at(2);
        let mut command = self.command(verbs);
        command.arg("--place").arg(self.regions()).args(rest).stdin(Stdio::null());
        command
    }

    fn lifeboat(&self, words: &[&str]) -> Result<Output> {
        finished(self.words(words))
    }

    fn regions(&self) -> PathBuf {
        self.folder.join("regions")
    }

    fn mount(&self) -> PathBuf {
        self.folder.join("mount")
    }

    /// Why nothing is measured in this place.
    pub fn refusal(&self, place: Place) -> Option<&'static str> {
        match place {
            Place::TmpfsHuge if !self.is_root => Some("only root can mount it"),
            Place::Disk if self.disk.is_none() => Some("no disk was named"),
            Place::SmallPages if !self.has_small_pages => Some("files get large pages here"),
            _ => None,
        }
    }

    /// The command of a worker.
    pub fn worker(&self, arm: &Arm, bytes: usize, operations: usize) -> Command {
        let folder = match arm.place {
            Place::Mount | Place::AtSeal | Place::SmallPages | Place::SmallRegion => self.mount(),
            Place::Tmpfs | Place::Bare | Place::Inner | Place::InnerSmall => self.folder.join("tmpfs"),
            Place::TmpfsHuge => self.folder.join("huge"),
            Place::Disk => self.disk.clone().unwrap_or_default(),
        };
        let region = match arm.place {
            Place::Mount | Place::AtSeal => Some(REGION),
            Place::SmallPages => Some(SMALL_PAGES),
            Place::SmallRegion => Some(SMALL_REGION),
            Place::Inner | Place::InnerSmall => None,
            Place::Tmpfs | Place::TmpfsHuge | Place::Disk | Place::Bare => None,
        };
        let mut command = match region {
            Some(region) => {
                let mut command = self.command(&["exec", "--name", region, "--claims", "none"]);
                if arm.place == Place::AtSeal {
                    command.arg("--checksums-at-seal");
                }
                command.arg("--place").arg(self.regions()).arg("--mount").arg(&folder).arg("--");
                command.arg(&self.wanted.program);
                command
            }
            None => self.command(&[]),
        };
        let linked_with = match arm.place {
            Place::Inner => Some(REGION),
            Place::InnerSmall => Some(SMALL_REGION),
            _ => None,
        };
        if let Some(region) = linked_with {
            command.env("LIFEBOAT_REGION", self.regions().join(region));
        }
        let job = Job { task: arm.task.to_owned(), folder, bytes, operations };
        command.arg(self.wanted.worker).args(job.arguments());
        command
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let others = [(self.wanted.small_pages, SMALL_PAGES), (self.wanted.small_region, SMALL_REGION)];
        let made = others.into_iter().filter(|(made, _)| *made).map(|(_, region)| region);
        for region in made.chain([REGION]) {
            let _ = self.lifeboat(&["region", "remove", "--force", region]);
        }
        if let Some(disk) = &self.disk {
            let _ = fs::remove_dir_all(disk);
        }
        if self.is_root
            && let Ok(at) = CString::new(self.folder.as_os_str().as_bytes())
        {
            // SAFETY: a C string. What is mounted below goes with it.
            unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
