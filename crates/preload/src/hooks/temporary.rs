//! Files with a name that nobody has: libc would make them by itself.

use crate::answer::{Failure, give};
use crate::opening::{Wish, open_anywhere};
use crate::{covered, user};
use core::ffi::{c_char, c_int};
use lifeboat_fs::{Errno, LastLink, Result};

/// The characters that are replaced.
const MARK: &[u8] = b"XXXXXX";
const LETTERS: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
/// Names that are tried.
const TRIES: usize = 238_328;

/// Runs `make` on the template with ever other letters in place of the mark, until the name is new. The template in
/// the program's memory then holds the name.
fn with_new_name<T>(
    template: *mut c_char,
    suffix: c_int,
    mut make: impl FnMut(*const c_char) -> Result<T>,
) -> Result<T> {
    let mut room = user::Room::new();
    let text = user::path(template, &mut room)?;
    let suffix = usize::try_from(suffix).map_err(|_| Errno::INVAL)?;
    let at = text.len().checked_sub(suffix + MARK.len()).ok_or(Errno::INVAL)?;
    if text.get(at..at + MARK.len()) != Some(MARK) {
        return Err(Errno::INVAL);
    }
    let place = template.wrapping_add(at);
    for _ in 0..TRIES {
        user::put_bytes(place, &letters())?;
        match make(template) {
            Err(Errno::EXIST) => {}
            result => {
                if result.is_err() {
                    user::put_bytes(place, MARK)?;
                }
                return result;
            }
        }
    }
    user::put_bytes(place, MARK)?;
    Err(Errno::EXIST)
}

fn letters() -> [u8; MARK.len()] {
    let mut random = [0u8; 8];
    // SAFETY: the buffer has the length that is passed; `getrandom` is not hooked.
    let got = unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), libc::GRND_NONBLOCK) };
    let mut value = u64::from_ne_bytes(random);
    if got != random.len() as isize {
        value = lifeboat_region::process::now() as u64 ^ random.as_ptr() as u64;
    }
    let mut letters = [0; MARK.len()];
    for letter in &mut letters {
        *letter = LETTERS[(value % LETTERS.len() as u64) as usize];
        value /= LETTERS.len() as u64;
    }
    letters
}

#[inline(never)]
fn make_file(template: *mut c_char, suffix: c_int, flags: c_int) -> Result<c_int> {
    let flags = flags & !libc::O_ACCMODE | libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    with_new_name(template, suffix, |name| {
        let kernel = libc_function!(c"openat", fn(c_int, *const c_char, c_int, libc::mode_t) -> c_int);
        let wish = Wish { directory: libc::AT_FDCWD, name, flags, mode: 0o600 };
        match open_anywhere(wish, |directory, name| kernel(directory, name, flags, 0o600), |_| false, give) {
            -1 => Err(Errno::from_raw_os_error(crate::answer::errno())),
            descriptor => Ok(descriptor),
        }
    })
}

#[inline(never)]
fn make_directory(name: *const c_char) -> Result<()> {
    match super::names::mkdir(name, 0o700) {
        0 => Ok(()),
        _ => Err(Errno::from_raw_os_error(crate::answer::errno())),
    }
}

/// libc's own way for templates of the kernel's; ours for those of the mount, and for those that turn out to lead
/// there.
fn make<C: Failure + Copy>(template: *mut c_char, theirs: impl Fn() -> C, ours: impl Fn() -> C) -> C {
    if super::path_is_ours(libc::AT_FDCWD, template) {
        return ours();
    }
    let answer = theirs();
    if !answer.failed() || !covered::explains_error() {
        return answer;
    }
    let mut buffer = [0; user::PATH_MAX];
    match covered::entered(libc::AT_FDCWD, template, LastLink::Keep, &mut buffer) {
        Some(_) => ours(),
        None => answer,
    }
}

hooks! {
    fn mkstemp(template: *mut c_char) -> c_int, also mkstemp64 {
        make(template, || next(template), || give(make_file(template, 0, 0)))
    }

    fn mkostemp(template: *mut c_char, flags: c_int) -> c_int, also mkostemp64 {
        make(template, || next(template, flags), || give(make_file(template, 0, flags)))
    }

    fn mkstemps(template: *mut c_char, suffix: c_int) -> c_int, also mkstemps64 {
        make(template, || next(template, suffix), || give(make_file(template, suffix, 0)))
    }

    fn mkostemps(template: *mut c_char, suffix: c_int, flags: c_int) -> c_int, also mkostemps64 {
        make(template, || next(template, suffix, flags), || give(make_file(template, suffix, flags)))
    }

    fn mktemp(template: *mut c_char) -> *mut c_char {
        let ours = || {
            let free = with_new_name(template, 0, |name| {
                // SAFETY: a C structure of integers, for which zeros are valid.
                let mut found: libc::stat = unsafe { core::mem::zeroed() };
                match super::stat::lstat(name, &mut found) {
                    0 => Err(Errno::EXIST),
                    _ if crate::answer::errno() == libc::ENOENT => Ok(()),
                    _ => Err(Errno::from_raw_os_error(crate::answer::errno())),
                }
            });
            // What could not be found is an empty name.
            if free.is_err() {
                let _ = user::put_bytes(template, b"\0");
            }
            template
        };
        if super::path_is_ours(libc::AT_FDCWD, template) { ours() } else { next(template) }
    }

    fn mkdtemp(template: *mut c_char) -> *mut c_char {
        let ours = || give(with_new_name(template, 0, make_directory).map(|()| template));
        make(template, || next(template), ours)
    }
}
