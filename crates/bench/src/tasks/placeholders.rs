//! What an `open` with its `close` asks of the kernel, so that a descriptor stands for the open file: one scheme after the other.
//!
//! The calls are those that the interception library makes, or would have to make, past libc as there.

use super::{Sample, Site, Work, c_path, timed};
use lifeboat_region::tags::hold;
use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, Mode, OFlags, SeekFrom, fstat, memfd_create, openat, seek};
use rustix::io::{Errno, Result};
use std::io::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What stands for an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tag, opened and held each time.
    Tag,
    /// A duplicate of a tag that is kept for one file at a time, looked at.
    Kept,
    /// A file of memory without a name, held.
    Memfd,
    /// A tag, opened as a mere place.
    Path,
    /// A duplicate of one tag for all files, not looked at.
    Common,
    /// A number that the kernel knows nothing of.
    Number,
}

/// The offset of every placeholder, behind which no write fits.
const OFFSET: u64 = i64::MAX as u64;
/// Of the open file that the tag belongs to.
const GENERATION: u16 = 1;
/// Numbers of a private table: as many as descriptors have by default.
const NUMBERS: usize = 1024;
/// Name of the tag.
const TAG: &str = "1";

fn failure(error: Errno) -> Error {
    Error::from_raw_os_error(error.raw_os_error())
}

/// Opens and closes, without files.
pub struct Placeholders {
    kind: Kind,
    operations: usize,
    /// Where the tag is.
    folder: OwnedFd,
    /// What is duplicated, if something is.
    pool: Option<OwnedFd>,
    /// Which file that is.
    behind: Option<(u64, u64)>,
    is_lent: AtomicBool,
    numbers: Vec<AtomicU64>,
}

/// Stands for an open file until it is dropped.
enum Standing<'a> {
    /// A descriptor of its own.
    Descriptor(OwnedFd),
    /// What was kept, until the next.
    Lent(OwnedFd, &'a AtomicBool),
    /// A place of the table.
    Number(&'a AtomicU64),
}

impl Standing<'_> {
    fn descriptor(&self) -> Option<&OwnedFd> {
        match self {
            Standing::Descriptor(descriptor) | Standing::Lent(descriptor, _) => Some(descriptor),
            Standing::Number(_) => None,
        }
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        match self {
            Standing::Descriptor(_) => {}
            Standing::Lent(_, is_lent) => is_lent.store(false, Ordering::SeqCst),
            Standing::Number(place) => place.store(0, Ordering::Release),
        }
    }
}

impl Placeholders {
    /// In a folder of the worker's own.
    pub fn begin(site: &Site, kind: Kind) -> std::io::Result<Box<dyn Work>> {
        // They are short.
        Ok(Box::new(Placeholders::new(&site.folder, kind, site.operations * 10)?))
    }

    fn new(folder: &Path, kind: Kind, operations: usize) -> std::io::Result<Placeholders> {
        std::fs::write(folder.join(TAG), b"")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(c_path(folder)?.as_c_str(), flags, Mode::empty()).map_err(failure)?;
        let numbers = (0..NUMBERS).map(|_| AtomicU64::new(0)).collect();
        let is_lent = AtomicBool::new(false);
        let mut made = Placeholders { kind, operations, folder, pool: None, behind: None, is_lent, numbers };
        if matches!(kind, Kind::Kept | Kind::Common) {
            let tag = made.open_tag().map_err(failure)?;
            made.behind = file_behind(&tag);
            made.pool = Some(tag);
        }
        Ok(made)
    }

    fn open_tag(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK;
        held(openat(&self.folder, TAG, flags, Mode::empty())?)
    }

    fn duplicate(&self) -> Result<OwnedFd> {
        rustix::io::dup(self.pool.as_ref().ok_or(Errno::BADF)?)
    }

    fn lend(&self) -> Result<Standing<'_>> {
        if self.is_lent.swap(true, Ordering::SeqCst) {
            return Err(Errno::BUSY);
        }
        let lent = self.duplicate().inspect_err(|_| self.is_lent.store(false, Ordering::SeqCst))?;
        // Waits again when dropped.
        let standing = Standing::Lent(lent, &self.is_lent);
        let is_it = standing.descriptor().and_then(file_behind) == self.behind;
        if is_it { Ok(standing) } else { Err(Errno::BADF) }
    }

    fn number(&self) -> Result<Standing<'_>> {
        let take = |place: &&AtomicU64| place.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        self.numbers.iter().find(take).map(Standing::Number).ok_or(Errno::MFILE)
    }

    fn open(&self) -> Result<Standing<'_>> {
        match self.kind {
            Kind::Tag => self.open_tag().map(Standing::Descriptor),
            Kind::Kept => self.lend(),
            Kind::Memfd => memfd_create(TAG, MemfdFlags::empty()).and_then(held).map(Standing::Descriptor),
            Kind::Path => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW;
                openat(&self.folder, TAG, flags, Mode::empty()).map(Standing::Descriptor)
            }
            Kind::Common => self.duplicate().map(Standing::Descriptor),
            Kind::Number => self.number(),
        }
    }
}

/// As the library makes a placeholder of a file: no write fits, and who asks for its lock is told.
fn held(file: OwnedFd) -> Result<OwnedFd> {
    seek(&file, SeekFrom::Start(OFFSET))?;
    hold(&file, GENERATION, false)?;
    Ok(file)
}

/// Which file it is, if that has a name.
fn file_behind(descriptor: &OwnedFd) -> Option<(u64, u64)> {
    let about = fstat(descriptor).ok().filter(|about| about.st_nlink != 0)?;
    Some((about.st_dev, about.st_ino))
}

impl Work for Placeholders {
    fn round(&mut self) -> std::io::Result<Sample> {
        timed(self.operations, || {
            (0..self.operations).try_for_each(|_| {
                std::hint::black_box(self.open().map_err(failure)?);
                Ok(())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schemes::{Guarantee, SCHEMES};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::fd::AsRawFd;
    use std::path::PathBuf;

    /// A folder on tmpfs, for as long as this lives.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let folder = PathBuf::from(format!("/dev/shm/lifeboat-placeholders-{}-{name}", std::process::id()));
            std::fs::create_dir(&folder).unwrap();
            Scratch(folder)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn open(path: impl AsRef<Path>, flags: OFlags) -> OwnedFd {
        rustix::fs::open(c_path(path.as_ref()).unwrap().as_c_str(), flags | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    /// Whether the kernel duplicates it and waits for it.
    fn is_the_kernels(standing: &Standing<'_>) -> bool {
        let Some(descriptor) = standing.descriptor() else { return false };
        let mut asked = [PollFd::new(descriptor, PollFlags::IN)];
        poll(&mut asked, Some(&Timespec::default())).unwrap();
        rustix::io::dup(descriptor).is_ok() && !asked[0].revents().contains(PollFlags::NVAL)
    }

    /// Whether a write past the library fails.
    fn is_guarded(standing: &Standing<'_>) -> bool {
        standing.descriptor().is_none_or(|descriptor| rustix::io::pwrite(descriptor, b"past", 0).is_err())
    }

    /// Whether the kernel has it for this file's, by its name.
    fn is_known(standing: &Standing<'_>, scratch: &Scratch) -> bool {
        let Some(descriptor) = standing.descriptor() else { return false };
        let shown = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd())).unwrap();
        shown == scratch.0.join(TAG) || shown.to_string_lossy().starts_with(&format!("/memfd:{TAG} "))
    }

    /// Whether somebody who knows the tag's name finds it held.
    fn is_held(scratch: &Scratch) -> bool {
        let other = open(scratch.0.join(TAG), OFlags::WRONLY);
        match hold(&other, GENERATION, true) {
            Err(Errno::AGAIN) => true,
            result => {
                result.unwrap();
                false
            }
        }
    }

    /// Whether what moves the offset of one moves that of the other.
    fn are_one(first: &Standing<'_>, second: &Standing<'_>) -> bool {
        let (Some(first), Some(second)) = (first.descriptor(), second.descriptor()) else { return false };
        seek(first, SeekFrom::Start(7)).and_then(|_| seek(second, SeekFrom::Current(0))) == Ok(7)
    }

    /// What the scheme breaks, found out.
    fn broken(kind: Kind) -> Vec<Guarantee> {
        let scratch = Scratch::new(&format!("{kind:?}"));
        let mut placeholders = Placeholders::new(&scratch.0, kind, 1).unwrap();
        let mut kept = Vec::new();
        {
            let standing = placeholders.open().unwrap();
            kept.extend(is_the_kernels(&standing).then_some(Guarantee::Kernels));
            kept.extend(is_guarded(&standing).then_some(Guarantee::Guarded));
            // One description for two files would be held as long as one of them is open.
            let is_alone = placeholders.open().map_or(true, |second| !are_one(&standing, &second));
            kept.extend((is_held(&scratch) && is_alone).then_some(Guarantee::Released));
        }
        if let Some(pool) = &mut placeholders.pool {
            // A program closes what it does not know, and opens something else.
            let other = open("/dev/null", OFlags::RDONLY);
            rustix::io::dup2(&other, pool).unwrap();
        }
        let is_known = match placeholders.open() {
            Ok(standing) => is_known(&standing, &scratch),
            Err(error) => error == Errno::BADF,
        };
        kept.extend(is_known.then_some(Guarantee::Known));
        drop(placeholders);
        assert!(!is_held(&scratch), "{kind:?}");
        Guarantee::ALL.into_iter().filter(|guarantee| !kept.contains(guarantee)).collect()
    }

    #[test]
    fn each_scheme_breaks_what_it_is_said_to_break() {
        for (scheme, kind) in
            SCHEMES.iter().zip([Kind::Tag, Kind::Kept, Kind::Memfd, Kind::Path, Kind::Common, Kind::Number])
        {
            assert_eq!(broken(kind), scheme.breaks, "{}", scheme.name);
        }
    }

    #[test]
    fn a_memfd_is_locked_for_those_who_find_it() {
        let scratch = Scratch::new("locked");
        let placeholders = Placeholders::new(&scratch.0, Kind::Memfd, 1).unwrap();
        let standing = placeholders.open().unwrap();
        let number = standing.descriptor().unwrap().as_raw_fd();
        let other = open(format!("/proc/self/fd/{number}"), OFlags::WRONLY);
        assert_eq!(hold(&other, GENERATION, true), Err(Errno::AGAIN));
        drop(standing);
        assert_eq!(hold(&other, GENERATION, true), Ok(()));
    }

    #[test]
    fn what_is_kept_stands_for_one_file_at_a_time() {
        let scratch = Scratch::new("kept");
        let placeholders = Placeholders::new(&scratch.0, Kind::Kept, 1).unwrap();
        let standing = placeholders.open().unwrap();
        assert_eq!(file_behind(standing.descriptor().unwrap()), placeholders.behind);
        assert_eq!(placeholders.open().err(), Some(Errno::BUSY));
        drop(standing);
        assert!(placeholders.open().is_ok() && is_held(&scratch));
    }

    #[test]
    fn numbers_are_given_back() {
        let scratch = Scratch::new("numbers");
        let placeholders = Placeholders::new(&scratch.0, Kind::Number, 1).unwrap();
        let all: Vec<_> = (0..NUMBERS).map(|_| placeholders.open().unwrap()).collect();
        assert_eq!(placeholders.open().err(), Some(Errno::MFILE));
        drop(all);
        assert!(placeholders.open().is_ok());
    }
}
