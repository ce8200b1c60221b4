//! The command line: the one table from which parsing, help, man pages and the command's page are made.

mod execution;
mod measuring;
mod mounting;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use lifeboat_region::carrier;
use lifeboat_region::place::RegionName;

use crate::check_program::CheckProgramArguments;
use crate::mount;
use crate::size;

pub use execution::{ClaimsArguments, ExecArguments, KeepWordArguments};
pub use measuring::{BenchArguments, BenchWorkerArguments};
pub use mounting::{MountArguments, ServeMountArguments, UnmountArguments};

/// The region that is meant when no name is given.
pub const DEFAULT_NAME: &str = "default";

const ABOUT: &str = "Files in memory that outlive the process.

A region is a block of memory with files in it. `lifeboat exec` runs any program with the region's files under a mount
prefix; they stay when the program ends or is killed, until the region is removed or the machine restarts. The other
commands work on the region directly.";

const AFTER: &str =
    "Region: --name, else the one of the surrounding `lifeboat exec` ($LIFEBOAT_REGION), else `default`.
Mount prefix: --mount, else $LIFEBOAT_MOUNT, else /lifeboat for root and /tmp/lifeboat-UID for others.
Instructions for copying and checksums: the best of the machine; $LIFEBOAT_KERNELS (scalar, avx2, avx512) limits them.
Folder for claims of names: --claims of `exec` and `mount`, else $LIFEBOAT_CLAIMS, else none.
Folder for word to other nodes: $LIFEBOAT_NODES (or `none`), else lifeboat/nodes in $XDG_STATE_HOME or ~/.local/state where
that is not on a disk of this node alone.

Exit codes: 0 done; 1 the operation failed; 2 wrong command line; 3 the region is missing or was refused;
4 and 5 see `check-program`; 126 the program of `exec` cannot be run; 127 it was not found; after that the program's own code.

Example:
  lifeboat exec --size 1GiB -- sh -c 'date > /lifeboat/now'
  lifeboat cat /lifeboat/now";

/// Everything on the command line.
#[derive(Debug, Parser)]
#[command(name = "lifeboat", version, about = "Files in memory that outlive the process", long_about = ABOUT)]
#[command(after_help = AFTER, subcommand_required = true, arg_required_else_help = true)]
#[command(disable_help_subcommand = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create, list, examine and remove regions
    #[command(subcommand)]
    Region(RegionCommand),
    /// Run a program with the region's files under the mount prefix
    #[command(after_help = execution::EXEC_HELP)]
    Exec(ExecArguments),
    /// Mount a region for every program, also those that no library can be loaded into
    #[command(after_help = mounting::MOUNT_HELP)]
    Mount(MountArguments),
    /// Undo a mount
    #[command(after_help = mounting::UNMOUNT_HELP)]
    Unmount(UnmountArguments),
    /// List files
    #[command(after_help = "Example:\n  lifeboat ls -l /lifeboat/ckpt")]
    Ls(LsArguments),
    /// Show everything about files
    #[command(after_help = "Example:\n  lifeboat stat --json /lifeboat/ckpt/step.100")]
    Stat(PathsArguments),
    /// Write files to standard output
    #[command(after_help = "Example:\n  lifeboat cat /lifeboat/log | tail")]
    Cat(CatArguments),
    /// Copy files into, out of or within the region
    #[command(after_help = "A path below the mount prefix, or one that begins with a colon (`:ckpt/a`), is in the \
region; every other one is outside. One of both must be in the region.\n\nExample:\n  lifeboat cp -r /lifeboat/ckpt /scratch/saved\n  lifeboat cp input.dat :input.dat")]
    Cp(CpArguments),
    /// Remove files
    #[command(after_help = "Example:\n  lifeboat rm -r /lifeboat/ckpt.old")]
    Rm(RmArguments),
    /// Show how much space files take
    #[command(after_help = "Example:\n  lifeboat du -s /lifeboat/ckpt")]
    Du(DuArguments),
    /// Show how full the region is
    #[command(after_help = "Example:\n  lifeboat df --json")]
    Df(DfArguments),
    /// Check the contents of files against their checksums
    #[command(after_help = "Example:\n  lifeboat verify /lifeboat/ckpt")]
    Verify(VerifyArguments),
    /// Seal files: the checksums of all blocks become final
    #[command(
        after_help = "A file that is open for writing cannot be sealed; opening a sealed file for writing takes the seal off.\n\nExample:\n  lifeboat seal /lifeboat/ckpt/step.100"
    )]
    Seal(PathsArguments),
    /// Say which of a program's file calls would be served
    #[command(
        after_help = "What is served is read from the interception library. Exit codes: 0 every call found is served; 4 some are not; 5 the program \
does not see the mount (needs FUSE); 1 it cannot be checked.\n\nExample:\n  lifeboat check-program ./solver"
    )]
    CheckProgram(CheckProgramArguments),
    /// Measure what Lifeboat costs on this machine, beside tmpfs
    #[command(after_help = measuring::BENCH_HELP)]
    Bench(BenchArguments),
    /// Write the command's page, man pages or shell completions
    #[command(hide = true)]
    Documents(DocumentsArguments),
    /// Keep the memory of a region; started by `region create`
    #[command(hide = true)]
    Keeper(KeeperArguments),
    /// Serve a mount; started by `mount`
    #[command(hide = true)]
    ServeMount(ServeMountArguments),
    /// Do one kind of work when told to; started by `bench`
    #[command(hide = true)]
    BenchWorker(BenchWorkerArguments),
    /// Keep a word for other nodes true; started by `exec` and `mount`
    #[command(hide = true)]
    KeepWord(KeepWordArguments),
}

/// Commands on whole regions.
#[derive(Debug, Subcommand)]
pub enum RegionCommand {
    /// Reserve memory for a new region
    #[command(after_help = "Example:\n  lifeboat region create scratch --size 4GiB")]
    Create(CreateArguments),
    /// List the regions of this user and what each survives
    #[command(after_help = "Example:\n  lifeboat region list")]
    List(ListArguments),
    /// Show everything about a region
    #[command(after_help = "Example:\n  lifeboat region info --json")]
    Info(OneRegionArguments),
    /// Check a region's structure, and free space that killed processes left
    #[command(
        after_help = "Walks everything: superblocks, tables of processes and locks, space, inodes, maps, directories, names, checksum words, extended \
attributes. Each finding says what is wrong and what --repair does about it: bits that can be flipped back, counts, what nobody has, names of what is \
gone; files without a name get one in lost+found. What has no single right answer is named, and left. (`verify` compares contents with checksums.)\n\n\
With --json: {name, clean, inodes, names, reclaimed, findings, repaired}, each finding {kind, inode, path, offset, repairable, remedy, text}.\n\
Exit codes: 0 clean (or all was repaired); 1 damage was found, or it could not be checked; 3 the region is missing or was refused.\n\n\
Example:\n  lifeboat region check scratch\n  lifeboat region check --repair --json scratch"
    )]
    Check(CheckArguments),
    /// Remove a region with everything in it
    #[command(after_help = "Example:\n  lifeboat region remove scratch")]
    Remove(RemoveArguments),
}

/// Where regions are kept.
#[derive(Args, Clone, Debug, Default)]
pub struct PlaceArguments {
    /// Directory of this user's regions [default: /dev/shm/lifeboat-UID]
    #[arg(long, value_name = "DIR")]
    pub place: Option<PathBuf>,
}

/// Which region.
#[derive(Args, Clone, Debug)]
pub struct RegionArguments {
    /// Name of the region
    #[arg(long, value_name = "NAME", value_parser = name_parser())]
    pub name: Option<RegionName>,
    /// Where regions are kept.
    #[command(flatten)]
    pub place: PlaceArguments,
}

/// Which region, and under which prefix its files are seen.
#[derive(Args, Clone, Debug)]
pub struct FilesArguments {
    /// Which region.
    #[command(flatten)]
    pub region: RegionArguments,
    /// Prefix under which programs see the files; paths are taken with or without it
    #[arg(long, value_name = "DIR", value_parser = mount_parser())]
    pub mount: Option<mount::Prefix>,
}

/// `region create`.
#[derive(Args, Debug)]
pub struct CreateArguments {
    /// Name of the new region
    #[arg(value_name = "NAME", default_value = DEFAULT_NAME, value_parser = name_parser())]
    pub name: RegionName,
    /// What it is like.
    #[command(flatten)]
    pub new: NewRegionArguments,
    /// Where regions are kept.
    #[command(flatten)]
    pub place: PlaceArguments,
    /// Report as JSON
    #[arg(long)]
    pub json: bool,
}

/// What a new region is like.
#[derive(Args, Debug)]
pub struct NewRegionArguments {
    /// Memory to reserve
    #[arg(long, value_name = "SIZE", value_parser = size::parse_argument, allow_hyphen_values = true, help = size_help())]
    pub size: Option<u64>,
    /// What the memory lies in: auto, tmpfs (root, huge pages), shm (everybody), keeper (everybody, huge pages while a process keeps it), hugetlbfs (root, pages set aside, no mmap of files) or keeper-hugetlb (everybody, pages set aside while a process keeps them, no mmap of files)
    #[arg(long, value_name = "CARRIER", default_value = "auto", value_parser = carrier_parser)]
    pub carrier: CarrierChoice,
}

/// `region list`.
#[derive(Args, Debug)]
pub struct ListArguments {
    /// Where regions are kept.
    #[command(flatten)]
    pub place: PlaceArguments,
    /// Report as JSON
    #[arg(long)]
    pub json: bool,
}

/// `region check`.
#[derive(Args, Debug)]
pub struct CheckArguments {
    /// Repair what has exactly one right answer; nobody may use the region
    #[arg(long)]
    pub repair: bool,
    /// Which region.
    #[command(flatten)]
    pub region: OneRegionArguments,
}

/// `region info`.
#[derive(Args, Debug)]
pub struct OneRegionArguments {
    /// Name of the region [default: as for all commands]
    #[arg(value_name = "NAME", value_parser = name_parser())]
    pub name: Option<RegionName>,
    /// Where regions are kept.
    #[command(flatten)]
    pub place: PlaceArguments,
    /// Report as JSON
    #[arg(long)]
    pub json: bool,
}

/// `region remove`.
#[derive(Args, Debug)]
pub struct RemoveArguments {
    /// Name of the region
    #[arg(value_name = "NAME", value_parser = name_parser())]
    pub name: RegionName,
    /// Also while living processes use it
    #[arg(long)]
    pub force: bool,
    /// Where regions are kept.
    #[command(flatten)]
    pub place: PlaceArguments,
}

/// `ls`.
#[derive(Args, Debug)]
pub struct LsArguments {
    /// One line with all attributes for each file
    #[arg(short, long)]
    pub long: bool,
    /// List directories themselves, not their contents
    #[arg(short, long)]
    pub directory: bool,
    /// Which files.
    #[command(flatten)]
    pub paths: OptionalPathsArguments,
}

/// Paths, at least one.
#[derive(Args, Debug)]
pub struct PathsArguments {
    /// Files in the region, with or without the mount prefix
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<OsString>,
    /// Where the files are.
    #[command(flatten)]
    pub files: FilesArguments,
    /// Report as JSON
    #[arg(long)]
    pub json: bool,
}

/// Paths; none means everything.
#[derive(Args, Debug)]
pub struct OptionalPathsArguments {
    /// Files in the region, with or without the mount prefix [default: all]
    #[arg(value_name = "PATH")]
    pub paths: Vec<OsString>,
    /// Where the files are.
    #[command(flatten)]
    pub files: FilesArguments,
    /// Report as JSON
    #[arg(long)]
    pub json: bool,
}

/// `cat`.
#[derive(Args, Debug)]
pub struct CatArguments {
    /// Files in the region, with or without the mount prefix
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<OsString>,
    /// Where the files are.
    #[command(flatten)]
    pub files: FilesArguments,
}

/// `cp`.
#[derive(Args, Debug)]
pub struct CpArguments {
    /// Copy directories with everything below them
    #[arg(short, long)]
    pub recursive: bool,
    /// What to copy
    #[arg(value_name = "SOURCE")]
    pub source: OsString,
    /// Where to; an existing directory takes it under its own name
    #[arg(value_name = "DESTINATION")]
    pub destination: OsString,
    /// Where the files are.
    #[command(flatten)]
    pub files: FilesArguments,
}

/// `rm`.
#[derive(Args, Debug)]
pub struct RmArguments {
    /// Remove directories with everything below them
    #[arg(short, long)]
    pub recursive: bool,
    /// What is not there is no error
    #[arg(short, long)]
    pub force: bool,
    /// Files in the region, with or without the mount prefix
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<OsString>,
    /// Where the files are.
    #[command(flatten)]
    pub files: FilesArguments,
}

/// `du`.
#[derive(Args, Debug)]
pub struct DuArguments {
    /// Only the sum of each path
    #[arg(short, long)]
    pub summarize: bool,
    /// Which files.
    #[command(flatten)]
    pub paths: OptionalPathsArguments,
}

/// `df`.
#[derive(Args, Debug)]
pub struct DfArguments {
    /// Where the files are.
    #[command(flatten)]
    pub files: FilesArguments,
    /// Report as JSON
    #[arg(long)]
    pub json: bool,
}

/// `verify`.
#[derive(Args, Debug)]
pub struct VerifyArguments {
    /// Which files.
    #[command(flatten)]
    pub paths: OptionalPathsArguments,
}

/// `documents`.
#[derive(Args, Debug)]
pub struct DocumentsArguments {
    /// The command's page in Markdown, to standard output
    #[arg(long)]
    pub markdown: bool,
    /// Man pages, one for each command, into this directory
    #[arg(long, value_name = "DIR")]
    pub man: Option<PathBuf>,
    /// Completions for this shell, to standard output
    #[arg(long, value_name = "SHELL")]
    pub completions: Option<clap_complete::Shell>,
}

/// `keeper`.
#[derive(Args, Debug)]
pub struct KeeperArguments {
    /// Directory of the region
    #[arg(long, value_name = "DIR")]
    pub region: PathBuf,
    /// What the memory lies in
    #[arg(long, value_name = "CARRIER", value_parser = kept_parser)]
    pub carrier: KeptCarrier,
    /// Bytes to reserve
    #[arg(long, value_name = "BYTES")]
    pub size: u64,
    /// Do the work; without it, start a process that does and end
    #[arg(long)]
    pub stay: bool,
}

/// A carrier that needs a keeper.
#[derive(Clone, Copy)]
pub struct KeptCarrier(pub &'static dyn carrier::Carrier);

impl std::fmt::Debug for KeptCarrier {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.0.name())
    }
}

/// Which carrier a new region gets.
#[derive(Clone, Copy)]
pub enum CarrierChoice {
    /// The best that the caller may use.
    Auto,
    /// This one or none.
    Only(&'static dyn carrier::Carrier),
    /// This one, which needs a keeper process, or none.
    Kept(KeptCarrier),
}

impl std::fmt::Debug for CarrierChoice {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CarrierChoice::Auto => out.write_str("auto"),
            CarrierChoice::Only(carrier) => out.write_str(carrier.name()),
            CarrierChoice::Kept(carrier) => carrier.fmt(out),
        }
    }
}

fn size_help() -> String {
    format!("Memory to reserve: 512MiB, 1GiB, 2GB or bytes, rounded up to 2 MiB [default: {}]", size::DEFAULT_TEXT)
}

fn carrier_parser(text: &str) -> Result<CarrierChoice, String> {
    if text == "auto" {
        return Ok(CarrierChoice::Auto);
    }
    if let Ok(carrier) = kept_parser(text) {
        return Ok(CarrierChoice::Kept(carrier));
    }
    carrier::by_name(text.as_bytes()).map(CarrierChoice::Only).ok_or_else(|| {
        let all = carrier::CARRIERS.into_iter().chain(carrier::KEPT);
        let names: Vec<&str> = all.map(|carrier| carrier.name()).collect();
        format!("unknown carrier; take auto, {}", names.join(", "))
    })
}

fn kept_parser(text: &str) -> Result<KeptCarrier, String> {
    let found = carrier::KEPT.into_iter().find(|carrier| carrier.name() == text);
    found.map(KeptCarrier).ok_or_else(|| "a carrier without keeper".into())
}

fn name_parser() -> impl TypedValueParser<Value = RegionName> {
    OsStringValueParser::new().try_map(|text| {
        RegionName::new(text.as_bytes()).map_err(|why| format!("{why}; use 1 to 64 of A-Z a-z 0-9 . _ -"))
    })
}

fn mount_parser() -> impl TypedValueParser<Value = mount::Prefix> {
    OsStringValueParser::new().try_map(|text| mount::Prefix::new(text.as_bytes()))
}

/// Parses the command line; what clap has to say on several lines becomes one.
pub fn parse() -> Result<Arguments, crate::failure::Failure> {
    Arguments::try_parse().map_err(|error| {
        if !error.use_stderr() || error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            error.exit();
        }
        crate::failure::Failure::usage(one_line(&error.to_string()))
    })
}

/// The first paragraph of clap's text in one line, and where to read on.
fn one_line(text: &str) -> String {
    let first = text.split("\n\n").next().unwrap_or(text);
    let joined = first.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let message = joined.strip_prefix("error: ").unwrap_or(&joined);
    format!("{message} (`lifeboat --help` shows what there is)")
}

#[cfg(test)]
mod tests;
