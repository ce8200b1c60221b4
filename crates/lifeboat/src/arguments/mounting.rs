//! `mount` and `unmount`.

use std::path::PathBuf;

use clap::Args;
use lifeboat_region::place::RegionName;

use super::{ClaimsArguments, PlaceArguments, mount, mount_parser, name_parser};

pub(super) const MOUNT_HELP: &str =
    "The kernel then shows the region's files under DIR through FUSE: to static binaries, \
Go programs and set-uid programs, for `exec` and `dlopen` of what lies there. Programs under `lifeboat exec` with the \
same prefix go on using the library. The region must exist. Ordinary users need `fusermount3` (package fuse3). Of \
several nodes and of --claims, what `exec --help` says is true here, too.

Example:
  lifeboat mount
  lifeboat mount --name scratch /mnt/scratch";

pub(super) const UNMOUNT_HELP: &str =
    "The process that served the mount ends, and a directory that was made for it goes. \
The region stays. A mount whose process has died is cleared away too.

Example:
  lifeboat unmount /mnt/scratch";

/// `mount`.
#[derive(Args, Debug)]
pub struct MountArguments {
    /// Where to [default: the mount prefix]
    #[arg(value_name = "DIR", value_parser = mount_parser())]
    pub directory: Option<mount::Prefix>,
    /// Name of the region
    #[arg(long, visible_alias = "region", value_name = "NAME", value_parser = name_parser())]
    pub name: Option<RegionName>,
    /// Where regions are kept.
    #[command(flatten)]
    pub place: PlaceArguments,
    /// Files that several nodes write.
    #[command(flatten)]
    pub claims: ClaimsArguments,
    /// Stay until the mount is undone; SIGINT and SIGTERM undo it
    #[arg(long)]
    pub foreground: bool,
}

/// `unmount`.
#[derive(Args, Debug)]
pub struct UnmountArguments {
    /// What to unmount [default: the mount prefix]
    #[arg(value_name = "DIR", value_parser = mount_parser())]
    pub directory: Option<mount::Prefix>,
    /// Also while it is in use: taken out of sight at once, served until the last file there is closed
    #[arg(long)]
    pub lazy: bool,
}

/// `serve-mount`.
#[derive(Args, Debug)]
pub struct ServeMountArguments {
    /// Directory of the region
    #[arg(long, value_name = "DIR")]
    pub region: PathBuf,
    /// Where to mount it
    #[arg(long, value_name = "DIR", value_parser = mount_parser())]
    pub at: mount::Prefix,
    /// In a session of its own, telling the starter on standard output
    #[arg(long)]
    pub alone: bool,
}
