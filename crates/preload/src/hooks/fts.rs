//! `fts_open` and its kin, where a walk may come to the mount: libc walks with calls of its own, which cannot be hooked.
//!
//! Walks made here never change the working directory: that they might is an optimisation of which programs are told
//! that they cannot rely on it.

mod entry;

use super::{directories, stat, trees};
use crate::answer::{errno, set_errno};
use core::ffi::{CStr, c_char, c_int, c_ushort, c_void};
use core::mem::zeroed;
use core::ptr::null_mut;
use entry::*;

/// What the entries of a directory are looked up for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Their names.
    Names,
    /// The program asked for them.
    Children,
    /// To be visited next.
    Visit,
}

impl Stream {
    /// Looks at what an entry is.
    ///
    /// # Safety
    /// `entry` and its parents must be entries of this stream.
    unsafe fn examine(&self, entry: *mut Entry, follow: bool) -> c_ushort {
        // SAFETY: by the function's contract.
        let entry = unsafe { &mut *entry };
        let found = entry.attributes;
        if self.options & LOGICAL != 0 || follow {
            if stat::stat(entry.access_path, found) != 0 {
                let error = errno();
                if stat::lstat(entry.access_path, found) == 0 {
                    set_errno(0);
                    return DANGLING;
                }
                entry.error = error;
                // SAFETY: zeros are valid; the place is the entry's own.
                unsafe { *found = zeroed() };
                return NO_ATTRIBUTES;
            }
        } else if stat::lstat(entry.access_path, found) != 0 {
            entry.error = errno();
            // SAFETY: as above.
            unsafe { *found = zeroed() };
            return NO_ATTRIBUTES;
        }
        // SAFETY: filled just now.
        let found = unsafe { &*found };
        match found.st_mode & libc::S_IFMT {
            libc::S_IFDIR => {
                (entry.device, entry.inode, entry.links) = (found.st_dev, found.st_ino, found.st_nlink);
                if entry.is_dot() {
                    return DOT;
                }
                let mut above = entry.parent;
                // SAFETY: the chain of parents ends above the roots.
                while !above.is_null() && unsafe { (*above).level } >= ROOT_LEVEL {
                    // SAFETY: as above.
                    if unsafe { ((*above).device, (*above).inode) } == (entry.device, entry.inode) {
                        entry.cycle = above;
                        return CYCLE;
                    }
                    // SAFETY: as above.
                    above = unsafe { (*above).parent };
                }
                DIRECTORY
            }
            libc::S_IFLNK => LINK,
            libc::S_IFREG => FILE,
            _ => OTHER,
        }
    }

    /// Makes an entry the current one.
    ///
    /// # Safety
    /// `entry` must be one of this stream, or null.
    unsafe fn arrive(&mut self, entry: *mut Entry) -> *mut Entry {
        self.current = entry;
        if !entry.is_null() {
            // SAFETY: by the function's contract.
            (self.path, self.path_length) = unsafe { ((*entry).path, (*entry).path_length as c_int) };
        }
        entry
    }

    /// The entries of the current directory, as a list; null when there are none, or on failure.
    ///
    /// # Safety
    /// The current entry must be one of this stream.
    unsafe fn build(&mut self, purpose: Purpose) -> *mut Entry {
        // SAFETY: by the function's contract.
        let directory = unsafe { &mut *self.current };
        let opened = directories::opendir(directory.access_path);
        if opened.is_null() {
            if purpose == Purpose::Visit {
                directory.info = UNREADABLE;
                directory.error = errno();
            }
            return null_mut();
        }
        let mut list = Found { first: null_mut(), last: null_mut(), count: 0 };
        // SAFETY: as above.
        let complete = unsafe { self.read_all(opened, purpose, &mut list) };
        let error = errno();
        directories::closedir(opened);
        set_errno(error);
        if !complete {
            // SAFETY: the list is new, and nothing leads to it.
            unsafe { release_list(list.first) };
            directory.info = FAILED;
            self.options |= STOPPED;
            return null_mut();
        }
        if list.count == 0 && purpose == Purpose::Visit {
            directory.info = DIRECTORY_AFTER;
        }
        self.sorted(list)
    }

    /// Reads a directory to its end; false when there is no memory.
    ///
    /// # Safety
    /// As for [`Stream::build`].
    unsafe fn read_all(&mut self, opened: *mut libc::DIR, purpose: Purpose, list: &mut Found) -> bool {
        // SAFETY: by the function's contract.
        let directory = unsafe { &*self.current };
        let mut beginning = trees::Heap::new();
        let path = directory.path();
        if beginning.extend(path.strip_suffix(b"/").unwrap_or(path)).and_then(|()| beginning.push(b'/')).is_none() {
            return false;
        }
        // Where attributes need not be found out, a directory's links tell how many directories are in it.
        let spares = self.options & NO_STAT != 0 && self.options & PHYSICAL != 0;
        let own_links: libc::nlink_t = if self.options & SEE_DOT != 0 { 0 } else { 2 };
        let mut directories_left = if spares { Some(directory.links.saturating_sub(own_links)) } else { None };
        loop {
            let found = directories::readdir(opened);
            if found.is_null() {
                return true;
            }
            // SAFETY: an entry of the stream, whose name ends with a NUL.
            let (name, kind) = unsafe { (CStr::from_ptr((&raw const (*found).d_name).cast()), (*found).d_type) };
            if self.options & SEE_DOT == 0 && (name == c"." || name == c"..") {
                continue;
            }
            let entry = allocate(name.to_bytes(), beginning.as_slice());
            if entry.is_null() {
                return false;
            }
            let known_other = spares && kind != libc::DT_DIR && kind != libc::DT_UNKNOWN;
            // SAFETY: made just now; the current entry is its parent.
            unsafe {
                (*entry).parent = self.current;
                (*entry).level = directory.level.saturating_add(1);
                (*entry).info = if purpose == Purpose::Names || directories_left == Some(0) || known_other {
                    NOT_ASKED
                } else {
                    self.examine(entry, false)
                };
                if let Some(left) = &mut directories_left
                    && matches!((*entry).info, DIRECTORY | CYCLE | DOT)
                {
                    *left = left.saturating_sub(1);
                }
                list.append(entry);
            }
        }
    }

    /// The list in the order that the program wants.
    fn sorted(&mut self, list: Found) -> *mut Entry {
        let Some(compare) = self.compare.filter(|_| list.count > 1) else { return list.first };
        let mut entries = trees::Heap::new();
        let mut entry = list.first;
        while !entry.is_null() {
            if entries.push(entry).is_none() {
                // In the order that they were found in, as libc does.
                return list.first;
            }
            // SAFETY: a list of entries of this stream.
            entry = unsafe { (*entry).link };
        }
        // SAFETY: only the type of the pointers differs, which the program's function knows.
        let compare = unsafe { core::mem::transmute::<Compare, CompareAny>(compare) };
        let sort = libc_function!(c"qsort", fn(*mut c_void, usize, usize, CompareAny) -> ());
        sort(entries.as_mut_slice().as_mut_ptr().cast(), list.count, size_of::<*mut Entry>(), compare);
        let mut link = null_mut();
        for &entry in entries.as_slice().iter().rev() {
            // SAFETY: an entry of this stream.
            unsafe { (*entry).link = link };
            link = entry;
        }
        link
    }

    /// Makes a root the current entry: its name is what comes after the last slash.
    ///
    /// # Safety
    /// `root` must be a root of this stream.
    unsafe fn load(&mut self, root: *mut Entry) -> *mut Entry {
        // SAFETY: by the function's contract; the name only gets shorter.
        unsafe {
            let name = (*root).name().to_bytes();
            if let Some(slash) = name.iter().rposition(|&byte| byte == b'/')
                && name.len() > 1
            {
                let rest = name.len() - slash - 1;
                let start = (&raw mut (*root).name).cast::<u8>();
                core::ptr::copy(start.add(slash + 1), start, rest + 1);
                (*root).name_length = rest as c_ushort;
            }
            self.device = (*root).device;
            self.arrive(root)
        }
    }

    /// The next entry of the walk.
    ///
    /// # Safety
    /// The stream must be one that `open` made.
    unsafe fn read(&mut self) -> *mut Entry {
        if self.current.is_null() || self.options & STOPPED != 0 {
            return null_mut();
        }
        let entry = self.current;
        // SAFETY: the entries of a stream stay until the walk has passed them, so this one and its parents are there.
        unsafe {
            let instruction = core::mem::replace(&mut (*entry).instruction, NOTHING);
            if instruction == AGAIN {
                (*entry).info = self.examine(entry, false);
                return entry;
            }
            if instruction == FOLLOW && matches!((*entry).info, LINK | DANGLING) {
                (*entry).info = self.examine(entry, true);
                return entry;
            }
            if (*entry).info == DIRECTORY { self.descend(entry, instruction) } else { self.pass(entry) }
        }
    }

    /// After a directory was shown: what is in it, or the directory once more.
    ///
    /// # Safety
    /// As for [`Stream::read`].
    unsafe fn descend(&mut self, directory: *mut Entry, instruction: c_ushort) -> *mut Entry {
        // SAFETY: by the function's contract.
        unsafe {
            let elsewhere = self.options & ONE_DEVICE != 0 && (*directory).device != self.device;
            if instruction == SKIP || elsewhere {
                release_list(core::mem::replace(&mut self.child, null_mut()));
                (*directory).info = DIRECTORY_AFTER;
                return directory;
            }
            if self.options & NAMES_ONLY != 0 {
                self.options &= !NAMES_ONLY;
                release_list(core::mem::replace(&mut self.child, null_mut()));
            }
            let mut first = core::mem::replace(&mut self.child, null_mut());
            if first.is_null() {
                first = self.build(Purpose::Visit);
            }
            if first.is_null() {
                return if self.options & STOPPED != 0 { null_mut() } else { directory };
            }
            self.arrive(first)
        }
    }

    /// Goes on after an entry, which is freed.
    ///
    /// # Safety
    /// As for [`Stream::read`].
    unsafe fn pass(&mut self, passed: *mut Entry) -> *mut Entry {
        let mut passed = passed;
        // SAFETY: by the function's contract; an entry is freed when nothing leads to it any more.
        unsafe {
            loop {
                let (next, parent) = ((*passed).link, (*passed).parent);
                release(passed);
                if next.is_null() {
                    return self.ascend(parent);
                }
                if (*next).level == ROOT_LEVEL {
                    return self.load(next);
                }
                match (*next).instruction {
                    SKIP => passed = next,
                    FOLLOW => {
                        (*next).info = self.examine(next, true);
                        (*next).instruction = NOTHING;
                        return self.arrive(next);
                    }
                    _ => return self.arrive(next),
                }
            }
        }
    }

    /// Back in a directory after what is in it, or at the end.
    ///
    /// # Safety
    /// As for [`Stream::read`].
    unsafe fn ascend(&mut self, directory: *mut Entry) -> *mut Entry {
        // SAFETY: by the function's contract.
        unsafe {
            if (*directory).level < ROOT_LEVEL {
                release(directory);
                set_errno(0);
                return self.arrive(null_mut());
            }
            (*directory).info = if (*directory).error != 0 { FAILED } else { DIRECTORY_AFTER };
            self.arrive(directory)
        }
    }
}

/// A walk over these roots; null on failure.
///
/// # Safety
/// `roots` must be an array of C strings that a null pointer ends.
unsafe fn open(roots: *const *mut c_char, options: c_int, compare: Option<Compare>) -> *mut Stream {
    // SAFETY: zeros are valid for all fields; the program passed the array.
    unsafe {
        let stream = libc::calloc(1, size_of::<Stream>()).cast::<Stream>();
        let top = allocate(b"", b"");
        let beginning = allocate(b"", b"");
        let mut list = Found { first: null_mut(), last: null_mut(), count: 0 };
        let done = !stream.is_null() && !top.is_null() && !beginning.is_null() && {
            (*top).level = ROOT_LEVEL - 1;
            (*stream).compare = compare;
            (*stream).options = options | OURS;
            (*stream).descriptor = -1;
            add_roots(&mut *stream, roots, top, &mut list)
        };
        if !done {
            let error = errno();
            release_list(list.first);
            release(top);
            release(beginning);
            libc::free(stream.cast());
            set_errno(error);
            return null_mut();
        }
        // What the first reading goes on from.
        (*beginning).link = (*stream).sorted(list);
        (*beginning).parent = top;
        (*beginning).info = BEGINNING;
        (*stream).current = beginning;
        stream
    }
}

/// # Safety
/// As for [`open`].
unsafe fn add_roots(stream: &mut Stream, roots: *const *mut c_char, top: *mut Entry, list: &mut Found) -> bool {
    // SAFETY: by the function's contract.
    unsafe {
        for index in 0.. {
            let root = *roots.add(index);
            if root.is_null() {
                break;
            }
            let text = CStr::from_ptr(root).to_bytes();
            if text.is_empty() {
                set_errno(libc::ENOENT);
                return false;
            }
            let entry = allocate(text, b"");
            if entry.is_null() {
                return false;
            }
            (*entry).parent = top;
            (*entry).level = ROOT_LEVEL;
            list.append(entry);
            (*entry).info = stream.examine(entry, stream.options & FOLLOW_ROOTS != 0);
            // A root is a real directory, whatever its name.
            if (*entry).info == DOT {
                (*entry).info = DIRECTORY;
            }
        }
        true
    }
}

/// Whether a stream is one of ours.
fn is_ours(stream: *mut Stream) -> bool {
    // SAFETY: the program passes what `fts_open` gave, of us or of libc, in which the options have the same place.
    !stream.is_null() && unsafe { (*stream).options } & OURS != 0
}

/// Whether a walk over these roots may come to the mount.
fn may_enter(roots: *const *mut c_char, options: c_int) -> bool {
    if !crate::state::configured() || roots.is_null() || options & !OPTIONS != 0 {
        return false;
    }
    // SAFETY: as for `open`.
    let paths = (0..).map(|index| unsafe { *roots.add(index) }).take_while(|root| !root.is_null());
    let follows = options & PHYSICAL == 0 || options & FOLLOW_ROOTS != 0;
    paths.into_iter().any(|path| trees::may_come_to_mount(path, follows))
}

hooks! {
    fn fts_open(roots: *const *mut c_char, options: c_int, compare: *const c_void) -> *mut c_void, also fts64_open {
        if !may_enter(roots, options) {
            return next(roots, options, compare);
        }
        // SAFETY: the program passed a function of this form, or none, and the array that is described.
        unsafe { open(roots, options, core::mem::transmute::<*const c_void, Option<Compare>>(compare)).cast() }
    }

    fn fts_read(stream: *mut c_void) -> *mut c_void, also fts64_read {
        let ours = stream.cast::<Stream>();
        if !is_ours(ours) {
            return next(stream);
        }
        // SAFETY: a stream that `open` made.
        unsafe { (*ours).read().cast() }
    }

    fn fts_children(stream: *mut c_void, instruction: c_int) -> *mut c_void, also fts64_children {
        let ours = stream.cast::<Stream>();
        if !is_ours(ours) {
            return next(stream, instruction);
        }
        if instruction != 0 && instruction != NAMES_ONLY {
            set_errno(libc::EINVAL);
            return null_mut();
        }
        // SAFETY: as above.
        unsafe { children(&mut *ours, instruction).cast() }
    }

    fn fts_set(stream: *mut c_void, entry: *mut c_void, instruction: c_int) -> c_int, also fts64_set {
        if !is_ours(stream.cast()) {
            return next(stream, entry, instruction);
        }
        if !(0..=SKIP as c_int).contains(&instruction) {
            set_errno(libc::EINVAL);
            return 1;
        }
        // SAFETY: an entry that the program got from the stream.
        unsafe { (*entry.cast::<Entry>()).instruction = instruction as c_ushort };
        0
    }

    fn fts_close(stream: *mut c_void) -> c_int, also fts64_close {
        let ours = stream.cast::<Stream>();
        if !is_ours(ours) {
            return next(stream);
        }
        // SAFETY: as above; nothing of the stream is used afterwards.
        unsafe { close(ours) };
        0
    }
}

/// # Safety
/// The stream must be one that `open` made.
unsafe fn children(stream: &mut Stream, instruction: c_int) -> *mut Entry {
    set_errno(0);
    if stream.current.is_null() || stream.options & STOPPED != 0 {
        return null_mut();
    }
    // SAFETY: by the function's contract.
    unsafe {
        match (*stream.current).info {
            BEGINNING => return (*stream.current).link,
            DIRECTORY => {}
            _ => return null_mut(),
        }
        release_list(core::mem::replace(&mut stream.child, null_mut()));
        let purpose = if instruction == NAMES_ONLY {
            stream.options |= NAMES_ONLY;
            Purpose::Names
        } else {
            Purpose::Children
        };
        stream.child = stream.build(purpose);
        stream.child
    }
}

/// # Safety
/// As for [`children`]; the stream is gone afterwards.
unsafe fn close(stream: *mut Stream) {
    // SAFETY: by the function's contract; every entry is reached once, from the current one sidewards and upwards.
    unsafe {
        release_list((*stream).child);
        let mut entry = (*stream).current;
        while !entry.is_null() {
            let parent = (*entry).parent;
            release_list(entry);
            entry = parent;
        }
        libc::free(stream.cast());
    }
}
