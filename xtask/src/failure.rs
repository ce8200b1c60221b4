//! One line that says what went wrong, where, and what to do.

use std::fmt;
use std::process::ExitCode;

/// Why a task ended: one line for the developer.
#[derive(Debug)]
pub struct Failure(String);

/// The answer of everything here that can fail.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A failure of which everything has been said.
    pub fn told() -> Self {
        Self(String::new())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Adds to an error of the system what was tried.
pub trait Context<T> {
    /// `what` is the thing tried, as in "cannot WHAT".
    fn context(self, what: impl fmt::Display) -> Outcome<T>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Outcome<T> {
        self.map_err(|error| Failure(format!("cannot {what}: {error}")))
    }
}

/// Prints the failure, if any, and gives the exit code: 0 done, 1 failed, 130 interrupted.
pub fn exit_code(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.0.is_empty() {
                eprintln!("xtask: {failure}");
            }
            ExitCode::from(if crate::processes::interrupted() { 130 } else { 1 })
        }
    }
}
