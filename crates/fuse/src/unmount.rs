//! Undoing a mount, and waiting for its server's end.

use crate::device;
use crate::error::UnmountError;
use crate::serve::clean_up;
use crate::table::mounted_at;
use lifeboat_region::place::{MountNote, PlaceError, RegionDirectory};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How a mount in use is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmountMode {
    /// Refused.
    KeepUsed,
    /// Taken out of sight at once; its server ends with the last open file.
    Lazily,
}

/// How long a server may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(5);

/// Unmounts the region at `at` and waits for the end of the process that served it. A mount whose server has died is
/// cleared away.
pub fn unmount(at: &Path, mode: UnmountMode) -> Result<(), UnmountError> {
    let mounted = mounted_at(at).ok_or_else(|| UnmountError::NotMounted { at: at.to_path_buf() })?;
    let directory = match RegionDirectory::open(mounted.region.as_os_str().as_bytes()) {
        Ok(directory) => Some(directory),
        // The region was pulled away under its mount.
        Err(PlaceError::Missing { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let server = directory.as_ref().map_or(Ok(None), |directory| server_of(directory, at))?;
    let is_alive = server.as_ref().is_some_and(|server| server.note.is_alive());
    device::unmount(&mounted.at, mode == UnmountMode::Lazily || !is_alive)?;
    let (Some(directory), Some(server)) = (directory, server) else { return Ok(()) };
    if !is_alive {
        let mounts = directory.lock_mounts()?;
        clean_up(&mounts, at, &server.prefix, server.note.made);
        return Ok(());
    }
    let end = Instant::now() + PATIENCE;
    while server.note.is_alive() {
        if mode == UnmountMode::Lazily || Instant::now() > end {
            return Err(UnmountError::StillServed { at: at.to_path_buf(), pid: server.note.pid });
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

struct Server {
    /// Without the place, which is `prefix`.
    note: MountNote<'static>,
    prefix: Vec<u8>,
}

/// The process that is written down for the mount at `at`.
fn server_of(directory: &RegionDirectory, at: &Path) -> Result<Option<Server>, PlaceError> {
    let mut found = None;
    directory.for_each_mount(&mut |note| {
        let path = Path::new(std::ffi::OsStr::from_bytes(note.prefix));
        if crate::table::real_path(path) == crate::table::real_path(at) {
            found = Some(Server { note: MountNote { prefix: b"/", ..note }, prefix: note.prefix.to_vec() });
        }
        found.is_none()
    })?;
    Ok(found)
}
