//! `syscall`: programs that reach the kernel by number, because their libc has no function for a call, or out of habit.
//! The numbers by which a file is reached lead to the hooks of the calls of that name; all others go on.
//!
//! C declares the function variadic. On the machines served here its arguments travel as those of a function of seven
//! words, of which the last ones are whatever was there when fewer are passed.

use super::{
    attributes, copying, data, descriptor, directories, execution, locks, memory, names, opening, process,
    socket_names, sockets, space, stat, whereabouts, xattr,
};
use crate::answer::{fail, give};
use crate::mappings::Wish;
use crate::opening::{self as opens, is_covered, open_anywhere};
use crate::sharing::Fork;
use crate::{state, user};
use core::ffi::{c_char, c_int, c_long, c_uint, c_void};
use core::sync::atomic::{AtomicBool, Ordering};
use lifeboat_fs::{Errno, Result};

/// The words behind the number.
pub(crate) type Words = [usize; 6];

/// A word as a C argument.
trait Argument {
    fn of(word: usize) -> Self;
}

macro_rules! arguments {
    ($($kind:ty),*) => { $( impl Argument for $kind { fn of(word: usize) -> Self { word as Self } } )* };
}

arguments!(c_int, c_uint, i64, u64, usize);

impl<T> Argument for *const T {
    fn of(word: usize) -> Self {
        word as Self
    }
}

impl<T> Argument for *mut T {
    fn of(word: usize) -> Self {
        word as Self
    }
}

/// What a hook answers, as a word.
trait Word {
    fn word(self) -> c_long;
}

impl Word for c_int {
    fn word(self) -> c_long {
        self.into()
    }
}

impl Word for i64 {
    fn word(self) -> c_long {
        self
    }
}

impl Word for isize {
    fn word(self) -> c_long {
        self as c_long
    }
}

impl<T> Word for *mut T {
    fn word(self) -> c_long {
        self as c_long
    }
}

/// Calls a hook with the first words.
macro_rules! with {
    ($words:ident, $function:path $(, $index:literal)*) => {
        $function($(Argument::of($words[$index])),*).word()
    };
}

/// The calls that every machine has. `None` for other numbers.
fn common(number: c_long, words: &Words) -> Option<c_long> {
    const AT_CALL: c_int = 0;
    Some(match number {
        libc::SYS_read => with!(words, data::read, 0, 1, 2),
        libc::SYS_write => with!(words, data::write, 0, 1, 2),
        libc::SYS_pread64 => with!(words, data::pread, 0, 1, 2, 3),
        libc::SYS_pwrite64 => with!(words, data::pwrite, 0, 1, 2, 3),
        libc::SYS_readv => with!(words, data::readv, 0, 1, 2),
        libc::SYS_writev => with!(words, data::writev, 0, 1, 2),
        libc::SYS_preadv => with!(words, data::preadv, 0, 1, 2, 3),
        libc::SYS_pwritev => with!(words, data::pwritev, 0, 1, 2, 3),
        libc::SYS_preadv2 => with!(words, data::preadv2, 0, 1, 2, 3, 5),
        libc::SYS_pwritev2 => with!(words, data::pwritev2, 0, 1, 2, 3, 5),
        libc::SYS_lseek => with!(words, data::lseek, 0, 1, 2),
        libc::SYS_openat => with!(words, opening::openat, 0, 1, 2, 3),
        libc::SYS_openat2 => openat2(words),
        libc::SYS_close => with!(words, descriptor::close, 0),
        libc::SYS_close_range => with!(words, descriptor::close_range, 0, 1, 2),
        libc::SYS_dup => with!(words, descriptor::dup, 0),
        libc::SYS_dup3 => with!(words, descriptor::dup3, 0, 1, 2),
        libc::SYS_fcntl => with!(words, descriptor::fcntl, 0, 1, 2),
        libc::SYS_ioctl => with!(words, descriptor::ioctl, 0, 1, 2),
        libc::SYS_flock => with!(words, locks::flock, 0, 1),
        libc::SYS_sendfile => with!(words, copying::sendfile, 0, 1, 2, 3),
        libc::SYS_copy_file_range => with!(words, copying::copy_file_range, 0, 1, 2, 3, 4, 5),
        libc::SYS_splice => with!(words, copying::splice, 0, 1, 2, 3, 4, 5),
        libc::SYS_ftruncate => with!(words, space::ftruncate, 0, 1),
        libc::SYS_truncate => with!(words, space::truncate, 0, 1),
        libc::SYS_fallocate => with!(words, space::fallocate, 0, 1, 2, 3),
        libc::SYS_fsync => with!(words, space::fsync, 0),
        libc::SYS_fdatasync => with!(words, space::fdatasync, 0),
        libc::SYS_syncfs => with!(words, space::syncfs, 0),
        libc::SYS_sync_file_range => with!(words, space::sync_file_range, 0, 1, 2, 3),
        libc::SYS_readahead => with!(words, space::readahead, 0, 1, 2),
        // The function of that name answers the error's number, the call sets `errno`.
        libc::SYS_fadvise64 => match space::posix_fadvise(
            Argument::of(words[0]),
            Argument::of(words[1]),
            Argument::of(words[2]),
            Argument::of(words[3]),
        ) {
            0 => 0,
            error => fail(Errno::from_raw_os_error(error)),
        },
        // Not by the functions of that name: message passing libraries put a jump in front of those, which leads to
        // themselves and then here.
        libc::SYS_mmap => memory::map(
            Wish {
                address: Argument::of(words[0]),
                length: words[1],
                protection: Argument::of(words[2]),
                flags: Argument::of(words[3]),
                descriptor: Argument::of(words[4]),
                offset: Argument::of(words[5]),
            },
            map_by_number,
        )
        .word(),
        libc::SYS_munmap => {
            memory::unmap(Argument::of(words[0]), words[1], || next(libc::SYS_munmap, words) as c_int).word()
        }
        libc::SYS_mremap => {
            let theirs = || next(libc::SYS_mremap, words) as *mut c_void;
            memory::remap(Argument::of(words[0]), words[1], words[2], Argument::of(words[3]), theirs).word()
        }
        libc::SYS_fstat => with!(words, stat::fstat, 0, 1),
        libc::SYS_newfstatat => with!(words, stat::fstatat, 0, 1, 2, 3),
        libc::SYS_statx => with!(words, stat::statx, 0, 1, 2, 3, 4),
        libc::SYS_statfs => with!(words, stat::statfs, 0, 1),
        libc::SYS_fstatfs => with!(words, stat::fstatfs, 0, 1),
        libc::SYS_faccessat => {
            attributes::faccessat(Argument::of(words[0]), Argument::of(words[1]), Argument::of(words[2]), AT_CALL)
                .word()
        }
        libc::SYS_faccessat2 => with!(words, attributes::faccessat, 0, 1, 2, 3),
        libc::SYS_fchmod => with!(words, attributes::fchmod, 0, 1),
        libc::SYS_fchmodat => {
            attributes::fchmodat(Argument::of(words[0]), Argument::of(words[1]), Argument::of(words[2]), AT_CALL).word()
        }
        libc::SYS_fchown => with!(words, attributes::fchown, 0, 1, 2),
        libc::SYS_fchownat => with!(words, attributes::fchownat, 0, 1, 2, 3, 4),
        libc::SYS_utimensat => utimensat(words),
        libc::SYS_mkdirat => with!(words, names::mkdirat, 0, 1, 2),
        libc::SYS_mknodat => with!(words, names::mknodat, 0, 1, 2, 3),
        libc::SYS_unlinkat => with!(words, names::unlinkat, 0, 1, 2),
        libc::SYS_renameat => with!(words, names::renameat, 0, 1, 2, 3),
        libc::SYS_renameat2 => with!(words, names::renameat2, 0, 1, 2, 3, 4),
        libc::SYS_linkat => with!(words, names::linkat, 0, 1, 2, 3, 4),
        libc::SYS_symlinkat => with!(words, names::symlinkat, 0, 1, 2),
        libc::SYS_readlinkat => with!(words, names::readlinkat, 0, 1, 2, 3),
        libc::SYS_getdents64 => with!(words, directories::getdents64, 0, 1, 2),
        libc::SYS_chdir => with!(words, whereabouts::chdir, 0),
        libc::SYS_fchdir => with!(words, whereabouts::fchdir, 0),
        libc::SYS_getcwd => current_directory(words),
        libc::SYS_execve => with!(words, execution::execve, 0, 1, 2),
        libc::SYS_execveat => with!(words, execution::execveat, 0, 1, 2, 3, 4),
        libc::SYS_bind => with!(words, sockets::bind, 0, 1, 2),
        libc::SYS_connect => with!(words, sockets::connect, 0, 1, 2),
        libc::SYS_getsockname => with!(words, socket_names::getsockname, 0, 1, 2),
        libc::SYS_getpeername => with!(words, socket_names::getpeername, 0, 1, 2),
        libc::SYS_accept => with!(words, socket_names::accept, 0, 1, 2),
        libc::SYS_accept4 => with!(words, socket_names::accept4, 0, 1, 2, 3),
        libc::SYS_sendmsg => with!(words, descriptor::sendmsg, 0, 1, 2),
        libc::SYS_recvmsg => with!(words, descriptor::recvmsg, 0, 1, 2),
        libc::SYS_getxattr => with!(words, xattr::getxattr, 0, 1, 2, 3),
        libc::SYS_lgetxattr => with!(words, xattr::lgetxattr, 0, 1, 2, 3),
        libc::SYS_fgetxattr => with!(words, xattr::fgetxattr, 0, 1, 2, 3),
        libc::SYS_setxattr => with!(words, xattr::setxattr, 0, 1, 2, 3, 4),
        libc::SYS_lsetxattr => with!(words, xattr::lsetxattr, 0, 1, 2, 3, 4),
        libc::SYS_fsetxattr => with!(words, xattr::fsetxattr, 0, 1, 2, 3, 4),
        libc::SYS_listxattr => with!(words, xattr::listxattr, 0, 1, 2),
        libc::SYS_llistxattr => with!(words, xattr::llistxattr, 0, 1, 2),
        libc::SYS_flistxattr => with!(words, xattr::flistxattr, 0, 1, 2),
        libc::SYS_removexattr => with!(words, xattr::removexattr, 0, 1),
        libc::SYS_lremovexattr => with!(words, xattr::lremovexattr, 0, 1),
        libc::SYS_fremovexattr => with!(words, xattr::fremovexattr, 0, 1),
        // A read that these carry out would find the placeholder's end of file, in silence.
        libc::SYS_io_uring_setup => {
            no_rings();
            fail(Errno::NOSYS)
        }
        libc::SYS_io_submit => submit(words),
        _ => return None,
    })
}

/// Says once that there are no rings.
fn no_rings() {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        let mount = crate::message::Shown(crate::environment::mount());
        crate::message::say(format_args!(
            "io_uring is not available in programs that see {mount}: take synchronous or POSIX asynchronous calls"
        ));
    }
}

/// Requests of `libaio`: none for files of ours gets to the kernel.
fn submit(words: &Words) -> c_long {
    /// Place of the descriptor in `struct iocb`.
    const DESCRIPTOR_AT: usize = 20;
    let list = words[2] as *const *const u8;
    let count = words[1].min(1 << 16);
    let ours = (0..count).find(|&index| {
        let request = user::get(list.wrapping_add(index));
        let number = request.and_then(|request| user::get(request.wrapping_add(DESCRIPTOR_AT).cast::<c_int>()));
        number.is_ok_and(|number| crate::descriptors::find(number).is_some())
    });
    match ours {
        None => next(libc::SYS_io_submit, words),
        Some(0) => {
            static SAID: AtomicBool = AtomicBool::new(false);
            if !SAID.swap(true, Ordering::Relaxed) {
                let mount = crate::message::Shown(crate::environment::mount());
                crate::message::say(format_args!(
                    "libaio does not reach files below {mount}: take synchronous or POSIX asynchronous calls"
                ));
            }
            fail(Errno::INVAL)
        }
        // Those before it, as the kernel does when it meets a request that it cannot take.
        Some(before) => next(libc::SYS_io_submit, &[words[0], before, words[2], 0, 0, 0]),
    }
}

/// What liburing's functions answer: it makes its calls by itself.
fn without_rings(theirs: impl FnOnce() -> c_int) -> c_int {
    if !state::configured() {
        return theirs();
    }
    no_rings();
    -libc::ENOSYS
}

hooks! {
    fn io_uring_queue_init(entries: c_uint, ring: *mut c_void, flags: c_uint) -> c_int {
        without_rings(|| next(entries, ring, flags))
    }

    fn io_uring_queue_init_params(entries: c_uint, ring: *mut c_void, parameters: *mut c_void) -> c_int {
        without_rings(|| next(entries, ring, parameters))
    }

    fn io_uring_queue_init_mem(
        entries: c_uint,
        ring: *mut c_void,
        parameters: *mut c_void,
        memory: *mut c_void,
        size: usize,
    ) -> c_int {
        without_rings(|| next(entries, ring, parameters, memory, size))
    }

    fn io_uring_setup(entries: c_uint, parameters: *mut c_void) -> c_int {
        without_rings(|| next(entries, parameters))
    }
}

/// The calls that only older machines have.
#[cfg(target_arch = "x86_64")]
fn older(number: c_long, words: &Words) -> Option<c_long> {
    Some(match number {
        libc::SYS_open => with!(words, opening::open, 0, 1, 2),
        libc::SYS_creat => with!(words, opening::creat, 0, 1),
        libc::SYS_dup2 => with!(words, descriptor::dup2, 0, 1),
        libc::SYS_stat => with!(words, stat::stat, 0, 1),
        libc::SYS_lstat => with!(words, stat::lstat, 0, 1),
        libc::SYS_access => with!(words, attributes::access, 0, 1),
        libc::SYS_chmod => with!(words, attributes::chmod, 0, 1),
        libc::SYS_chown => with!(words, attributes::chown, 0, 1, 2),
        libc::SYS_lchown => with!(words, attributes::lchown, 0, 1, 2),
        libc::SYS_utime => with!(words, attributes::utime, 0, 1),
        libc::SYS_utimes => with!(words, attributes::utimes, 0, 1),
        libc::SYS_mkdir => with!(words, names::mkdir, 0, 1),
        libc::SYS_rmdir => with!(words, names::rmdir, 0),
        libc::SYS_mknod => with!(words, names::mknod, 0, 1, 2),
        libc::SYS_unlink => with!(words, names::unlink, 0),
        libc::SYS_rename => with!(words, names::rename, 0, 1),
        libc::SYS_link => with!(words, names::link, 0, 1),
        libc::SYS_symlink => with!(words, names::symlink, 0, 1),
        libc::SYS_readlink => with!(words, names::readlink, 0, 1, 2),
        libc::SYS_fork => with!(words, process::fork),
        _ => return None,
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn older(_number: c_long, _words: &Words) -> Option<c_long> {
    None
}

fn map_by_number(
    address: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    descriptor: c_int,
    offset: libc::off_t,
) -> *mut c_void {
    let numbers = [protection, flags, descriptor].map(|number| number as usize);
    let words = [address as usize, length, numbers[0], numbers[1], numbers[2], offset as usize];
    next(libc::SYS_mmap, &words) as *mut c_void
}

/// `struct open_how`.
#[repr(C)]
#[derive(Clone, Copy)]
struct How {
    flags: u64,
    mode: u64,
    resolve: u64,
}

fn openat2(words: &Words) -> c_long {
    let (directory, name, size) = (words[0] as c_int, words[1] as *const c_char, words[3]);
    let theirs = |directory: c_int, name: *const c_char| {
        next(libc::SYS_openat2, &[directory as usize, name as usize, words[2], size, 0, 0]) as c_int
    };
    let how = match user::get(words[2] as *const How) {
        Ok(how) if size >= size_of::<How>() => how,
        _ => return theirs(directory, name).into(),
    };
    let flags = how.flags as c_int;
    let wish = opens::Wish { directory, name, flags, mode: how.mode as libc::mode_t };
    let ours = |opened: Result<c_int>| match opened {
        Ok(descriptor) => match refusal(how) {
            None => descriptor,
            Some(error) => {
                descriptor::close(descriptor);
                fail(error)
            }
        },
        Err(error) => fail(error),
    };
    // What cannot be kept is refused before a file is made.
    if let Some(error) = refusal(how)
        && super::path_is_ours(directory, name)
    {
        return fail(error);
    }
    open_anywhere(wish, theirs, |&descriptor| is_covered(descriptor, flags), ours).into()
}

/// Why a file of ours is not opened so: a promise about the way that is not kept here, for which programs have another
/// way.
fn refusal(how: How) -> Option<Errno> {
    const CACHED: u64 = 0x20;
    const KEPT: u64 = 0x01 | 0x02;
    const ALL: u64 = 0x3f;
    const FLAGS: c_int = libc::O_ACCMODE
        | libc::O_CREAT
        | libc::O_EXCL
        | libc::O_NOCTTY
        | libc::O_TRUNC
        | libc::O_APPEND
        | libc::O_NONBLOCK
        | libc::O_SYNC
        | libc::O_ASYNC
        | libc::O_DIRECT
        | libc::O_DIRECTORY
        | libc::O_NOFOLLOW
        | libc::O_NOATIME
        | libc::O_CLOEXEC
        | libc::O_PATH
        | libc::O_TMPFILE
        | 0o100_000;
    let makes = how.flags & libc::O_CREAT as u64 != 0 || how.flags & 0o20_000_000 != 0;
    let modes = if makes { 0o7777 } else { 0 };
    if how.flags & !(FLAGS as u64) != 0 || how.mode & !modes != 0 || how.resolve & !ALL != 0 {
        return Some(Errno::INVAL);
    }
    if how.resolve & CACHED != 0 {
        return Some(Errno::AGAIN);
    }
    if how.resolve & !KEPT != 0 { Some(Errno::NOSYS) } else { None }
}

/// Without a path, the descriptor is meant.
fn utimensat(words: &Words) -> c_long {
    if words[1] == 0 {
        return with!(words, attributes::futimens, 0, 2);
    }
    with!(words, attributes::utimensat, 0, 1, 2, 3)
}

/// The call answers the length with the NUL.
fn current_directory(words: &Words) -> c_long {
    let buffer = words[0] as *mut c_char;
    if crate::working_directory::current().is_none() {
        return next(libc::SYS_getcwd, words);
    }
    if buffer.is_null() {
        return fail(Errno::FAULT);
    }
    if whereabouts::getcwd(buffer, words[1]).is_null() {
        return -1;
    }
    // SAFETY: `getcwd` has just put a C string there.
    give(Ok(unsafe { libc::strlen(buffer) } as u64 + 1))
}

/// Calls the kernel.
pub(crate) fn next(number: c_long, words: &Words) -> c_long {
    let [a, b, c, d, e, f] = *words;
    libc_function!(c"syscall", fn(c_long, usize, usize, usize, usize, usize, usize) -> c_long)(number, a, b, c, d, e, f)
}

/// Calls the kernel by number.
#[unsafe(no_mangle)]
extern "C" fn syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long {
    serve(number, &[a, b, c, d, e, f])
}

/// The call with this number: by its hook where it has one.
pub(crate) fn serve(number: c_long, words: &Words) -> c_long {
    let _sharing = before_new_process(number, words);
    if state::configured()
        && let Some(answer) = common(number, words).or_else(|| older(number, words))
    {
        return answer;
    }
    next(number, words)
}

/// To be called before a call that may make a process which holds what this one has open; what is answered lives until it is over.
pub(crate) fn before_new_process(number: c_long, words: &Words) -> Option<Fork> {
    let flags = match number {
        libc::SYS_clone => words[0] as u64,
        libc::SYS_clone3 => user::get(words[0] as *const u64).unwrap_or(0),
        libc::SYS_vfork => 0,
        _ => return None,
    };
    if flags & libc::CLONE_FILES as u64 == 0 { process::about_to_share() } else { None }
}

/// Whether a call names a file of ours, by a path or by a descriptor in its first word.
pub(crate) fn is_about_ours(number: c_long, words: &Words) -> bool {
    let path = |directory: c_int, at: usize| super::path_is_ours(directory, words[at] as *const c_char);
    match number {
        libc::SYS_openat
        | libc::SYS_openat2
        | libc::SYS_newfstatat
        | libc::SYS_statx
        | libc::SYS_faccessat
        | libc::SYS_faccessat2
        | libc::SYS_fchmodat
        | libc::SYS_fchownat
        | libc::SYS_utimensat
        | libc::SYS_mkdirat
        | libc::SYS_mknodat
        | libc::SYS_unlinkat
        | libc::SYS_renameat
        | libc::SYS_renameat2
        | libc::SYS_linkat
        | libc::SYS_readlinkat => path(words[0] as c_int, 1),
        libc::SYS_symlinkat => path(words[1] as c_int, 2),
        libc::SYS_mmap => crate::descriptors::find(words[4] as c_int).is_some(),
        libc::SYS_munmap | libc::SYS_mremap => false,
        libc::SYS_truncate | libc::SYS_statfs | libc::SYS_chdir | libc::SYS_execve => path(libc::AT_FDCWD, 0),
        _ => crate::descriptors::find(words[0] as c_int).is_some() || is_older_about_ours(number, words),
    }
}

#[cfg(target_arch = "x86_64")]
fn is_older_about_ours(number: c_long, words: &Words) -> bool {
    let named = [
        libc::SYS_open,
        libc::SYS_creat,
        libc::SYS_stat,
        libc::SYS_lstat,
        libc::SYS_access,
        libc::SYS_chmod,
        libc::SYS_chown,
        libc::SYS_lchown,
        libc::SYS_utime,
        libc::SYS_utimes,
        libc::SYS_mkdir,
        libc::SYS_rmdir,
        libc::SYS_mknod,
        libc::SYS_unlink,
        libc::SYS_rename,
        libc::SYS_link,
        libc::SYS_readlink,
    ];
    named.contains(&number) && super::path_is_ours(libc::AT_FDCWD, words[0] as *const c_char)
}

#[cfg(not(target_arch = "x86_64"))]
fn is_older_about_ours(_number: c_long, _words: &Words) -> bool {
    false
}
