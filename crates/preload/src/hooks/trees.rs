//! `nftw` and `ftw`: libc walks a tree with calls of its own, which cannot be hooked, so a walk that may come to the
//! mount is made here with ours.

use super::{directories, opening, stat, whereabouts};
use crate::answer::errno;
use crate::{covered, state};
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::null_mut;

const PHYSICAL: c_int = 1;
const ONE_DEVICE: c_int = 2;
const CHANGE_DIRECTORY: c_int = 4;
const DEPTH_FIRST: c_int = 8;
const ACT_ON_ANSWER: c_int = 16;

const FILE: c_int = 0;
const DIRECTORY: c_int = 1;
const UNREADABLE: c_int = 2;
const NO_ATTRIBUTES: c_int = 3;
const LINK: c_int = 4;
const DIRECTORY_AFTER: c_int = 5;
const DANGLING: c_int = 6;

/// Answers of the program's function when it asked to be listened to.
const SKIP_BELOW: c_int = 2;
const SKIP_BESIDE: c_int = 3;

/// `struct FTW`.
#[repr(C)]
struct Place {
    base: c_int,
    level: c_int,
}

type Visit = extern "C" fn(*const c_char, *const libc::stat, c_int, *mut Place) -> c_int;
type SimpleVisit = extern "C" fn(*const c_char, *const libc::stat, c_int) -> c_int;

#[derive(Clone, Copy)]
enum Visitor {
    Full(Visit),
    Simple(SimpleVisit),
}

/// Memory of libc's heap, given back when dropped.
pub(super) struct Heap<T> {
    items: *mut T,
    count: usize,
    room: usize,
}

impl<T: Copy> Heap<T> {
    pub(super) const fn new() -> Heap<T> {
        Heap { items: null_mut(), count: 0, room: 0 }
    }

    pub(super) fn push(&mut self, item: T) -> Option<()> {
        if self.count == self.room {
            let room = (self.room * 2).max(64);
            // SAFETY: null, or memory of this allocator; never too large for the multiplication in practice, and
            // checked all the same.
            let grown = unsafe { libc::realloc(self.items.cast(), room.checked_mul(size_of::<T>())?) };
            if grown.is_null() {
                return None;
            }
            self.items = grown.cast();
            self.room = room;
        }
        // SAFETY: `count < room`.
        unsafe { self.items.add(self.count).write(item) };
        self.count += 1;
        Some(())
    }

    fn truncate(&mut self, count: usize) {
        self.count = self.count.min(count);
    }

    pub(super) fn extend(&mut self, items: &[T]) -> Option<()> {
        items.iter().try_for_each(|item| self.push(*item))
    }

    pub(super) fn as_slice(&self) -> &[T] {
        if self.items.is_null() {
            return &[];
        }
        // SAFETY: `count` items were written.
        unsafe { core::slice::from_raw_parts(self.items, self.count) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        if self.items.is_null() {
            return &mut [];
        }
        // SAFETY: as above.
        unsafe { core::slice::from_raw_parts_mut(self.items, self.count) }
    }
}

impl<T> Drop for Heap<T> {
    fn drop(&mut self) {
        // SAFETY: null, or memory of this allocator.
        unsafe { libc::free(self.items.cast()) };
    }
}

/// The directories that were met: a table of 2^n places, at most half of them taken; inode number 0 is a free one.
struct Met {
    places: Heap<(u64, u64)>,
    taken: usize,
}

impl Met {
    const fn new() -> Met {
        Met { places: Heap::new(), taken: 0 }
    }

    /// Enters a directory; whether it is new. `None` when there is no memory.
    fn enter(&mut self, key: (u64, u64)) -> Option<bool> {
        if self.taken * 2 >= self.places.count {
            self.grow()?;
        }
        let new = insert(self.places.as_mut_slice(), key);
        self.taken += new as usize;
        Some(new)
    }

    fn grow(&mut self) -> Option<()> {
        let mut larger = Heap::new();
        for _ in 0..(self.places.count * 2).max(64) {
            larger.push((0, 0))?;
        }
        for &key in self.places.as_slice().iter().filter(|(_, inode)| *inode != 0) {
            insert(larger.as_mut_slice(), key);
        }
        self.places = larger;
        Some(())
    }
}

/// False when it was there.
fn insert(places: &mut [(u64, u64)], key: (u64, u64)) -> bool {
    let mask = places.len().wrapping_sub(1);
    let mut at = (key.0 ^ key.1).wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize >> 20;
    loop {
        match places.get_mut(at & mask) {
            Some(place) if place.1 == 0 => {
                *place = key;
                return true;
            }
            Some(place) if *place == key => return false,
            None => return true,
            Some(_) => at += 1,
        }
    }
}

/// Why a walk ends early: what is to be answered.
struct Stop(c_int);

const FAILED: Stop = Stop(-1);

struct Walk {
    visitor: Visitor,
    flags: c_int,
    /// Directory in which relative paths begin, also after the walk has gone elsewhere.
    start: c_int,
    /// The path of the visited object and its NUL.
    path: Heap<u8>,
    level: c_int,
    device: u64,
    /// Where links are followed: every directory is visited once.
    met: Met,
}

impl Walk {
    fn path(&self) -> *const c_char {
        self.path.items.cast_const().cast()
    }

    fn visit(&mut self, found: &libc::stat, kind: c_int, base: usize) -> c_int {
        match self.visitor {
            Visitor::Full(visit) => {
                let mut place = Place { base: base as c_int, level: self.level };
                visit(self.path(), found, kind, &mut place)
            }
            Visitor::Simple(visit) => {
                let kind = match kind {
                    LINK => FILE,
                    DIRECTORY_AFTER => DIRECTORY,
                    DANGLING => NO_ATTRIBUTES,
                    kind => kind,
                };
                visit(self.path(), found, kind)
            }
        }
    }

    fn attributes(&self, found: &mut libc::stat) -> Result<c_int, Stop> {
        let physical = self.flags & PHYSICAL != 0;
        let flags = if physical { libc::AT_SYMLINK_NOFOLLOW } else { 0 };
        if stat::fstatat(self.start, self.path(), found, flags) == 0 {
            return Ok(match found.st_mode & libc::S_IFMT {
                libc::S_IFDIR => DIRECTORY,
                libc::S_IFLNK => LINK,
                _ => FILE,
            });
        }
        if errno() != libc::EACCES && errno() != libc::ENOENT {
            return Err(FAILED);
        }
        let dangling = !physical
            && stat::fstatat(self.start, self.path(), found, libc::AT_SYMLINK_NOFOLLOW) == 0
            && found.st_mode & libc::S_IFMT == libc::S_IFLNK;
        Ok(if dangling { DANGLING } else { NO_ATTRIBUTES })
    }

    /// Visits what the path names, and all below.
    fn object(&mut self, base: usize) -> Result<c_int, Stop> {
        // SAFETY: a C structure of integers, for which zeros are valid.
        let mut found: libc::stat = unsafe { core::mem::zeroed() };
        let kind = self.attributes(&mut found)?;
        if self.level == 0 {
            if kind == NO_ATTRIBUTES {
                return Err(FAILED);
            }
            self.device = found.st_dev;
        }
        if kind != NO_ATTRIBUTES && self.flags & ONE_DEVICE != 0 && found.st_dev != self.device {
            return Ok(0);
        }
        let answer = if kind == DIRECTORY {
            if self.flags & PHYSICAL == 0 && !self.met.enter((found.st_dev, found.st_ino)).ok_or(FAILED)? {
                return Ok(0);
            }
            self.directory(&found, base)?
        } else {
            self.visit(&found, kind, base)
        };
        if self.flags & ACT_ON_ANSWER != 0 && answer == SKIP_BELOW {
            return Ok(0);
        }
        Ok(answer)
    }

    fn directory(&mut self, found: &libc::stat, base: usize) -> Result<c_int, Stop> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NONBLOCK;
        let descriptor = opening::openat(self.start, self.path(), flags, 0);
        if descriptor < 0 {
            return if errno() == libc::EACCES { Ok(self.visit(found, UNREADABLE, base)) } else { Err(FAILED) };
        }
        let mut names = Heap::new();
        let stream = directories::fdopendir(descriptor);
        if stream.is_null() {
            super::descriptor::close(descriptor);
            return Err(FAILED);
        }
        if self.flags & DEPTH_FIRST == 0 {
            let answer = self.visit(found, DIRECTORY, base);
            if answer != 0 {
                directories::closedir(stream);
                return Ok(answer);
            }
        }
        let read = read_names(stream, &mut names);
        directories::closedir(stream);
        read?;
        self.level += 1;
        let answer = self.entries(&names);
        self.level -= 1;
        let mut answer = answer?;
        if self.flags & ACT_ON_ANSWER != 0 && answer == SKIP_BESIDE {
            answer = 0;
        }
        // As in libc, still standing in the directory that is visited.
        if answer == 0 && self.flags & DEPTH_FIRST != 0 {
            answer = self.visit(found, DIRECTORY_AFTER, base);
        }
        self.go_to_parent()?;
        Ok(answer)
    }

    fn entries(&mut self, names: &Heap<u8>) -> Result<c_int, Stop> {
        self.go_to_path()?;
        let length = self.path.count - 1;
        self.path.truncate(length);
        if self.path.as_slice().last() != Some(&b'/') {
            self.path.push(b'/').ok_or(FAILED)?;
        }
        let base = self.path.count;
        let mut answer = 0;
        for name in names.as_slice().split_inclusive(|&byte| byte == 0) {
            self.path.truncate(base);
            self.path.extend(name).ok_or(FAILED)?;
            answer = self.object(base)?;
            if answer != 0 {
                break;
            }
        }
        self.path.truncate(length);
        self.path.push(0).ok_or(FAILED)?;
        Ok(answer)
    }

    /// With `FTW_CHDIR`: stands in the directory whose entries are visited.
    fn go_to_path(&mut self) -> Result<(), Stop> {
        if self.flags & CHANGE_DIRECTORY == 0 {
            return Ok(());
        }
        if whereabouts::fchdir(self.start) != 0 || whereabouts::chdir(self.path()) != 0 { Err(FAILED) } else { Ok(()) }
    }

    fn go_to_parent(&mut self) -> Result<(), Stop> {
        if self.flags & CHANGE_DIRECTORY == 0 {
            return Ok(());
        }
        if whereabouts::fchdir(self.start) != 0 {
            return Err(FAILED);
        }
        let end = self.path.as_slice().iter().rposition(|&byte| byte == b'/');
        let mut parent = Heap::new();
        parent.extend(&self.path.as_slice()[..end.map_or(0, |end| end.max(1))]).ok_or(FAILED)?;
        if parent.count == 0 {
            return Ok(());
        }
        parent.push(0).ok_or(FAILED)?;
        if whereabouts::chdir(parent.items.cast_const().cast()) != 0 { Err(FAILED) } else { Ok(()) }
    }
}

/// The names of a directory, each with its NUL.
fn read_names(stream: *mut libc::DIR, names: &mut Heap<u8>) -> Result<(), Stop> {
    loop {
        crate::answer::set_errno(0);
        let entry = directories::readdir(stream);
        if entry.is_null() {
            return if errno() == 0 { Ok(()) } else { Err(FAILED) };
        }
        // SAFETY: an entry of the stream, whose name ends with a NUL.
        let name = unsafe { CStr::from_ptr((&raw const (*entry).d_name).cast()) };
        if name != c"." && name != c".." {
            names.extend(name.to_bytes_with_nul()).ok_or(FAILED)?;
        }
    }
}

/// Whether a walk from here may come to the mount: it begins there, or above, or follows links.
pub(super) fn may_come_to_mount(path: *const c_char, follows: bool) -> bool {
    if !state::configured() || path.is_null() {
        return false;
    }
    follows || !crate::path::surely_foreign(libc::AT_FDCWD, path) || covered::is_below(path)
}

fn may_enter(path: *const c_char, flags: c_int) -> bool {
    may_come_to_mount(path, flags & PHYSICAL == 0)
}

fn walk(path: *const c_char, visitor: Visitor, flags: c_int) -> c_int {
    // SAFETY: the program passed a C string, as libc requires.
    let text = unsafe { CStr::from_ptr(path) }.to_bytes();
    let start = opening::openat(libc::AT_FDCWD, c".".as_ptr(), libc::O_PATH | libc::O_CLOEXEC | libc::O_DIRECTORY, 0);
    if start < 0 {
        return -1;
    }
    // Slashes at the end are left out, but for the root.
    let end = text.iter().rposition(|&byte| byte != b'/').map_or(text.len().min(1), |last| last + 1);
    let base = text[..end].iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let mut walk = Walk { visitor, flags, start, path: Heap::new(), level: 0, device: 0, met: Met::new() };
    let result = walk.path.extend(&text[..end]).and_then(|()| walk.path.push(0)).ok_or(FAILED).and_then(|()| {
        let begun = walk.go_to_parent();
        let base = if end > 1 { base } else { 0 };
        begun.and_then(|()| walk.object(base))
    });
    let error = errno();
    if flags & CHANGE_DIRECTORY != 0 {
        whereabouts::fchdir(start);
    }
    super::descriptor::close(start);
    crate::answer::set_errno(error);
    match result {
        // A skip of what is beside the top means nothing.
        Ok(answer) if flags & ACT_ON_ANSWER != 0 && answer == SKIP_BESIDE => 0,
        Ok(answer) | Err(Stop(answer)) => answer,
    }
}

hooks! {
    fn nftw(path: *const c_char, visit: *const c_void, descriptors: c_int, flags: c_int) -> c_int, also nftw64 {
        if !may_enter(path, flags) {
            return next(path, visit, descriptors, flags);
        }
        // SAFETY: the program passed a function of this form.
        walk(path, Visitor::Full(unsafe { core::mem::transmute::<*const c_void, Visit>(visit) }), flags)
    }

    fn ftw(path: *const c_char, visit: *const c_void, descriptors: c_int) -> c_int, also ftw64 {
        if !may_enter(path, 0) {
            return next(path, visit, descriptors);
        }
        // SAFETY: as above.
        walk(path, Visitor::Simple(unsafe { core::mem::transmute::<*const c_void, SimpleVisit>(visit) }), 0)
    }
}
