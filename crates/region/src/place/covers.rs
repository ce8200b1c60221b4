//! The list of mount prefixes that `lifeboat exec` made unwritable for a region.

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::directory::RegionDirectory;
use super::error::{PlaceError, Refusal, ShownPath, failed};
use super::make::open_or_make;
use super::refusal;

/// The most bytes that the list of one region can have.
pub const COVERS_MAX: usize = 8192;

/// How a prefix was made unwritable, and so what undoes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoverKind {
    /// Covered by an empty read-only mount; the directory was there before.
    Mounted,
    /// Covered by an empty read-only mount over a directory that was made for it.
    MadeAndMounted,
    /// An empty directory without write permission, made for it.
    Made,
    /// An empty directory that was there before and lost its write permission.
    Closed,
}

/// One covered prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cover<'a> {
    /// What was done.
    pub kind: CoverKind,
    /// Absolute path of the prefix.
    pub prefix: &'a [u8],
}

impl CoverKind {
    const ALL: [CoverKind; 4] = [CoverKind::Mounted, CoverKind::MadeAndMounted, CoverKind::Made, CoverKind::Closed];

    const fn word(self) -> &'static [u8] {
        match self {
            CoverKind::Mounted => b"mounted ",
            CoverKind::MadeAndMounted => b"made-and-mounted ",
            CoverKind::Made => b"made ",
            CoverKind::Closed => b"closed ",
        }
    }

    /// Whether there is a mount to undo.
    pub const fn is_mounted(self) -> bool {
        matches!(self, CoverKind::Mounted | CoverKind::MadeAndMounted)
    }

    /// Whether there is a directory to remove.
    pub const fn is_made(self) -> bool {
        matches!(self, CoverKind::Made | CoverKind::MadeAndMounted)
    }
}

impl RegionDirectory {
    /// Remembers that `cover` was made for this region. Written before the deed, so that a kill between the two leaves
    /// nothing that removal does not know of.
    pub fn add_cover(&self, cover: Cover<'_>) -> Result<(), PlaceError> {
        let path = self.path().joined(b"covers");
        let mut line = [0u8; 4200];
        let word = cover.kind.word();
        let length = word.len() + cover.prefix.len() + 1;
        let usable = cover.prefix.starts_with(b"/") && !cover.prefix.iter().any(|&byte| byte == b'\n' || byte == 0);
        if length > line.len() || !usable {
            return Err(failed("write into", &path, Errno::INVAL));
        }
        line[..word.len()].copy_from_slice(word);
        line[word.len()..length - 1].copy_from_slice(cover.prefix);
        line[length - 1] = b'\n';
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK;
        let file = open_or_make(self.directory(), c"covers", flags).map_err(|errno| failed("open", &path, errno))?;
        let before = rustix::fs::fstat(&file).map_err(|errno| failed("examine", &path, errno))?.st_size;
        if before as u64 + length as u64 > COVERS_MAX as u64 {
            return Err(failed("write into", &path, Errno::NOSPC));
        }
        match rustix::io::write(&file, &line[..length]) {
            Ok(written) if written == length => Ok(()),
            Ok(_) => Err(failed("write into", &path, Errno::NOSPC)),
            Err(errno) => Err(failed("write into", &path, errno)),
        }
    }

    /// Calls `each` with the covers of this region, the newest first, until it answers `false`.
    pub fn for_each_cover(&self, each: &mut dyn FnMut(Cover<'_>) -> bool) -> Result<(), PlaceError> {
        let path = self.path().joined(b"covers");
        let damaged = || PlaceError::DamagedCovers { path: ShownPath::of(&path) };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(self.directory(), c"covers", flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(failed("open", &path, errno)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|errno| failed("examine", &path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(PlaceError::Refused { path: ShownPath::of(&path), why: Refusal::NotAFile });
        }
        if let Some(why @ Refusal::Owner { .. }) = refusal(&stat) {
            return Err(PlaceError::Refused { path: ShownPath::of(&path), why });
        }
        let mut bytes = [0u8; COVERS_MAX + 1];
        let mut length = 0;
        while length < bytes.len() {
            match rustix::io::read(&file, &mut bytes[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("read", &path, errno)),
            }
        }
        if length > COVERS_MAX {
            return Err(damaged());
        }
        // A line without an end is one whose writer was killed before it did anything.
        let Some(end) = bytes[..length].iter().rposition(|&byte| byte == b'\n') else {
            return Ok(());
        };
        for line in bytes[..end].rsplit(|&byte| byte == b'\n') {
            if !each(parse(line).ok_or_else(damaged)?) {
                break;
            }
        }
        Ok(())
    }
}

fn parse(line: &[u8]) -> Option<Cover<'_>> {
    CoverKind::ALL.into_iter().find_map(|kind| {
        let prefix = line.strip_prefix(kind.word())?;
        (prefix.starts_with(b"/") && !prefix.contains(&0)).then_some(Cover { kind, prefix })
    })
}
