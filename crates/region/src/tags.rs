//! Tags: one small file for each number of an open file, whose kernel locks tell whether that open file is still held.
//!
//! Who holds an open file has a lock (`F_OFD_SETLK`) on one byte of its tag, that of the open file's generation: it belongs to
//! the open file description that all its descriptors share, so the kernel ends it with the last of them, in whatever
//! process, however that goes. Who asks (`F_OFD_GETLK`) takes nothing: two who ask at once do not see each other, one who is
//! stopped while he asks is in nobody's way, and a holder of the number's earlier open file is not taken for one of the next.

use crate::process;
use crate::region::Region;
use crate::system_call::{FCNTL, call};
use crate::{Errno, Result};
use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::{Mode, OFlags};

const GET_LOCK: usize = 36;
const SET_LOCK: usize = 37;
const FOR_READING: i16 = 0;
const FOR_WRITING: i16 = 1;
const NOT_LOCKED: i16 = 2;

/// `struct flock` of 64-bit kernels.
#[repr(C)]
struct Lock {
    kind: i16,
    whence: i16,
    start: i64,
    length: i64,
    pid: i32,
}

/// Runs a lock command on the generation's byte; tells the kind of lock that the kernel answers with.
fn control(tag: impl AsFd, command: usize, kind: i16, generation: u16) -> Result<i16> {
    let mut lock = Lock { kind, whence: 0, start: generation as i64, length: 1, pid: 0 };
    let arguments = [tag.as_fd().as_raw_fd() as usize, command, (&raw mut lock) as usize, 0, 0];
    // SAFETY: the command reads and writes the structure above, which is of the kernel's shape, and nothing else.
    unsafe { call(FCNTL, arguments) }?;
    Ok(lock.kind)
}

/// Holds the open file of this generation until the last descriptor of this open file description of its tag is closed.
/// `write_only`: how the tag was opened. `AGAIN` when somebody else has locked the tag.
pub fn hold(tag: impl AsFd, generation: u16, write_only: bool) -> Result<()> {
    let kind = if write_only { FOR_WRITING } else { FOR_READING };
    loop {
        match control(&tag, SET_LOCK, kind, generation) {
            Err(Errno::INTR) => {}
            result => return result.map(|_| ()),
        }
    }
}

impl Region {
    /// Asks the kernel whether the open file `number` of this generation is held anywhere; `None` when its tag was deleted, so
    /// that nobody can say.
    pub fn is_tag_held(&self, number: u32, generation: u16) -> Result<Option<bool>> {
        let Some(tags) = self.tags() else { return Ok(None) };
        let mut path = [0; 64];
        let length = process::decimal(b"", number as u64, b"", &mut path);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let tag = match rustix::fs::openat(tags, &path[..length], flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            tag => tag?,
        };
        Ok(Some(control(&tag, GET_LOCK, FOR_WRITING, generation)? != NOT_LOCKED))
    }
}
