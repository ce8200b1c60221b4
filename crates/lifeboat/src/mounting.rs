//! `lifeboat mount` and `lifeboat unmount`: the region for programs that no library can be loaded into.
//!
//! The process that serves a mount has no terminal and no parent. Its starter reads one line from its standard output:
//! `ready`, or `refused CODE LINE`.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lifeboat_fs::FileSystem;
use lifeboat_fuse::{MountError, UnmountError, UnmountMode};
use lifeboat_region::carrier::keeper::keep_descriptors_from_children;
use lifeboat_region::place::RegionDirectory;

use crate::arguments::{MountArguments, ServeMountArguments, UnmountArguments};
use crate::background::{be_called, leave_terminal, own_command};
use crate::claims::{Claiming, claiming};
use crate::failure::{Failure, io_reason, reason, shown};
use crate::mount::Prefix;
use crate::other_nodes;
use crate::output::say;
use crate::target::{attach, region_directory};

/// Runs `lifeboat mount`.
pub fn mount(arguments: &MountArguments) -> Result<(), Failure> {
    let prefix = Prefix::choose(arguments.directory.as_ref())?;
    let directory = region_directory(arguments.name.as_ref(), &arguments.place)?;
    let claiming = Claiming::choose(arguments.claims.directory.as_deref(), &prefix)?;
    let mut server = server(&directory, &prefix, &claiming);
    if arguments.foreground {
        let error = server.exec();
        return Err(Failure::operation(format_args!("cannot start a server: {}", io_reason(&error))));
    }
    let wrong =
        |error: std::io::Error| Failure::operation(format_args!("cannot start a server: {}", io_reason(&error)));
    server.arg("--alone");
    keep_descriptors_from_children();
    let mut child = server.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(wrong)?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line).map_err(wrong)?;
    }
    match line.trim_end().splitn(3, ' ').collect::<Vec<_>>()[..] {
        ["ready"] => Ok(()),
        ["refused", code, line] => {
            let _ = child.wait();
            Err(Failure { code: code.parse().unwrap_or(crate::failure::OPERATION), line: line.to_owned() })
        }
        _ => {
            let status = child.wait().map_err(wrong)?;
            Err(Failure::operation(format_args!("the server ended before the mount stood ({status})")))
        }
    }
}

fn server(directory: &RegionDirectory, prefix: &Prefix, claiming: &Claiming) -> Command {
    let mut command = own_command("serve-mount");
    command.arg("--region").arg(OsStr::from_bytes(directory.path().as_bytes()));
    command.arg("--at").arg(OsStr::from_bytes(prefix.as_bytes()));
    claiming.hand_on(&mut command);
    command
}

/// Runs `lifeboat serve-mount`.
pub fn serve(arguments: &ServeMountArguments) -> Result<(), Failure> {
    if !arguments.alone {
        return serve_region(arguments, || {});
    }
    leave_terminal();
    serve_region(arguments, || {
        let mut out = std::io::stdout();
        // A starter that has gone meanwhile has no use for the line; the mount stands all the same.
        let _ = writeln!(out, "ready").and_then(|()| out.flush());
        leave_standard_output();
    })
    .map_err(|failure| {
        println!("refused {} {}", failure.code, failure.line);
        Failure { code: failure.code, line: String::new() }
    })
}

/// The starter waits for the end of its pipe, and nobody reads what a server says later.
fn leave_standard_output() {
    if let Ok(nowhere) = rustix::fs::open(c"/dev/null", rustix::fs::OFlags::WRONLY, rustix::fs::Mode::empty()) {
        let _ = rustix::stdio::dup2_stdout(&nowhere);
    }
}

fn serve_region(arguments: &ServeMountArguments, ready: impl FnOnce()) -> Result<(), Failure> {
    be_called("lifeboat-mount");
    let directory = RegionDirectory::open(arguments.region.as_os_str().as_bytes())?;
    let prefix = &arguments.at;
    let region = attach(&directory)?;
    if Claiming::choose(None, prefix)?.demand()? {
        other_nodes::leave_word(&directory, region.superblock().identity, prefix, std::process::id())?;
    }
    let prefix = prefix.as_bytes();
    let files = FileSystem::attach(region, prefix).map_err(|errno| {
        Failure::region(format_args!("region `{}` has no usable file system: {}", directory.name(), reason(errno)))
    })?;
    lifeboat_fuse::serve(&directory, claiming(files)?, prefix, ready).map_err(Failure::from)
}

/// Runs `lifeboat unmount`.
pub fn unmount(arguments: &UnmountArguments) -> Result<(), Failure> {
    let prefix = Prefix::choose(arguments.directory.as_ref())?;
    let mode = if arguments.lazy { UnmountMode::Lazily } else { UnmountMode::KeepUsed };
    match lifeboat_fuse::unmount(Path::new(OsStr::from_bytes(prefix.as_bytes())), mode) {
        Ok(()) => Ok(()),
        // What was asked for is done.
        Err(still @ UnmountError::StillServed { .. }) if arguments.lazy => {
            say(still);
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Where the region is mounted at this moment, by a living process or a dead one.
pub fn mounts_of(directory: &RegionDirectory) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // A list that cannot be read is no reason to hide the rest of what is said about a region.
    let _ = directory.for_each_mount(&mut |note| {
        found.push(PathBuf::from(OsStr::from_bytes(note.prefix)));
        true
    });
    found.retain(|at| is_mounted_at(directory, at));
    found
}

/// Whether it is this region that is mounted there.
pub fn is_mounted_at(directory: &RegionDirectory, at: &Path) -> bool {
    lifeboat_fuse::mounted_at(at)
        .is_some_and(|mounted| mounted.region.as_os_str().as_bytes() == directory.path().as_bytes())
}

/// Before a region is removed: dead mounts are cleared away; living ones too with `force`, else they are a reason not to.
pub fn undo_mounts(directory: &RegionDirectory, force: bool) -> Result<(), Failure> {
    for at in mounts_of(directory) {
        let is_dead = rustix::fs::statfs(at.as_os_str().as_bytes()).err() == Some(lifeboat_fs::Errno::NOTCONN);
        if !force && !is_dead {
            let (name, at) = (directory.name(), shown(at.as_os_str().as_bytes()));
            return Err(Failure::operation(format_args!(
                "region `{name}` is mounted at {at}: `lifeboat unmount {at}` first, or --force"
            )));
        }
        let undone = match lifeboat_fuse::unmount(&at, UnmountMode::KeepUsed) {
            Err(UnmountError::Busy { .. }) if force => lifeboat_fuse::unmount(&at, UnmountMode::Lazily),
            other => other,
        };
        match undone {
            // Whoever still uses it keeps the memory until he is done.
            Ok(()) | Err(UnmountError::StillServed { .. } | UnmountError::NotMounted { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        match error {
            MountError::Place(error) => error.into(),
            error => Failure::operation(error),
        }
    }
}

impl From<UnmountError> for Failure {
    fn from(error: UnmountError) -> Self {
        match error {
            UnmountError::Place(error) => error.into(),
            error => Failure::operation(error),
        }
    }
}
