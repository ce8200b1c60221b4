//! Both volumes side by side: each operation on the region first, then on the kernel's file system.

use super::op::{Op, Owner, Path, user};
use super::tree::{attributes_differ, compare, read_all, walk};
use crate::volume::{Answer, Attributes, LEAVES_THE_MOUNT, Subject, Volume};

/// Where the two volumes disagreed.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Index of the operation after which it was seen.
    pub after: usize,
    /// What differs.
    pub text: String,
}

/// What an operation gave.
#[derive(Clone, Debug)]
enum Outcome {
    Done,
    Number(u64),
    Bytes(Vec<u8>),
    Names(Vec<(Vec<u8>, u8)>),
    Keys(Vec<Vec<u8>>),
    Attributes(Attributes),
    Opened,
}

/// Status flags that both sides must agree on.
const FLAGS: i32 = libc::O_ACCMODE | libc::O_APPEND | libc::O_NONBLOCK | libc::O_PATH;

/// Two volumes and the files open on each.
pub struct Pair<'v, R: Volume, K: Volume> {
    region: &'v mut R,
    kernel: &'v mut K,
    open: Vec<Option<(R::File, K::File)>>,
    user: usize,
    switches_users: bool,
    hard_links_are_protected: bool,
    /// Older kernels keep none on tmpfs.
    has_attributes: bool,
    /// Operations that took place on both sides.
    pub executed: usize,
}

impl<'v, R: Volume, K: Volume> Pair<'v, R, K> {
    /// Starts as user 0 with nothing open.
    pub fn new(region: &'v mut R, kernel: &'v mut K, slots: usize, switches_users: bool) -> Self {
        let attribute = kernel.get_attribute(Subject::Path(None, b".", true), b"user.none", 0);
        let protected = std::fs::read_to_string("/proc/sys/fs/protected_hardlinks").unwrap_or_default();
        Self {
            region,
            kernel,
            open: vec![None; slots],
            user: 0,
            switches_users,
            hard_links_are_protected: protected.trim() != "0",
            has_attributes: attribute.err() != Some(libc::EOPNOTSUPP),
            executed: 0,
        }
    }

    /// Executes all operations, comparing the trees after each `every` of them and at the end. Open files are closed and
    /// the first user is back when this returns.
    pub fn run(&mut self, operations: &[Op], every: usize) -> Result<(), Difference> {
        let result = self.run_all(operations, every);
        self.become_user(0);
        for slot in 0..self.open.len() {
            self.close(slot);
        }
        result
    }

    fn run_all(&mut self, operations: &[Op], every: usize) -> Result<(), Difference> {
        for (after, operation) in operations.iter().enumerate() {
            self.step(operation).map_err(|text| Difference { after, text })?;
            if (after + 1) % every == 0 || after + 1 == operations.len() {
                self.compare_trees().map_err(|text| Difference { after, text })?;
            }
        }
        Ok(())
    }

    fn become_user(&mut self, index: usize) {
        if self.switches_users {
            self.region.become_user(&user(index));
            self.kernel.become_user(&user(index));
        }
        self.user = index;
    }

    fn close(&mut self, slot: usize) {
        if let Some((ours, theirs)) = self.open[slot].take() {
            let _ = (self.region.close(ours), self.kernel.close(theirs));
        }
    }

    /// The trees as user 0 sees them.
    fn compare_trees(&mut self) -> Result<(), String> {
        let user = self.user;
        self.become_user(0);
        let (ours, theirs) = (walk(self.region, b""), walk(self.kernel, b""));
        self.become_user(user);
        // An ordinary user may have taken away his own right to look.
        if ours.is_err() && ours.as_ref().err() == theirs.as_ref().err() {
            return Ok(());
        }
        let ours = ours.map_err(|error| format!("walking the region: errno {error}"))?;
        let theirs = theirs.map_err(|error| format!("walking the kernel's directory: errno {error}"))?;
        compare(&ours, &theirs).map_or(Ok(()), Err)
    }

    fn step(&mut self, operation: &Op) -> Result<(), String> {
        if let Op::Become { user } = operation {
            self.become_user(*user);
            return Ok(());
        }
        if self.is_left_out(operation) {
            return Ok(());
        }
        if let Op::SeekHole { slot, offset, whence } = operation {
            return self.seek_hole(*slot, *offset, *whence);
        }
        let mut opened = (None, None);
        let files: Vec<_> = self.open.iter().map(|both| both.map(|(ours, _)| ours)).collect();
        let ours = perform(self.region, &files, operation, &mut opened.0);
        if ours.is_err_and_left() || (ours_is(&ours, libc::EOPNOTSUPP) && zeroes(operation)) {
            return Ok(());
        }
        let files: Vec<_> = self.open.iter().map(|both| both.map(|(_, theirs)| theirs)).collect();
        let theirs = perform(self.kernel, &files, operation, &mut opened.1);
        self.executed += 1;
        self.keep_open(operation, opened, &ours, &theirs);
        differ(&ours, &theirs).map_or(Ok(()), Err)
    }

    fn keep_open(
        &mut self,
        operation: &Op,
        opened: (Option<R::File>, Option<K::File>),
        ours: &Answer<Outcome>,
        theirs: &Answer<Outcome>,
    ) {
        match operation {
            Op::Open { slot, .. } => match opened {
                (Some(ours), Some(theirs)) => {
                    self.close(*slot);
                    self.open[*slot] = Some((ours, theirs));
                }
                (Some(ours), None) => drop(self.region.close(ours)),
                (None, Some(theirs)) => drop(self.kernel.close(theirs)),
                (None, None) => {}
            },
            Op::Close { slot } if ours.is_ok() && theirs.is_ok() => self.open[*slot] = None,
            _ => {}
        }
    }

    /// What is not compared: calls on slots that are not open, seeking in directories, files that only the kernel can
    /// open (FIFOs, devices), and hard links that the kernel's `protected_hardlinks` forbids beyond what POSIX says.
    fn is_left_out(&self, operation: &Op) -> bool {
        if slots_of(operation).into_iter().flatten().any(|slot| self.open[slot].is_none()) {
            return true;
        }
        match operation {
            Op::SetAttribute { .. }
            | Op::GetAttribute { .. }
            | Op::ListAttributes { .. }
            | Op::RemoveAttribute { .. } => !self.has_attributes,
            Op::Open { base, path, flags, .. } if flags & libc::O_PATH == 0 => self
                .kind_of(*base, path)
                .is_some_and(|kind| !matches!(kind, libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK)),
            // What an offset in a directory means is each file system's own.
            Op::Seek { slot, .. } | Op::SeekHole { slot, .. } => self.open[*slot].is_some_and(|(_, theirs)| {
                self.kernel.stat_open(theirs).is_ok_and(|found| found.kind() == libc::S_IFDIR)
            }),
            Op::Link { base, old, follow, .. } if self.restricts_links() => {
                let base = base.and_then(|slot| self.open[slot]).map(|both| both.1);
                self.kernel.stat(base, &old.0, *follow).is_ok_and(|found| found.uid != user(self.user).uid)
            }
            Op::LinkOpen { slot, .. } if self.restricts_links() => {
                let file = self.open[*slot].map(|both| both.1);
                file.is_some_and(|file| self.kernel.stat_open(file).is_ok_and(|found| found.uid != user(self.user).uid))
            }
            _ => false,
        }
    }

    fn restricts_links(&self) -> bool {
        self.hard_links_are_protected && self.switches_users && self.user != 0
    }

    fn kind_of(&self, base: Option<usize>, path: &Path) -> Option<u32> {
        let base = base.and_then(|slot| self.open[slot]).map(|both| both.1);
        self.kernel.stat(base, &path.0, true).ok().map(|found| found.kind())
    }

    /// Two file systems may keep different holes. Each answer must be true of the content: no data before what
    /// `SEEK_DATA` gives, a zero byte or the end where `SEEK_HOLE` points. Errors must be equal but for that.
    fn seek_hole(&mut self, slot: usize, offset: i64, whence: i32) -> Result<(), String> {
        let Some((ours, theirs)) = self.open[slot] else { return Ok(()) };
        let expected = self.kernel.seek(theirs, offset, whence);
        let answered = self.region.seek(ours, offset, whence);
        self.executed += 1;
        let truth = match read_all(self.kernel, theirs) {
            Ok(content) => hole_is_true(&content, offset, whence, answered, expected),
            // A file that cannot be read through this descriptor: only the kind of answer counts.
            Err(_) if answered.is_ok() || answered == expected || answered == Err(libc::ENXIO) => Ok(()),
            Err(_) => Err(format!("seek: region {answered:?}, kernel {expected:?}")),
        };
        // Both go on from the same place.
        let _ = (self.region.seek(ours, 3, libc::SEEK_SET), self.kernel.seek(theirs, 3, libc::SEEK_SET));
        truth
    }
}

fn hole_is_true(
    content: &[u8],
    offset: i64,
    whence: i32,
    ours: Answer<u64>,
    theirs: Answer<u64>,
) -> Result<(), String> {
    let size = content.len() as u64;
    let inside = u64::try_from(offset).is_ok_and(|offset| offset < size);
    let from = offset.max(0) as u64;
    let is_true = match ours {
        _ if !inside => ours == theirs,
        Ok(at) if whence == libc::SEEK_DATA => {
            at >= from && at < size && content[from as usize..at as usize].iter().all(|byte| *byte == 0)
        }
        Ok(at) => at >= from && at <= size && content.get(at as usize).is_none_or(|byte| *byte == 0),
        Err(libc::ENXIO) if whence == libc::SEEK_DATA => content[from as usize..].iter().all(|byte| *byte == 0),
        Err(_) => false,
    };
    if is_true { Ok(()) } else { Err(format!("seek: region {ours:?}, kernel {theirs:?}, file of {size} bytes")) }
}

trait Left {
    fn is_err_and_left(&self) -> bool;
}

impl Left for Answer<Outcome> {
    /// The region said that the path leaves the mount: nothing happened there, so nothing may happen in the kernel.
    fn is_err_and_left(&self) -> bool {
        ours_is(self, LEAVES_THE_MOUNT)
    }
}

fn ours_is(answer: &Answer<Outcome>, errno: i32) -> bool {
    answer.as_ref().is_err_and(|error| *error == errno)
}

/// Zeroing a range is more than tmpfs can: answering "not supported" as tmpfs does is right, doing it is right too.
fn zeroes(operation: &Op) -> bool {
    matches!(operation, Op::Allocate { mode, .. } if mode & libc::FALLOC_FL_ZERO_RANGE != 0)
}

fn slots_of(operation: &Op) -> [Option<usize>; 2] {
    match operation {
        Op::Become { .. } => [None, None],
        Op::Close { slot }
        | Op::Read { slot, .. }
        | Op::Write { slot, .. }
        | Op::Seek { slot, .. }
        | Op::SeekHole { slot, .. }
        | Op::TruncateOpen { slot, .. }
        | Op::Allocate { slot, .. }
        | Op::Sync { slot }
        | Op::List { slot }
        | Op::Flags { slot }
        | Op::SetFlags { slot, .. }
        | Op::StatOpen { slot }
        | Op::ChmodOpen { slot, .. }
        | Op::ChownOpen { slot, .. }
        | Op::TimesOpen { slot, .. } => [Some(*slot), None],
        Op::LinkOpen { slot, base, .. } => [Some(*slot), *base],
        Op::SetAttribute { of, .. }
        | Op::GetAttribute { of, .. }
        | Op::ListAttributes { of }
        | Op::RemoveAttribute { of, .. } => match of {
            Owner::Open { slot } => [Some(*slot), None],
            Owner::Path { base, .. } => [*base, None],
        },
        Op::Open { base, .. }
        | Op::Mkdir { base, .. }
        | Op::Rmdir { base, .. }
        | Op::Unlink { base, .. }
        | Op::Rename { base, .. }
        | Op::Link { base, .. }
        | Op::Symlink { base, .. }
        | Op::Readlink { base, .. }
        | Op::Mknod { base, .. }
        | Op::Stat { base, .. }
        | Op::Access { base, .. }
        | Op::Chmod { base, .. }
        | Op::Chown { base, .. }
        | Op::Times { base, .. }
        | Op::Truncate { base, .. } => [*base, None],
    }
}

fn perform<V: Volume>(volume: &V, open: &[Option<V::File>], op: &Op, opened: &mut Option<V::File>) -> Answer<Outcome> {
    let base = |base: &Option<usize>| base.and_then(|slot| open[slot]);
    let done = |answer: Answer<()>| answer.map(|()| Outcome::Done);
    match op {
        Op::Open { base: from, path, flags, mode, .. } => {
            let file = volume.open(base(from), &path.0, *flags, *mode)?;
            *opened = Some(file);
            Ok(Outcome::Opened)
        }
        Op::Mkdir { base: from, path, mode } => done(volume.mkdir(base(from), &path.0, *mode)),
        Op::Rmdir { base: from, path } => done(volume.rmdir(base(from), &path.0)),
        Op::Unlink { base: from, path } => done(volume.unlink(base(from), &path.0)),
        Op::Rename { base: from, old, new, flags } => done(volume.rename(base(from), &old.0, &new.0, *flags)),
        Op::Link { base: from, old, new, follow } => done(volume.link(base(from), &old.0, &new.0, *follow)),
        Op::Symlink { target, base: from, path } => done(volume.symlink(&target.0, base(from), &path.0)),
        Op::Readlink { base: from, path } => volume.readlink(base(from), &path.0).map(Outcome::Bytes),
        Op::Mknod { base: from, path, mode, device } => done(volume.mknod(base(from), &path.0, *mode, *device)),
        Op::Stat { base: from, path, follow } => volume.stat(base(from), &path.0, *follow).map(Outcome::Attributes),
        Op::Access { base: from, path, mode } => done(volume.access(base(from), &path.0, *mode)),
        Op::Chmod { base: from, path, mode } => done(volume.chmod(base(from), &path.0, *mode)),
        Op::Chown { base: from, path, uid, gid, follow } => {
            done(volume.chown(base(from), &path.0, *uid, *gid, *follow))
        }
        Op::Times { base: from, path, times, follow } => {
            done(volume.set_times(base(from), &path.0, times.0, times.1, *follow))
        }
        Op::Truncate { base: from, path, length } => done(volume.truncate(base(from), &path.0, *length)),
        Op::LinkOpen { slot, base: from, path } => match open[*slot] {
            Some(file) => done(volume.link_open(file, base(from), &path.0)),
            None => Err(libc::EBADF),
        },
        Op::SetAttribute { of, .. }
        | Op::GetAttribute { of, .. }
        | Op::ListAttributes { of }
        | Op::RemoveAttribute { of, .. } => perform_on_attributes(volume, open, of, op),
        other => perform_open(volume, open, other),
    }
}

fn perform_on_attributes<V: Volume>(volume: &V, open: &[Option<V::File>], of: &Owner, op: &Op) -> Answer<Outcome> {
    let of = match of {
        Owner::Open { slot } => Subject::Open(open[*slot].ok_or(libc::EBADF)?),
        Owner::Path { base, path, follow } => Subject::Path(base.and_then(|slot| open[slot]), &path.0, *follow),
    };
    match op {
        Op::SetAttribute { name, tag, length, flags, .. } => {
            volume.set_attribute(of, &name.0, &crate::random::bytes(*tag, *length), *flags).map(|()| Outcome::Done)
        }
        Op::GetAttribute { name, room, .. } => volume.get_attribute(of, &name.0, *room).map(Outcome::Bytes),
        Op::RemoveAttribute { name, .. } => volume.remove_attribute(of, &name.0).map(|()| Outcome::Done),
        _ => volume.list_attributes(of).map(Outcome::Keys),
    }
}

fn perform_open<V: Volume>(volume: &V, open: &[Option<V::File>], op: &Op) -> Answer<Outcome> {
    let slot = slots_of(op)[0].ok_or(libc::EBADF)?;
    let file = open[slot].ok_or(libc::EBADF)?;
    let done = |answer: Answer<()>| answer.map(|()| Outcome::Done);
    match op {
        Op::Close { .. } => done(volume.close(file)),
        Op::Read { length, at, .. } => volume.read(file, *length, *at).map(Outcome::Bytes),
        Op::Write { tag, length, at, .. } => {
            let written = volume.write(file, &crate::random::bytes(*tag, *length), *at)?;
            Ok(Outcome::Number(written as u64))
        }
        Op::Seek { offset, whence, .. } => volume.seek(file, *offset, *whence).map(Outcome::Number),
        Op::TruncateOpen { length, .. } => done(volume.truncate_open(file, *length)),
        Op::Allocate { mode, offset, length, .. } => done(volume.allocate(file, *mode, *offset, *length)),
        Op::Sync { .. } => done(volume.sync(file)),
        Op::List { .. } => volume.list(file).map(Outcome::Names),
        Op::Flags { .. } => volume.flags(file).map(|flags| Outcome::Number((flags & FLAGS) as u64)),
        Op::SetFlags { flags, .. } => done(volume.set_flags(file, *flags)),
        Op::StatOpen { .. } => volume.stat_open(file).map(Outcome::Attributes),
        Op::ChmodOpen { mode, .. } => done(volume.chmod_open(file, *mode)),
        Op::ChownOpen { uid, gid, .. } => done(volume.chown_open(file, *uid, *gid)),
        Op::TimesOpen { times, .. } => done(volume.set_times_open(file, times.0, times.1)),
        _ => unreachable!("the other operations go by path"),
    }
}

fn differ(ours: &Answer<Outcome>, theirs: &Answer<Outcome>) -> Option<String> {
    let same = match (ours, theirs) {
        (Ok(Outcome::Attributes(ours)), Ok(Outcome::Attributes(theirs))) => return attributes_differ(ours, theirs),
        (Ok(Outcome::Bytes(ours)), Ok(Outcome::Bytes(theirs))) if ours.len() > 200 || theirs.len() > 200 => {
            if ours == theirs {
                return None;
            }
            let at = ours.iter().zip(theirs).position(|(a, b)| a != b);
            return Some(format!("read {} and {} bytes, first difference at {at:?}", ours.len(), theirs.len()));
        }
        (Ok(Outcome::Bytes(ours)), Ok(Outcome::Bytes(theirs))) => ours == theirs,
        (Ok(Outcome::Names(ours)), Ok(Outcome::Names(theirs))) => ours == theirs,
        (Ok(Outcome::Keys(ours)), Ok(Outcome::Keys(theirs))) => ours == theirs,
        (Ok(Outcome::Number(ours)), Ok(Outcome::Number(theirs))) => ours == theirs,
        (Ok(_), Ok(_)) => true,
        (Err(ours), Err(theirs)) => ours == theirs,
        _ => false,
    };
    (!same).then(|| format!("region {}, kernel {}", show(ours), show(theirs)))
}

fn show(answer: &Answer<Outcome>) -> String {
    match answer {
        Ok(outcome) => format!("{outcome:?}"),
        Err(errno) => std::io::Error::from_raw_os_error(*errno).to_string(),
    }
}
