//! One operation of a random run.

use crate::volume::{Time, User};
use std::fmt;

/// A path of a run; shown shortened, because some are 4096 bytes long.
#[derive(Clone, PartialEq, Eq)]
pub struct Path(pub Vec<u8>);

impl fmt::Debug for Path {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.0);
        if self.0.len() <= 60 {
            return write!(out, "{text:?}");
        }
        write!(out, "{:?}..({} bytes)..{:?}", &text[..20], self.0.len(), &text[text.len() - 20..])
    }
}

/// Both times of a `utimensat`.
pub type OpenTimes = (Time, Time);

/// The users of a run with root's rights: uid, gid, supplementary groups.
pub const USERS: [(u32, u32, &[u32]); 4] =
    [(0, 0, &[]), (61001, 61001, &[62000]), (61002, 62000, &[]), (61003, 61003, &[61001, 62000])];

/// The user of this number of [`USERS`].
pub fn user(index: usize) -> User {
    let (uid, gid, groups) = USERS[index % USERS.len()];
    User { uid, gid, groups: groups.to_vec() }
}

/// What an extended attribute belongs to.
#[allow(missing_docs)] // As in `Op`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    Open { slot: usize },
    Path { base: Option<usize>, path: Path, follow: bool },
}

/// One operation. `slot` is one of the run's open files; `base` the slot that a path starts from (`None`: the top).
#[allow(missing_docs)] // They are the system calls of the same names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Become {
        user: usize,
    },
    Open {
        slot: usize,
        base: Option<usize>,
        path: Path,
        flags: i32,
        mode: u32,
    },
    Close {
        slot: usize,
    },
    Read {
        slot: usize,
        length: usize,
        at: Option<u64>,
    },
    Write {
        slot: usize,
        tag: u64,
        length: usize,
        at: Option<u64>,
    },
    Seek {
        slot: usize,
        offset: i64,
        whence: i32,
    },
    /// `SEEK_DATA` or `SEEK_HOLE`: compared by what the answer says about the content.
    SeekHole {
        slot: usize,
        offset: i64,
        whence: i32,
    },
    TruncateOpen {
        slot: usize,
        length: u64,
    },
    Allocate {
        slot: usize,
        mode: i32,
        offset: u64,
        length: u64,
    },
    Sync {
        slot: usize,
    },
    List {
        slot: usize,
    },
    Flags {
        slot: usize,
    },
    SetFlags {
        slot: usize,
        flags: i32,
    },
    StatOpen {
        slot: usize,
    },
    ChmodOpen {
        slot: usize,
        mode: u32,
    },
    ChownOpen {
        slot: usize,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    TimesOpen {
        slot: usize,
        times: OpenTimes,
    },
    LinkOpen {
        slot: usize,
        base: Option<usize>,
        path: Path,
    },
    Mkdir {
        base: Option<usize>,
        path: Path,
        mode: u32,
    },
    Rmdir {
        base: Option<usize>,
        path: Path,
    },
    Unlink {
        base: Option<usize>,
        path: Path,
    },
    Rename {
        base: Option<usize>,
        old: Path,
        new: Path,
        flags: u32,
    },
    Link {
        base: Option<usize>,
        old: Path,
        new: Path,
        follow: bool,
    },
    Symlink {
        target: Path,
        base: Option<usize>,
        path: Path,
    },
    Readlink {
        base: Option<usize>,
        path: Path,
    },
    Mknod {
        base: Option<usize>,
        path: Path,
        mode: u32,
        device: u64,
    },
    Stat {
        base: Option<usize>,
        path: Path,
        follow: bool,
    },
    Access {
        base: Option<usize>,
        path: Path,
        mode: i32,
    },
    Chmod {
        base: Option<usize>,
        path: Path,
        mode: u32,
    },
    Chown {
        base: Option<usize>,
        path: Path,
        uid: Option<u32>,
        gid: Option<u32>,
        follow: bool,
    },
    Times {
        base: Option<usize>,
        path: Path,
        times: OpenTimes,
        follow: bool,
    },
    Truncate {
        base: Option<usize>,
        path: Path,
        length: u64,
    },
    SetAttribute {
        of: Owner,
        name: Path,
        tag: u64,
        length: usize,
        flags: i32,
    },
    GetAttribute {
        of: Owner,
        name: Path,
        room: usize,
    },
    ListAttributes {
        of: Owner,
    },
    RemoveAttribute {
        of: Owner,
        name: Path,
    },
}
