//! The narrow place: an ordinary user in a memory cgroup of 512 MiB.

use crate::failure::{Context, Failure, Outcome};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

const LIMIT: u64 = 512 << 20;

/// This program, also when a build has meanwhile put another one in its place.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// How a command is confined.
#[derive(clap::Args)]
pub struct Options {
    /// Folder of the cgroup to join
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// User (and group) to become
    #[arg(long)]
    user: Option<u32>,
    /// The command
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

/// Joins the cgroup, becomes the user, and turns into the command.
pub fn execute(options: &Options) -> Outcome {
    if let Some(cgroup) = &options.cgroup {
        let file = cgroup.join("cgroup.procs");
        fs::write(&file, std::process::id().to_string()).context(format_args!("join {}", file.display()))?;
    }
    let Some((program, arguments)) = options.command.split_first() else {
        return Err(Failure::new("no command"));
    };
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(user) = options.user {
        // Started by root, this also drops the supplementary groups.
        command.uid(user).gid(user);
    }
    Err(command.exec()).context(format_args!("start {program}"))
}

/// A memory cgroup of our own; goes away with the value.
pub struct MemoryCgroup {
    folder: PathBuf,
    kills_file: &'static str,
}

/// Told from every other run, also of one in another pid namespace that has our number.
fn this_run() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        format!("{}-{:x}", std::process::id(), now.as_nanos() & 0xffff_ffff)
    })
}

impl MemoryCgroup {
    /// Version 1 or 2, wherever one can be made. The error says why there is none.
    pub fn make() -> Outcome<Self> {
        let mut why = String::from("no memory controller is mounted");
        for (parent, limit_file, kills_file) in places() {
            let folder = parent.join(format!("lifeboat-test-{}", this_run()));
            if let Err(error) = fs::create_dir(&folder) {
                why = format!("cannot make {}: {error}", folder.display());
                continue;
            }
            let made = Self { folder, kills_file };
            match fs::write(made.folder.join(limit_file), LIMIT.to_string()) {
                Ok(()) => return Ok(made),
                Err(error) => why = format!("cannot set {limit_file} in {}: {error}", made.folder.display()),
            }
        }
        Err(Failure::new(why))
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Lets a user make smaller ones within it, where version and kernel allow that.
    pub fn give_to(&self, user: u32) -> Outcome {
        for name in ["", "cgroup.procs", "tasks", "cgroup.threads", "cgroup.subtree_control"] {
            let file = self.folder.join(name);
            if file.exists() {
                let given = std::os::unix::fs::chown(&file, Some(user), Some(user));
                given.context(format_args!("give {} away", file.display()))?;
            }
        }
        Ok(())
    }

    /// How many of its processes the kernel killed for memory.
    pub fn kills(&self) -> u64 {
        let text = fs::read_to_string(self.folder.join(self.kills_file)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("xtask: left behind: {}", self.folder.display());
    }
}

/// Folders below which a cgroup with a memory limit may be made, with the names of its files.
fn places() -> Vec<(PathBuf, &'static str, &'static str)> {
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut places = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let memory = controllers.split(',').any(|name| name == "memory");
        let (kind, files) = match (memory, controllers.is_empty()) {
            (true, _) => ("cgroup", ("memory.limit_in_bytes", "memory.oom_control")),
            (_, true) => ("cgroup2", ("memory.max", "memory.events")),
            _ => continue,
        };
        let Some(mount) = mount_of(kind) else { continue };
        // Our own cgroup first. In version 2 one that holds processes cannot limit its children, but those above can.
        let own = mount.join(path.trim_start_matches('/'));
        let above = own.ancestors().take_while(|folder| folder.starts_with(&mount)).map(Path::to_path_buf);
        places.extend(above.filter(|folder| folder.is_dir()).map(|folder| (folder, files.0, files.1)));
    }
    places
}

fn mount_of(kind: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        let [_, point, type_, options, ..] = fields[..] else { return None };
        let fits = type_ == kind && (kind == "cgroup2" || options.split(',').any(|option| option == "memory"));
        fits.then(|| PathBuf::from(point))
    })
}

/// A number that no user has: not in /etc/passwd, without processes, without a region.
pub fn unused_user() -> Outcome<u32> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut used: BTreeSet<u32> = passwd.lines().filter_map(|line| line.split(':').nth(2)?.parse().ok()).collect();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        used.extend(entry.metadata().map(|process| process.uid()));
    }
    (60000..61000)
        .find(|user| !used.contains(user) && !Path::new(&format!("/dev/shm/lifeboat-{user}")).exists())
        .ok_or_else(|| Failure::new("no unused user number between 60000 and 61000"))
}

/// A folder for everything that the tests run from and write to; goes away with the value.
pub struct Stage {
    folder: PathBuf,
}

impl Stage {
    /// An empty folder that everyone may read.
    pub fn make(name: &str) -> Outcome<Self> {
        let folder = Self::path(name);
        fs::DirBuilder::new().mode(0o755).create(&folder).context(format_args!("make {}", folder.display()))?;
        let stage = Self { folder };
        fs::set_permissions(&stage.folder, fs::Permissions::from_mode(0o755)).context("open the folder to all")?;
        Ok(stage)
    }

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("lifeboat-{name}-{}", this_run()))
    }

    /// What is still there of a stage of this name that is gone.
    pub fn leftover(name: &str) -> Option<PathBuf> {
        Some(Self::path(name)).filter(|folder| folder.exists())
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Copies a program into it, to be run by anyone; answers where it now is.
    pub fn copy(&self, program: &Path) -> Outcome<PathBuf> {
        let name = program.file_name().ok_or_else(|| Failure::new("a program without a name"))?;
        let target = self.folder.join(name);
        fs::copy(program, &target).context(format_args!("copy {} to {}", program.display(), target.display()))?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).context("make a copy executable")?;
        Ok(target)
    }

    /// Where [`Stage::copy_package`] puts a package.
    pub fn package(&self, folder: &Path) -> PathBuf {
        self.folder.join("packages").join(folder.file_name().unwrap_or_default())
    }

    /// Copies what tests read beside their source: a package's `programs`. Does nothing the second time.
    pub fn copy_package(&self, folder: &Path) -> Outcome {
        let (source, target) = (folder.join("programs"), self.package(folder).join("programs"));
        if target.exists() || !source.exists() { Ok(()) } else { copy_folder(&source, &target) }
    }

    /// A folder in it that belongs to a user alone.
    pub fn folder_of(&self, name: &str, user: Option<u32>) -> Outcome<PathBuf> {
        let folder = self.folder.join(name);
        fs::DirBuilder::new().mode(0o700).create(&folder).context(format_args!("make {}", folder.display()))?;
        std::os::unix::fs::chown(&folder, user, user).context(format_args!("give {} away", folder.display()))?;
        Ok(folder)
    }
}

/// Copies a folder with all below it, readable by everyone.
fn copy_folder(source: &Path, target: &Path) -> Outcome {
    fs::create_dir_all(target).context(format_args!("make {}", target.display()))?;
    for entry in fs::read_dir(source).context(format_args!("list {}", source.display()))? {
        let file = entry.context(format_args!("list {}", source.display()))?.path();
        let copy = target.join(file.file_name().unwrap_or_default());
        if file.is_dir() {
            copy_folder(&file, &copy)?;
            continue;
        }
        fs::copy(&file, &copy).context(format_args!("copy {}", file.display()))?;
        // Scripts stay what can be run.
        let mode = fs::metadata(&file).context(format_args!("look at {}", file.display()))?.permissions().mode();
        let readable = if mode & 0o111 == 0 { 0o644 } else { 0o755 };
        fs::set_permissions(&copy, fs::Permissions::from_mode(readable)).context("make a copy readable")?;
    }
    Ok(())
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("xtask: left behind: {}: {error}", self.folder.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_cgroup_really_limits() {
        let cgroup = match MemoryCgroup::make() {
            Ok(cgroup) => cgroup,
            Err(failure) => return println!("skipped: confinement: {failure}"),
        };
        // `tail` keeps a line without end in memory.
        let script = "echo $$ > \"$0/cgroup.procs\" && head -c 700M /dev/zero | tail -n 1 | wc -c";
        let output = Command::new("sh").args(["-c", script]).arg(cgroup.folder()).output().expect("sh runs");
        assert_ne!(String::from_utf8_lossy(&output.stdout).trim(), "734003200");
        assert!(cgroup.kills() > 0);
        let folder = cgroup.folder().to_owned();
        drop(cgroup);
        assert!(!folder.exists());
    }

    #[test]
    fn nothing_stays_of_a_stage() {
        let stage = Stage::make("stage-test").expect("a folder");
        let folder = stage.folder().to_owned();
        stage.folder_of("home", None).expect("a folder in it");
        stage.copy(Path::new("/bin/true")).expect("a copy");
        drop(stage);
        assert!(!folder.exists());
    }
}
