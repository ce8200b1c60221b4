//! How the command fails: one line and an exit code.

use std::fmt::Display;

use lifeboat_fs::{Errno, OUTSIDE};
use lifeboat_region::place::{PlaceError, RemoveError};

/// Everything went well.
pub const OK: u8 = 0;
/// The operation failed.
pub const OPERATION: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// The region is missing, or was refused and left untouched.
pub const REGION: u8 = 3;
/// `check-program`: some calls of the program would not be served.
pub const MISSED: u8 = 4;
/// `check-program`: interception does not reach the program.
pub const NEEDS_FUSE: u8 = 5;
/// The program of `exec` cannot be run.
pub const CANNOT_RUN: u8 = 126;
/// The program of `exec` was not found.
pub const NOT_FOUND: u8 = 127;
/// Whoever read our output left; what a shell reports for SIGPIPE.
pub const BROKEN_PIPE: u8 = 141;

/// What ends the command early.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub code: u8,
    /// One line: what, where, what to do next. Empty when it has been said already.
    pub line: String,
}

impl Failure {
    /// The operation failed.
    pub fn operation(line: impl Display) -> Failure {
        Failure { code: OPERATION, line: line.to_string() }
    }

    /// The command line is wrong.
    pub fn usage(line: impl Display) -> Failure {
        Failure { code: USAGE, line: line.to_string() }
    }

    /// The region is missing or refused.
    pub fn region(line: impl Display) -> Failure {
        Failure { code: REGION, line: line.to_string() }
    }

    /// A call on something in the region failed.
    pub fn on_path(doing: &str, path: &[u8], errno: Errno) -> Failure {
        Failure::operation(format_args!("cannot {doing} {}: {}", shown(path), reason(errno)))
    }
}

impl From<std::io::Error> for Failure {
    /// Only for writing to standard output.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Failure { code: BROKEN_PIPE, line: String::new() };
        }
        Failure::operation(format_args!("cannot write to standard output: {}", io_reason(&error)))
    }
}

impl From<PlaceError> for Failure {
    fn from(error: PlaceError) -> Self {
        let code = match error {
            PlaceError::BadName { .. } | PlaceError::BadBase { .. } => USAGE,
            PlaceError::Missing { .. } | PlaceError::Refused { .. } => REGION,
            _ => OPERATION,
        };
        Failure { code, line: error.to_string() }
    }
}

impl From<RemoveError> for Failure {
    fn from(error: RemoveError) -> Self {
        match error {
            RemoveError::Place(error) => error.into(),
            error => Failure::operation(error),
        }
    }
}

/// A path for one line of an error, whatever bytes it has.
pub fn shown(path: &[u8]) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(path).chars() {
        if character.is_control() {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

/// What an errno of the file system means, with advice where there is some.
pub fn reason(errno: Errno) -> String {
    match errno {
        OUTSIDE => "the path leads out of the mount; name what it points to itself".into(),
        Errno::UCLEAN => "the region is damaged here; `lifeboat region check` says where".into(),
        Errno::NOSPC => "the region is full; remove files or use a larger region (`lifeboat df`)".into(),
        Errno::NFILE => "too many processes or files are open in the region; end some and try again".into(),
        other => io_reason(&std::io::Error::from_raw_os_error(other.raw_os_error())),
    }
}

/// The words of an error of the kernel, without its number.
pub fn io_reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}
