//! Paths: from a starting directory and bytes to an inode, or to the place of a last name.

use crate::directory::Looked;
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, gone};
use crate::known_directory::{KnownDirectory, split_last};
use crate::types::{Caller, LastLink};
use crate::{Errno, OUTSIDE, PATH_LONGEST, Result};
use lifeboat_region::DAMAGED;

/// Symbolic links followed in one path before `ELOOP`.
const LINKS_LARGEST: u32 = 40;

/// Execute (search) permission.
pub(crate) const EXECUTE: u32 = 1;
/// Write permission.
pub(crate) const WRITE: u32 = 2;
/// Read permission.
pub(crate) const READ: u32 = 4;

/// What becomes of the last component.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    /// A link is followed.
    Follow,
    /// A link is what the path means.
    Keep,
    /// A file is to be made there unless it exists: a link is followed, and a slash at the end, also of a link's target,
    /// is an error before the name is looked at.
    Create,
    /// Only the directory is wanted: the name is not looked at. Calls that make, remove or move names have checks that
    /// come first, and then [`FileSystem::look`].
    Unseen,
}

impl From<LastLink> for Last {
    fn from(last: LastLink) -> Last {
        match last {
            LastLink::Follow => Last::Follow,
            LastLink::Keep => Last::Keep,
        }
    }
}

/// Where a path ends.
#[derive(Clone, Copy)]
pub(crate) struct Place<'n> {
    /// Directory of the last name.
    pub(crate) dir: InodeId,
    /// The last name; empty when the path is the root or ends in `.` or `..`.
    pub(crate) name: &'n [u8],
    /// How the path ended when `name` is empty.
    pub(crate) ending: Ending,
    /// What is there; nothing yet when the name was not to be looked at.
    pub(crate) found: Option<InodeId>,
    /// The path ended in a slash: it must be a directory.
    pub(crate) slash: bool,
    /// How it was found, or not, if its directory was searched for it.
    pub(crate) looked: Option<Looked>,
}

/// The last component of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// A name.
    Name,
    /// `.`, or the starting directory itself.
    Dot,
    /// `..`.
    DotDot,
    /// The root.
    Root,
}

enum Step<'p> {
    Arrived(Place<'p>),
    /// A symbolic link in `dir`, and what of the path is left after it (with its leading slash).
    Link {
        link: InodeId,
        dir: InodeId,
        rest: &'p [u8],
    },
    Outside {
        rest: &'p [u8],
    },
}

/// The end of a path whose last name is in a directory that this process knows and may search.
#[derive(Clone, Copy)]
struct KnownEnd<'p> {
    dir: InodeId,
    name: &'p [u8],
    /// What the name means, if that is known, too.
    child: Option<InodeId>,
}

/// A path being put together from links and remainders.
pub(crate) struct PathBuffer {
    pub(crate) bytes: [u8; 2 * PATH_LONGEST],
    pub(crate) length: usize,
}

impl PathBuffer {
    pub(crate) const fn new() -> PathBuffer {
        PathBuffer { bytes: [0; 2 * PATH_LONGEST], length: 0 }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        // Twice the longest path: only links within links within links get there.
        let to = self.bytes.get_mut(self.length..self.length + bytes.len()).ok_or(Errno::LOOP)?;
        to.copy_from_slice(bytes);
        self.length += bytes.len();
        Ok(())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn skip_slashes(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|&byte| byte != b'/').unwrap_or(path.len());
    &path[start..]
}

impl FileSystem {
    /// Whether `who` has the permissions `wanted` (bits [`READ`], [`WRITE`], [`EXECUTE`]) on the inode.
    pub(crate) fn permit(&self, who: &Caller<'_>, inode: InodeId, wanted: u32) -> Result<()> {
        let mode = self.mode(inode)?;
        if who.checked {
            return Ok(());
        }
        if who.uid == 0 {
            let runnable = mode & 0o111 != 0 || mode & inode::TYPE_MASK == inode::DIRECTORY;
            return if wanted & EXECUTE != 0 && !runnable { Err(Errno::ACCESS) } else { Ok(()) };
        }
        let ids = self.field(inode, inode::IDS)?;
        let granted = if ids as u32 == who.uid {
            mode >> 6
        } else if who.in_group((ids >> 32) as u32) {
            mode >> 3
        } else {
            mode
        };
        if granted & 7 & wanted == wanted { Ok(()) } else { Err(Errno::ACCESS) }
    }

    /// What a name means in a directory that may be searched. One that was removed has no names, of whatever length.
    fn lookup(&self, dir: InodeId, name: &[u8]) -> Result<(Option<InodeId>, Option<Looked>)> {
        match self.known_child(dir, name) {
            Some(child) => Ok((Some(child), None)),
            None => self.search_directory(dir, name),
        }
    }

    /// As [`FileSystem::lookup`] of a name that this process does not know.
    fn search_directory(&self, dir: InodeId, name: &[u8]) -> Result<(Option<InodeId>, Option<Looked>)> {
        let looked = self.name(name).and_then(|name| self.look_for(dir, &name));
        match looked {
            Ok(looked) if let Some(found) = looked.found() => {
                self.note_child(dir, looked.sequence(), name, found.child);
                Ok((Some(found.child), Some(looked)))
            }
            _ if !self.has_name(dir)? => Err(Errno::NOENT),
            other => other.map(|looked| (None, Some(looked))),
        }
    }

    /// What is at a place whose name was not looked at so far, for who is about to make, remove or change it. What this process knows
    /// of the directory's names is neither asked, as it says nothing of where they lie, nor added to: the change is its end. Whether
    /// the directory itself was removed is asked under its lock.
    pub(crate) fn look(&self, place: &mut Place<'_>) -> Result<Option<InodeId>> {
        let looked = self.name(place.name).and_then(|name| self.look_for(place.dir, &name));
        if looked.is_err() && !self.has_name(place.dir)? {
            return Err(Errno::NOENT);
        }
        let looked = looked?;
        (place.found, place.looked) = (looked.found().map(|found| found.child), Some(looked));
        Ok(place.found)
    }

    /// What a name means now; [`DAMAGED`] when it still leads to `before`, which is gone. No lock is held.
    pub(crate) fn look_again(&self, place: &Place<'_>, before: Option<InodeId>) -> Result<Option<InodeId>> {
        // Asked first: what the name leads to now may be gone a moment later.
        let was_gone = before.is_some_and(|inode| self.validate(inode) == Err(Errno::STALE));
        let now = self.lookup(place.dir, place.name)?.0;
        if was_gone && now == before { Err(DAMAGED) } else { Ok(now) }
    }

    fn search_permitted(&self, who: &Caller<'_>, dir: InodeId) -> Result<()> {
        let permitted = self.search_permitted_unless_gone(who, dir);
        self.while_there(dir, permitted).map_err(gone)
    }

    /// As [`FileSystem::search_permitted`], before a look-up in the directory, which finds it gone if it is.
    fn search_permitted_before_lookup(&self, who: &Caller<'_>, dir: InodeId) -> Result<()> {
        match self.search_permitted_unless_gone(who, dir) {
            Ok(()) => Ok(()),
            refused => self.while_there(dir, refused).map_err(gone),
        }
    }

    fn search_permitted_unless_gone(&self, who: &Caller<'_>, dir: InodeId) -> Result<()> {
        if self.is_directory(dir)? { self.permit(who, dir, EXECUTE) } else { Err(Errno::NOTDIR) }
    }

    fn is_link(&self, inode: InodeId) -> Result<bool> {
        Ok(self.mode(inode)? & inode::TYPE_MASK == inode::LINK)
    }

    /// The parent of a directory; the root is its own.
    pub(crate) fn parent(&self, dir: InodeId) -> Result<InodeId> {
        Ok(InodeId::from_word(self.field(dir, inode::DEVICE)?))
    }

    /// What this process knows of a path's end, if it knows the directory of its last name.
    #[inline(always)]
    fn known_end<'p>(&self, who: &Caller<'_>, start: InodeId, path: &'p [u8], last: Last) -> Option<KnownEnd<'p>> {
        let (before, name) = split_last(path)?;
        let KnownDirectory { dir, sequence } = self.known_directory(who, start, before)?;
        let child = if last == Last::Unseen { None } else { self.known_child_of(dir, sequence, name) };
        Some(KnownEnd { dir, name, child })
    }

    /// Walks until the end, a symbolic link that must be followed, or the edge of the mount.
    fn walk<'p>(&self, who: &Caller<'_>, start: InodeId, path: &'p [u8], last: Last) -> Result<Step<'p>> {
        self.walk_on(self.known_end(who, start, path, last), who, start, path, last)
    }

    /// As [`FileSystem::walk`], from the directory of the last name where that is known.
    #[inline(never)]
    fn walk_on<'p>(
        &self,
        known: Option<KnownEnd<'p>>,
        who: &Caller<'_>,
        start: InodeId,
        path: &'p [u8],
        last: Last,
    ) -> Result<Step<'p>> {
        if let Some(known) = known {
            return self.last_step(known, last);
        }
        let step = self.walk_by_names(who, start, path, last)?;
        if let (Step::Arrived(_), Some((before, _))) = (&step, split_last(path)) {
            self.note_directory(who, start, before);
        }
        Ok(step)
    }

    /// The last step of a walk, from a directory that may be searched.
    fn last_step<'p>(&self, KnownEnd { dir, name, child }: KnownEnd<'p>, last: Last) -> Result<Step<'p>> {
        let (found, looked) = match child {
            None if last != Last::Unseen => self.search_directory(dir, name)?,
            child => (child, None),
        };
        if let Some(link) = found
            && last != Last::Keep
            && self.is_link(link)?
        {
            return Ok(Step::Link { link, dir, rest: b"" });
        }
        Ok(Step::Arrived(Place { dir, name, ending: Ending::Name, found, slash: false, looked }))
    }

    #[inline(never)]
    fn walk_by_names<'p>(&self, who: &Caller<'_>, start: InodeId, path: &'p [u8], last: Last) -> Result<Step<'p>> {
        let mut dir = start;
        let mut rest = path;
        if rest.first() == Some(&b'/') {
            dir = self.root();
        }
        let mut place = Place { dir, name: b"", ending: Ending::Dot, found: Some(dir), slash: false, looked: None };
        if dir == self.root() {
            place.ending = Ending::Root;
        }
        loop {
            let had_slash = rest.first() == Some(&b'/');
            rest = skip_slashes(rest);
            if rest.is_empty() {
                place.slash |= had_slash && place.ending == Ending::Name;
                return Ok(Step::Arrived(place));
            }
            // What was found so far must be a directory to go on in.
            dir = place.found.ok_or(Errno::NOENT)?;
            let end = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            if name == b".." && dir == self.root() {
                self.search_permitted(who, dir)?;
                return Ok(Step::Outside { rest: after });
            }
            match name {
                b"." | b".." => {
                    self.search_permitted(who, dir)?;
                    let (to, ending) =
                        if name == b"." { (dir, Ending::Dot) } else { (self.parent(dir)?, Ending::DotDot) };
                    place = Place { dir: to, name: b"", ending, found: Some(to), slash: false, looked: None };
                }
                _ => {
                    let is_last = skip_slashes(after).is_empty();
                    let unseen = last == Last::Unseen && is_last;
                    let is_refused = last == Last::Create && is_last && !after.is_empty();
                    if unseen || is_refused {
                        self.search_permitted(who, dir)?;
                    } else {
                        self.search_permitted_before_lookup(who, dir)?;
                    }
                    if is_refused {
                        return Err(Errno::ISDIR);
                    }
                    let (found, looked) = if unseen { (None, None) } else { self.lookup(dir, name)? };
                    place = Place { dir, name, ending: Ending::Name, found, slash: false, looked };
                    if let Some(link) = found
                        && (last != Last::Keep || !is_last)
                        && self.is_link(link)?
                    {
                        return Ok(Step::Link { link, dir, rest: after });
                    }
                }
            }
            rest = after;
        }
    }

    /// Resolves a path to the place where it ends and runs `use_place` there, following links as `last` says. Two
    /// buffers of a path's length are used only when there are links.
    pub(crate) fn at_place<T>(
        &self,
        who: &Caller<'_>,
        start: InodeId,
        path: &[u8],
        last: impl Into<Last>,
        use_place: impl FnOnce(Place<'_>) -> Result<T>,
    ) -> Result<T> {
        let last = last.into();
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        if path.len() > PATH_LONGEST {
            return Err(Errno::NAMETOOLONG);
        }
        // Mostly all names are known: then the place is put together where it is used.
        let known = self.known_end(who, start, path, last);
        if let Some(KnownEnd { dir, name, child: Some(child) }) = known
            && (last == Last::Keep || !self.is_link(child)?)
        {
            let found = Some(child);
            return use_place(Place { dir, name, ending: Ending::Name, found, slash: false, looked: None });
        }
        match self.walk_on(known, who, start, path, last)? {
            Step::Arrived(place) => use_place(place),
            Step::Outside { .. } => Err(OUTSIDE),
            Step::Link { link, dir, rest } => {
                let mut buffer = PathBuffer::new();
                let from = self.follow(link, dir, rest, &mut buffer)?;
                self.at_place_through_links(who, from, buffer, last, use_place)
            }
        }
    }

    #[cold]
    fn at_place_through_links<T>(
        &self,
        who: &Caller<'_>,
        mut start: InodeId,
        mut buffer: PathBuffer,
        last: Last,
        use_place: impl FnOnce(Place<'_>) -> Result<T>,
    ) -> Result<T> {
        for followed in 1..=LINKS_LARGEST {
            let mut next = PathBuffer::new();
            match self.walk(who, start, buffer.as_bytes(), last)? {
                Step::Arrived(place) => return use_place(place),
                Step::Outside { .. } => return Err(OUTSIDE),
                Step::Link { .. } if followed == LINKS_LARGEST => break,
                Step::Link { link, dir, rest } => start = self.follow(link, dir, rest, &mut next)?,
            }
            buffer = next;
        }
        Err(Errno::LOOP)
    }

    /// Puts the target of `link` and `rest` into `into`; answers the directory from which that goes on. [`OUTSIDE`] when
    /// the target is absolute and not below the mount.
    fn follow(&self, link: InodeId, dir: InodeId, rest: &[u8], into: &mut PathBuffer) -> Result<InodeId> {
        let mut target = [0; PATH_LONGEST];
        let length = self.readlink(link, &mut target)?;
        let target = &target[..length];
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        let inside = self.below_prefix(target);
        if target[0] == b'/' && inside.is_none() {
            return Err(OUTSIDE);
        }
        into.push(inside.unwrap_or(target))?;
        if into.length == 0 {
            into.push(b"/")?;
        }
        into.push(rest)?;
        Ok(if inside.is_some() { self.root() } else { dir })
    }

    /// The rest of an absolute path below the prefix, with its leading slash; empty for the prefix itself.
    fn below_prefix<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let rest = path.strip_prefix(self.prefix())?;
        (!self.prefix().is_empty() && (rest.is_empty() || rest[0] == b'/')).then_some(rest)
    }

    /// Resolves a path to an inode.
    pub fn resolve(&self, who: &Caller<'_>, dir: InodeId, path: &[u8], last: LastLink) -> Result<InodeId> {
        // A path that ends in a slash means what a link points to.
        let last = if path.last() == Some(&b'/') { LastLink::Follow } else { last };
        self.at_place(who, dir, path, last, |place| {
            let found = place.found.ok_or(Errno::NOENT)?;
            if place.slash {
                let arrived = if self.is_directory(found)? { Ok(found) } else { Err(Errno::NOTDIR) };
                return self.while_there(found, arrived).map_err(gone);
            }
            Ok(found)
        })
    }

    /// For a path that answered [`OUTSIDE`]: the absolute path that the kernel must be asked for; its length in `out`.
    pub fn outside_path(
        &self,
        who: &Caller<'_>,
        dir: InodeId,
        path: &[u8],
        last: LastLink,
        out: &mut [u8; 4096],
    ) -> Result<usize> {
        let mut buffer = PathBuffer::new();
        buffer.push(path)?;
        let mut start = dir;
        for followed in 0..=LINKS_LARGEST {
            let mut next = PathBuffer::new();
            match self.walk(who, start, buffer.as_bytes(), last.into())? {
                Step::Arrived(_) => return Err(Errno::INVAL),
                Step::Outside { rest } => {
                    // The parent of the mount point, lexically: the prefix has no links below the mount.
                    let end = self.prefix().iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                    next.push(&self.prefix()[..end])?;
                    next.push(if rest.is_empty() { b"/" } else { rest })?;
                    return copy_path(next.as_bytes(), out);
                }
                Step::Link { .. } if followed == LINKS_LARGEST => break,
                Step::Link { link, dir, rest } => match self.follow(link, dir, rest, &mut next) {
                    Err(OUTSIDE) => {
                        let mut target = [0; PATH_LONGEST];
                        let length = self.readlink(link, &mut target)?;
                        next.push(&target[..length])?;
                        next.push(rest)?;
                        return copy_path(next.as_bytes(), out);
                    }
                    other => start = other?,
                },
            }
            buffer = next;
        }
        Err(Errno::LOOP)
    }
}

fn copy_path(path: &[u8], out: &mut [u8; 4096]) -> Result<usize> {
    if path.len() > PATH_LONGEST {
        return Err(Errno::NAMETOOLONG);
    }
    out[..path.len()].copy_from_slice(path);
    Ok(path.len())
}
