//! Running an operation on the file system.

use crate::{identity, signals, state};
use lifeboat_fs::{Caller, Errno, FileSystem, Result};

/// Runs an operation that may take locks: signals wait until it is done. When room or open files run out, those that
/// dead processes left are given back first and the operation is tried once more.
pub fn call<T>(operation: impl Fn(&FileSystem, &Caller<'_>) -> Result<T>) -> Result<T> {
    signals::cancellation_point();
    let _held = signals::hold();
    call_held(operation)
}

/// As [`call`], for a caller that holds signals back already.
pub fn call_held<T>(operation: impl Fn(&FileSystem, &Caller<'_>) -> Result<T>) -> Result<T> {
    let file_system = state::file_system()?;
    identity::with_caller(|who| match operation(&file_system, who) {
        Err(Errno::NOSPC | Errno::NFILE | Errno::DQUOT) if file_system.reap(None) > 0 => operation(&file_system, who),
        result => result,
    })
}

/// Runs a write. Writing over what is there takes no lock, but growing does.
pub fn writing(operation: impl Fn(&FileSystem) -> Result<usize>) -> Result<usize> {
    signals::cancellation_point();
    let _held = signals::hold();
    data_held(operation)
}

/// Runs a read, seek or `fstat`: these take no lock that a signal handler could wait for.
#[inline(always)]
pub fn data<T>(operation: impl Fn(&FileSystem) -> Result<T>) -> Result<T> {
    signals::cancellation_point();
    data_held(operation)
}

#[inline(always)]
fn data_held<T>(operation: impl Fn(&FileSystem) -> Result<T>) -> Result<T> {
    let file_system = state::file_system()?;
    match operation(&file_system) {
        Err(Errno::NOSPC) => again_after_reaping(&file_system, operation),
        result => result,
    }
}

/// What an operation answers once more that found no room, when what dead processes left was given back.
#[cold]
pub fn again_after_reaping<T>(file_system: &FileSystem, operation: impl Fn(&FileSystem) -> Result<T>) -> Result<T> {
    let _held = signals::hold();
    match file_system.reap(None) {
        0 => Err(Errno::NOSPC),
        _ => operation(file_system),
    }
}

/// As [`call`], for operations that need no room and that change something of the caller's on the way.
pub fn call_once<T>(operation: impl FnOnce(&FileSystem, &Caller<'_>) -> Result<T>) -> Result<T> {
    let file_system = state::file_system()?;
    let _held = signals::hold();
    identity::with_caller(|who| operation(&file_system, who))
}
