//! `exec`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::{FilesArguments, NewRegionArguments};

pub(super) const EXEC_HELP: &str = "The region is created if there is none of that name. The program takes the place of \
this process: signals and exit code are its own.

Each node has a region of its own. With --claims, a name is claimed in DIR before a file is made or opened for writing under \
it; whoever comes second, from another region, is refused (EREMOTE) with one line that names the other node. Files \
written by several nodes are not served yet. Where the launcher says that a job has several nodes, --claims must be given \
(--claims none: nothing is claimed). Commands that are started by hand leave word for other nodes in the home directory, if \
that is not on a disk of this node alone; the second node with the same mount and region is refused, unless it has --claims.

Examples:
  lifeboat exec --size 2GiB --mount /lifeboat -- ./solver --out /lifeboat/ckpt
  mpiexec -ppn 2 lifeboat exec --claims /scratch/job17/claims -- ./solver --out /lifeboat/ckpt";

/// What becomes of files that several nodes write.
#[derive(Args, Debug)]
pub struct ClaimsArguments {
    /// Refuse files that another node of the job writes, too: a folder that all nodes see, a fresh one for each run; or `none`
    #[arg(id = "claims", long = "claims", value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

/// `keep-word`.
#[derive(Args, Debug)]
pub struct KeepWordArguments {
    /// The word
    #[arg(long, value_name = "FILE")]
    pub word: PathBuf,
    /// Directory of the region
    #[arg(long, value_name = "DIR")]
    pub region: PathBuf,
    /// The process that runs
    #[arg(long, value_name = "PID")]
    pub pid: i32,
    /// Be the process that stays
    #[arg(long)]
    pub stay: bool,
}

/// `exec`.
#[derive(Args, Debug)]
pub struct ExecArguments {
    /// Where the files are.
    #[command(flatten)]
    pub files: FilesArguments,
    /// What it is like.
    #[command(flatten)]
    pub new: NewRegionArguments,
    /// Also serve system calls that the program makes past libc, and say where they are made
    #[arg(long)]
    pub trap_raw: bool,
    /// Map sealed data read-only in the program, and close the region to it between calls where the processor has protection keys
    #[arg(long)]
    pub guard: bool,
    /// Make checksums when data is sealed, and not while it is written: faster, and bytes that change before are not noticed
    #[arg(long)]
    pub checksums_at_seal: bool,
    /// Files that several nodes write.
    #[command(flatten)]
    pub claims: ClaimsArguments,
    /// The program and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}
