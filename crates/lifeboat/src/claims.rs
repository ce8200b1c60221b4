//! Files that several nodes write: the folder in which each node claims the names that it writes.

use std::collections::HashSet;
use std::env;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use lifeboat_fs::{CLAIMS_LONGEST, ClaimTrouble, Claims, FileSystem};

use crate::failure::{Failure, USAGE, io_reason, reason, shown};
use crate::mount::Prefix;
use crate::output::say;

/// Instead of a folder: nothing is claimed.
pub const NONE: &str = "none";
/// The variable that names the folder.
const VARIABLE: &str = "LIFEBOAT_CLAIMS";

/// What was said of files that several nodes write.
#[derive(Debug)]
pub enum Claiming {
    /// They are refused, by claims in this folder.
    In(OsString),
    /// None are expected.
    Nowhere,
    /// Nothing was said.
    Unsaid,
}

impl Claiming {
    /// The word of the command line, where a folder that is missing is made; else that of the environment.
    pub fn choose(asked: Option<&Path>, prefix: &Prefix) -> Result<Claiming, Failure> {
        match asked {
            Some(asked) if asked.as_os_str() == NONE => Ok(Claiming::Nowhere),
            Some(asked) => folder(asked, prefix).map(Claiming::In),
            None => Ok(Claiming::inherited()),
        }
    }

    fn inherited() -> Claiming {
        match env::var_os(VARIABLE) {
            Some(word) if word == NONE => Claiming::Nowhere,
            Some(folder) if !folder.is_empty() => Claiming::In(folder),
            _ => Claiming::Unsaid,
        }
    }

    /// For the environment of a program.
    pub fn hand_on(&self, command: &mut Command) {
        match self {
            Claiming::In(folder) => command.env(VARIABLE, folder),
            Claiming::Nowhere => command.env(VARIABLE, NONE),
            Claiming::Unsaid => command.env_remove(VARIABLE),
        };
    }

    /// Who writes files on several nodes without a word of claims would get pieces of files, and nobody would notice: a
    /// job that has several nodes by its launcher's word is refused (one rank tells). True where no launcher says how
    /// many there are: then only the other nodes themselves can.
    pub fn demand(&self) -> Result<bool, Failure> {
        match (self, nodes()) {
            (Claiming::Unsaid, None) => Ok(true),
            (Claiming::Unsaid, Some(nodes @ 2..)) => Err(refuse(nodes)),
            _ => Ok(false),
        }
    }
}

/// The folder `asked`, made if there is none.
fn folder(asked: &Path, prefix: &Prefix) -> Result<OsString, Failure> {
    let bad = |why: &str| Failure::usage(format_args!("--claims {}: {why}", shown(asked.as_os_str().as_bytes())));
    let absolute = std::path::absolute(asked).map_err(|error| bad(&io_reason(&error)))?;
    if prefix.strip(absolute.as_os_str().as_bytes()).is_some() {
        return Err(bad("lies below the mount, which is this node's own; name a folder that all nodes see"));
    }
    match std::fs::DirBuilder::new().mode(0o700).create(&absolute) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists && absolute.is_dir() => {}
        Err(error) => return Err(bad(&io_reason(&error))),
    }
    let absolute = absolute.canonicalize().map_err(|error| bad(&io_reason(&error)))?;
    let metadata = absolute.metadata().map_err(|error| bad(&io_reason(&error)))?;
    if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
        return Err(bad(
            "belongs to another user or others may write there, who could take names away or give them out: \
                        name a folder of your own that is closed to others (chmod go-w)",
        ));
    }
    if absolute.as_os_str().len() > CLAIMS_LONGEST {
        return Err(bad("is too long: at most 512 bytes"));
    }
    Ok(absolute.into_os_string())
}

/// The file system with names claimed, if the environment says so.
pub fn claiming(files: FileSystem) -> Result<FileSystem, Failure> {
    let Claiming::In(folder) = Claiming::inherited() else { return Ok(files) };
    let node = rustix::system::uname();
    let claims = Claims::new(folder.as_bytes(), node.nodename().to_bytes(), tell)
        .map_err(|_| Failure::usage(format_args!("{VARIABLE} is longer than {CLAIMS_LONGEST} bytes")))?;
    Ok(files.with_claims(claims))
}

fn tell(path: &[u8], trouble: &ClaimTrouble<'_>) {
    let path = shown(path);
    match trouble {
        ClaimTrouble::TakenBy(node) => {
            say(format_args!("{path} is refused: node {} writes a file of this name, too", shown(node)));
        }
        ClaimTrouble::Folder(errno) => say(format_args!(
            "{path}: whether another node writes it cannot be said: {VARIABLE} answers {}",
            reason(*errno)
        )),
    }
}

/// How many nodes the launcher says that this job has, if it says so.
fn nodes() -> Option<u64> {
    let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
    for name in ["SLURM_STEP_NUM_NODES", "SLURM_JOB_NUM_NODES", "SLURM_NNODES", "FLUX_JOB_NNODES"] {
        if let Some(count) = number(name) {
            return Some(count);
        }
    }
    // Ranks of the job and ranks here: of MPICH's launcher, of Open MPI's, of PyTorch's.
    for (all, here) in [
        ("PMI_SIZE", "MPI_LOCALNRANKS"),
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        ("WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    ] {
        if let (Some(all), Some(here @ 1..)) = (number(all), number(here)) {
            return Some(all.div_ceil(here));
        }
    }
    // PBS, Cobalt and Grid Engine have a file that begins each line with a host; LSF a variable of hosts and counts.
    let hosts = |text: String| text.lines().filter_map(host_of_line).collect::<HashSet<_>>().len() as u64;
    for name in ["PBS_NODEFILE", "COBALT_NODEFILE", "PE_HOSTFILE"] {
        if let Some(text) = env::var_os(name).and_then(|path| std::fs::read_to_string(path).ok()) {
            return Some(hosts(text));
        }
    }
    env::var("LSB_MCPU_HOSTS").ok().map(|list| list.split_whitespace().count().div_ceil(2) as u64)
}

fn host_of_line(line: &str) -> Option<String> {
    line.split_whitespace().next().map(str::to_owned)
}

fn refuse(nodes: u64) -> Failure {
    let ranks = ["SLURM_PROCID", "FLUX_TASK_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "RANK"];
    if ranks.iter().find_map(|name| env::var(name).ok()).is_some_and(|rank| rank != "0") {
        return Failure { code: USAGE, line: String::new() };
    }
    Failure::usage(format_args!(
        "this job has {nodes} nodes, each with files of its own, and a file that several of them write would end in pieces: \
         name a folder that all nodes see with `--claims DIR`, which refuses such files, or say `--claims none`"
    ))
}
