//! Which descriptors are ours: one table look-up per call, and what dup, fork and close do to it.

use crate::{kept_tags, sharing, signals, state, tags};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use lifeboat_fs::{Errno, FileSystem, OpenFile, Result};
use lifeboat_region::DESCRIPTORS_ASIDE;
use rustix::fd::BorrowedFd;
use rustix::fs::{Mode, OFlags};

/// Descriptors below this number are found by one load; the others by asking the kernel.
const TABLE_SIZE: usize = 1 << 16;

/// Open-file numbers are below this.
pub const NUMBERS_MAX: u32 = UNSURE - 1;

/// Some other descriptor, here or in another process, may be of the same open file.
const SHARED: u32 = 1 << 31;

/// Entered while a fork was under way: the kernel copies descriptors first and memory later, so in the child the descriptor may be
/// another one, or none.
const UNSURE: u32 = 1 << 30;

/// 0: not ours; otherwise the open file's number + 1, `SHARED` and `UNSURE`.
static TABLE: [AtomicU32; TABLE_SIZE] = [const { AtomicU32::new(0) }; TABLE_SIZE];

/// How much of the table may be used: nothing before the environment was read.
static LIMIT: AtomicU32 = AtomicU32::new(0);

/// One past the highest descriptor that was ever ours.
static HIGHEST: AtomicI32 = AtomicI32::new(0);

/// A descriptor of ours.
#[derive(Clone, Copy)]
pub struct Entry {
    /// What it stands for.
    pub file: OpenFile,
    /// Whether another descriptor may exist, here or elsewhere.
    pub shared: bool,
}

#[inline(always)]
fn number_plus_one(value: u32) -> u32 {
    value & !(SHARED | UNSURE)
}

fn decode(value: u32) -> Option<Entry> {
    let number = number_plus_one(value).checked_sub(1)?;
    Some(Entry { file: OpenFile(number), shared: value & SHARED != 0 })
}

fn encode(entry: Entry) -> u32 {
    (entry.file.0 + 1) | if entry.shared { SHARED } else { 0 }
}

/// The environment has been read: the table can be believed.
pub fn begin() {
    LIMIT.store(TABLE_SIZE as u32, Ordering::Release);
}

/// The open file that `descriptor` stands for; `None` when it is the kernel's.
#[inline(always)]
pub fn find(descriptor: libc::c_int) -> Option<OpenFile> {
    if (descriptor as u32) < LIMIT.load(Ordering::Relaxed) {
        let number = number_plus_one(TABLE[descriptor as usize].load(Ordering::Relaxed)).checked_sub(1)?;
        return Some(OpenFile(number));
    }
    find_slowly(descriptor)
}

#[cold]
#[inline(never)]
fn find_slowly(descriptor: libc::c_int) -> Option<OpenFile> {
    if descriptor < 0 || !state::configured() {
        return None;
    }
    if (descriptor as u32) < LIMIT.load(Ordering::Acquire) {
        return find(descriptor);
    }
    // Before the first attach there can be no such descriptor but inherited ones, whose discovery attaches.
    if !state::attached() { None } else { tags::behind(descriptor) }
}

fn entry_of(descriptor: libc::c_int) -> Option<Entry> {
    match TABLE.get(usize::try_from(descriptor).ok()?) {
        Some(word) => decode(word.load(Ordering::Relaxed)),
        None => find(descriptor).map(|file| Entry { file, shared: true }),
    }
}

/// Enters a descriptor that the kernel has just made.
pub fn enter(descriptor: libc::c_int, entry: Entry) {
    if let Some(word) = usize::try_from(descriptor).ok().and_then(|index| TABLE.get(index)) {
        // Asked after the kernel made it: if no fork was announced by now, one that copies descriptors later copies this one.
        let unsure = if sharing::is_forking() { UNSURE } else { 0 };
        word.store(encode(entry) | unsure, Ordering::Relaxed);
        HIGHEST.fetch_max(descriptor + 1, Ordering::Relaxed);
    }
}

/// Takes a descriptor out of the table.
fn remove(descriptor: libc::c_int) -> Option<Entry> {
    match TABLE.get(usize::try_from(descriptor).ok()?) {
        Some(word) => decode(word.swap(0, Ordering::Relaxed)),
        None => entry_of(descriptor),
    }
}

/// All open files of this process are about to get a second holder (fork, a descriptor sent over a socket).
pub fn mark_all_shared() {
    for word in TABLE.iter().take(HIGHEST.load(Ordering::Relaxed).max(0) as usize) {
        if word.load(Ordering::Relaxed) != 0 {
            word.fetch_or(SHARED, Ordering::Relaxed);
        }
    }
    kept_tags::forget_all();
}

/// In the child of a fork: takes out of the table what another thread entered there while its parent forked, unless the kernel says
/// that the descriptor is what the table says. What is taken out is the kernel's, and holds nothing of ours.
pub fn forget_unsure() {
    for (descriptor, word) in TABLE.iter().enumerate().take(HIGHEST.load(Ordering::Relaxed).max(0) as usize) {
        let value = word.load(Ordering::Relaxed);
        if value & UNSURE == 0 {
            continue;
        }
        let is_so = decode(value).is_some_and(|entry| {
            let generation = state::file_system().and_then(|file_system| file_system.generation_of(entry.file));
            generation.is_ok_and(|generation| tags::holds(descriptor as libc::c_int, entry.file, generation))
        });
        word.store(if is_so { value & !UNSURE } else { 0 }, Ordering::Relaxed);
    }
}

/// Another descriptor of the same open file may exist.
pub fn mark_shared(descriptor: libc::c_int) {
    if let Some(word) = usize::try_from(descriptor).ok().and_then(|index| TABLE.get(index)) {
        word.fetch_or(SHARED, Ordering::Relaxed);
    }
    if let Some(file) = find(descriptor) {
        kept_tags::forget(file);
    }
}

/// Closes a descriptor of ours.
pub fn close(descriptor: libc::c_int) -> Result<()> {
    let file_system = state::file_system()?;
    let _held = signals::hold();
    if state::borrows_memory() {
        return close_in_kernel(descriptor);
    }
    let before = sharing::Moment::now();
    let entry = remove(descriptor).ok_or(Errno::BADF)?;
    end_process_locks(&file_system, entry);
    match entry {
        entry if !entry.shared => {
            // SAFETY: a descriptor of ours that is open until it is closed below.
            let tag = unsafe { BorrowedFd::borrow_raw(descriptor) };
            let access = file_system.flags_of(entry.file).map(tags::access);
            // Through a descriptor for reading nothing was written.
            if access != Ok(libc::O_RDONLY) {
                tags::tell_of_strays(entry.file, || rustix::fs::fstat(tag));
            }
            // In this order, because the number of an unheld tag may be given to another open file at any moment.
            let closed = match access {
                Ok(access) => kept_tags::close(&file_system, entry.file, (tag, access), before),
                Err(_) => file_system.close(entry.file),
            };
            close_in_kernel(descriptor)?;
            closed
        }
        entry => {
            let generation = file_system.generation_of(entry.file);
            close_in_kernel(descriptor)?;
            tags::release_if_unheld(&file_system, entry.file, generation);
            Ok(())
        }
    }
}

/// Closing any descriptor of a file, but one with `O_PATH`, ends all locks that the process has on it as a process.
fn end_process_locks(file_system: &FileSystem, entry: Entry) {
    if !file_system.has_process_locks() {
        return;
    }
    let is_path = |flags: i32| flags & libc::O_PATH != 0;
    if let (Ok(inode), Ok(false)) = (file_system.inode_of(entry.file), file_system.flags_of(entry.file).map(is_path)) {
        // What a damaged region refuses here is found when it is in somebody's way.
        let _ = file_system.release_process_locks(inode);
    }
}

/// Closes a descriptor for the kernel only.
fn close_in_kernel(descriptor: libc::c_int) -> Result<()> {
    // Not rustix's: it does not say whether the number was open.
    let close = libc_function!(c"close", fn(libc::c_int) -> libc::c_int);
    if close(descriptor) == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(crate::answer::errno())) }
}

/// After the kernel made `new` another descriptor of what `old` is (`old` not ours: of something else): brings the
/// table up to date and lets go of what `new` was before.
pub fn duplicated(old: libc::c_int, new: libc::c_int) {
    if !state::attached() || old == new || state::borrows_memory() {
        return;
    }
    let _held = signals::hold();
    let before = remove_if_tabled(new);
    if let Some(entry) = entry_of(old) {
        mark_shared(old);
        enter(new, Entry { shared: true, ..entry });
    }
    if let Some(entry) = before {
        release(entry);
    }
}

fn remove_if_tabled(descriptor: libc::c_int) -> Option<Entry> {
    let index = usize::try_from(descriptor).ok()?;
    TABLE.get(index).and_then(|word| decode(word.swap(0, Ordering::Relaxed)))
}

/// After libc or the kernel closed a descriptor of ours without asking us.
pub fn vanished(descriptor: libc::c_int) {
    if state::borrows_memory() {
        return;
    }
    let _held = signals::hold();
    if let Some(entry) = remove_if_tabled(descriptor) {
        release(entry);
    }
}

fn release(entry: Entry) {
    if let Ok(file_system) = state::file_system() {
        end_process_locks(&file_system, entry);
        tags::release_if_unheld(&file_system, entry.file, file_system.generation_of(entry.file));
    }
}

/// Enters a descriptor that came from elsewhere (inherited, received), if it is a placeholder. True when it is.
pub fn adopt_foreign(descriptor: libc::c_int) -> bool {
    let Some(file) = tags::behind(descriptor) else { return false };
    enter(descriptor, Entry { file, shared: true });
    true
}

/// Finds the descriptors of ours that this program image was started with.
pub fn rediscover() {
    let mut found = false;
    for_each_open(|descriptor| found |= adopt_foreign(descriptor));
    if found {
        // stdio's tables must be ready before the program's first `printf` into such a file.
        let _ = state::file_system();
    }
}

/// A program that was executed here keeps the locks of the process on the files that it inherited, and no others.
pub fn inherit_process_locks(file_system: &FileSystem) {
    let open_here =
        |inode| (0..highest()).filter_map(entry_of).any(|entry| file_system.inode_of(entry.file) == Ok(inode));
    // Locks that could not be looked at are found when they are in somebody's way.
    let _ = file_system.inherit_process_locks(&open_here);
}

/// The descriptors that the region and this library keep open; -1 for one that is not.
fn internal() -> [libc::c_int; 5] {
    if !state::attached() {
        return [-1; 5];
    }
    state::file_system().map_or([-1; 5], |file_system| file_system.region().own_descriptors())
}

/// Opens the region's folders again when somebody closed them past this library (a raw `close_range`), under the numbers by which
/// they are known. True when anything was missing.
#[cold]
pub fn restore(file_system: &FileSystem) -> bool {
    let [directory, tags, images, _, _] = file_system.region().own_descriptors();
    // Nothing but a place to start from: another thread may still use the number that one of them has for a moment as that of a
    // file that was closed behind it.
    let folder = OFlags::PATH | OFlags::DIRECTORY;
    let mut restored = false;
    for (at, number, name) in [(0, directory, &b""[..]), (1, images, b"/images"), (2, tags, b"/tags")] {
        restored |= restore_if_closed(Part { number, name, flags: folder, at });
    }
    restored
}

/// As [`restore`], of the region's file, which only mappings need: such a use of its momentary number could cut it short.
#[cold]
pub fn restore_file(file_system: &FileSystem) -> bool {
    let [_, _, _, file, _] = file_system.region().own_descriptors();
    restore_if_closed(Part { number: file, name: b"/memory/region", flags: OFlags::RDWR, at: 3 })
}

/// A descriptor that the region needs.
struct Part {
    /// By which it is known.
    number: libc::c_int,
    /// Below the region's directory.
    name: &'static [u8],
    flags: OFlags,
    /// Which one it is.
    at: libc::c_int,
}

/// Times that a descriptor is opened again which turned out to be something else: others close and open, too.
const RESTORED_MAX: usize = 8;
/// Numbers for each part, so that who restores one does not take the other for his.
const NUMBERS_ASIDE: libc::c_int = 3;

fn restore_if_closed(part: Part) -> bool {
    let closed = borrow(part.number).is_ok_and(|number| rustix::io::fcntl_getfd(number) == Err(Errno::BADF));
    closed && (0..RESTORED_MAX).any(|_| restore_one(&part).is_ok())
}

fn restore_one(part: &Part) -> Result<()> {
    let mut path = [0u8; crate::user::PATH_MAX];
    let folder = crate::environment::region();
    let length = folder.len() + part.name.len();
    path.get_mut(..length).ok_or(Errno::NAMETOOLONG)?[..folder.len()].copy_from_slice(folder);
    path[folder.len()..length].copy_from_slice(part.name);
    let path = &path[..length];
    let opened = rustix::fs::open(path, part.flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    // To where numbers are not taken and given up all the time; before that it may have become something else.
    let opened = lifeboat_region::out_of_the_way(opened, DESCRIPTORS_ASIDE + NUMBERS_ASIDE * part.at);
    let (found, meant) = (rustix::fs::fstat(&opened)?, rustix::fs::lstat(path)?);
    if (found.st_dev, found.st_ino) != (meant.st_dev, meant.st_ino) {
        return Err(Errno::AGAIN);
    }
    let duplicate = libc_function!(c"dup3", fn(libc::c_int, libc::c_int, libc::c_int) -> libc::c_int);
    match duplicate(rustix::fd::AsRawFd::as_raw_fd(&opened), part.number, libc::O_CLOEXEC) {
        -1 => Err(Errno::from_raw_os_error(crate::answer::errno())),
        _ => Ok(()),
    }
}

/// Whether the region needs this descriptor.
pub fn is_internal(descriptor: libc::c_int) -> bool {
    // They are out of the way unless the limit on descriptors is very low.
    descriptor >= 0 && state::attached() && internal().contains(&descriptor)
}

/// The lowest internal descriptor at or above `from`.
pub fn next_internal(from: u32) -> Option<u32> {
    internal().iter().filter_map(|&internal| u32::try_from(internal).ok()).filter(|&internal| internal >= from).min()
}

/// One past the highest descriptor that was ever ours.
pub fn highest() -> libc::c_int {
    HIGHEST.load(Ordering::Relaxed)
}

/// Whether `descriptor` is in the table (not asking the kernel for high numbers).
pub fn is_tabled(descriptor: libc::c_int) -> bool {
    usize::try_from(descriptor)
        .ok()
        .and_then(|index| TABLE.get(index))
        .is_some_and(|word| word.load(Ordering::Relaxed) != 0)
}

/// Asks the kernel for the numbers of all open descriptors; that of the question itself is left out.
pub fn for_each_open(mut use_it: impl FnMut(libc::c_int)) {
    let Ok(folder) =
        rustix::fs::open(c"/proc/self/fd", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    else {
        return;
    };
    let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
    let mut entries = rustix::fs::RawDir::new(&folder, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let number = lifeboat_region::process::parse_decimal(entry.file_name().to_bytes());
        if let Some(number) = number.and_then(|number| libc::c_int::try_from(number).ok())
            && number != rustix::fd::AsRawFd::as_raw_fd(&folder)
        {
            use_it(number);
        }
    }
}

/// A descriptor to give to the kernel.
pub fn borrow(descriptor: libc::c_int) -> Result<BorrowedFd<'static>> {
    if descriptor < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: whether it is open is the kernel's to say; it is only passed on.
    Ok(unsafe { BorrowedFd::borrow_raw(descriptor) })
}
