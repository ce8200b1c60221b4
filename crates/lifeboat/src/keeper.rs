//! The keeper: a process without terminal or parent that holds a region's memory for users who may not mount.
//!
//! Its starter reads lines from its standard output until the memory is there: `at BYTES` while it is reserved, then
//! `made HUGE TOTAL SWAPPABLE`, or `refused LINE` and `namespaces LINE` (this machine lets users make none).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{ChildStdout, Command, ExitStatus, Stdio};

use lifeboat_region::carrier::keeper::{KeeperNote, Keeping, keep_descriptors_from_children, receive_new_file};
use lifeboat_region::carrier::{Carrier, CreateError, Created, PageReport};
use lifeboat_region::place::RegionDirectory;

use crate::arguments::KeeperArguments;
use crate::background::{be_called, leave_terminal, own_command};
use crate::create::PreferredVictim;
use crate::crew::Workers;
use crate::failure::{Failure, io_reason};

/// The end of the pipe from a keeper whose region is not published: the keeper ends when this is dropped before.
pub struct Starting {
    _lines: BufReader<ChildStdout>,
}

/// Why there is no keeper.
#[derive(Debug)]
pub enum Refused {
    /// This machine gives the user no namespace to mount in.
    Namespaces(String),
    /// Anything else.
    Other(String),
}

impl Refused {
    /// For the user.
    pub fn line(self) -> Failure {
        let (Refused::Namespaces(line) | Refused::Other(line)) = self;
        Failure::operation(line)
    }
}

/// Starts a keeper that reserves `size` bytes on `carrier` for the region in `directory`, and takes over the file.
pub fn start(
    directory: &RegionDirectory,
    carrier: &'static dyn Carrier,
    size: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Created, Starting), Refused> {
    let wrong = |error: std::io::Error| Refused::Other(format!("cannot start a keeper: {}", io_reason(&error)));
    let mut first =
        keeper_command(directory.path().as_bytes(), carrier, size).stdout(Stdio::piped()).spawn().map_err(wrong)?;
    let mut lines = BufReader::new(first.stdout.take().ok_or_else(|| ended(None))?);
    // It ends at once: the keeper is its child, and so nobody's.
    let status = first.wait().map_err(wrong)?;
    let pages = loop {
        let mut line = String::new();
        if lines.read_line(&mut line).map_err(wrong)? == 0 {
            return Err(ended(Some(status)));
        }
        match line.trim_end().split_once(' ') {
            Some(("at", done)) => progress(done.parse().unwrap_or(0), size),
            Some(("made", pages)) => break pages.to_string(),
            Some(("namespaces", why)) => return Err(Refused::Namespaces(why.to_string())),
            Some((_, why)) => return Err(Refused::Other(why.to_string())),
            None => return Err(ended(Some(status))),
        }
    };
    let file = receive_new_file(directory.directory()).map_err(|error| Refused::Other(error.to_string()))?;
    let mut numbers = pages.split(' ').map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let pages = PageReport { huge: next(), total: next() };
    Ok((Created { file, carrier: carrier.name(), pages, swappable: next() != 0 }, Starting { _lines: lines }))
}

fn ended(status: Option<ExitStatus>) -> Refused {
    let status = status.filter(|status| !status.success()).map(|status| format!(" ({status})")).unwrap_or_default();
    Refused::Other(format!(
        "the keeper ended before the memory was there{status}: is memory short? try a smaller --size"
    ))
}

fn keeper_command(region: &[u8], carrier: &dyn Carrier, size: u64) -> Command {
    let mut command = own_command("keeper");
    command.arg("--region").arg(std::ffi::OsStr::from_bytes(region));
    command.args(["--carrier", carrier.name(), "--size", &size.to_string()]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// Takes back what a keeper that could not start has left in `directory`.
pub fn clear(directory: &RegionDirectory) -> Result<(), Failure> {
    directory.forget_keeper().map_err(Failure::from)
}

/// `lifeboat keeper`: the keeper, in two steps, so that nobody has it as a child.
pub fn run(arguments: &KeeperArguments) -> Result<(), Failure> {
    let wrong =
        |error: std::io::Error| Failure::operation(format_args!("cannot start a keeper: {}", io_reason(&error)));
    let region = arguments.region.as_os_str().as_bytes();
    if !arguments.stay {
        keep_descriptors_from_children();
        leave_terminal();
        keeper_command(region, arguments.carrier.0, arguments.size).arg("--stay").spawn().map_err(wrong)?;
        return Ok(());
    }
    be_called("lifeboat-keeper");
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    match keep(region, arguments.carrier.0, arguments.size) {
        Ok(keeping) => {
            keeping.serve_creator_on_standard_output();
            keeping.serve();
        }
        Err(error) => {
            let kind = match error {
                CreateError::NoNamespaces { .. } | CreateError::CannotMount { .. } => "namespaces",
                _ => "refused",
            };
            tell(format_args!("{kind} {error}"));
        }
    }
    Ok(())
}

fn keep(region: &[u8], carrier: &dyn Carrier, size: u64) -> Result<Keeping, CreateError> {
    let _victim = PreferredVictim::volunteer();
    let mut progress = |done, _| tell(format_args!("at {done}"));
    let (keeping, created) = Keeping::prepare(region, carrier, size, &mut Workers::new(&mut progress))?;
    let pages = created.pages;
    tell(format_args!("made {} {} {}", pages.huge, pages.total, u8::from(created.swappable)));
    Ok(keeping)
}

/// One line for the starter. Without a starter there is nobody to keep anything for.
fn tell(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// The process that keeps the region's memory, if one does and is alive.
pub fn alive(directory: &RegionDirectory) -> Option<u32> {
    KeeperNote::read(directory).filter(KeeperNote::is_alive).map(|note| note.pid)
}
