//! Files with a name that nobody has: libc would make them by itself.

use crate::answer::{fail, give};
use crate::opening::{Opened, open as open_ours};
use crate::path::{self, Place};
use crate::{call, user};
use core::ffi::{c_char, c_int};
use core::ptr::null_mut;
use lifeboat_fs::{Errno, OUTSIDE, Result};

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
    let mut buffer = [0; user::PATH_MAX];
    let text = user::path(template, &mut buffer)?;
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
        let mut outside = [0; user::PATH_MAX];
        match open_ours(libc::AT_FDCWD, name, flags, 0o600, &mut outside) {
            Opened::Done(result) => result,
            // Through a link to a place outside: a file there needs libc's own way.
            Opened::Foreign | Opened::Outside => Err(Errno::XDEV),
        }
    })
}

#[inline(never)]
fn make_directory(name: *const c_char) -> Result<()> {
    let mut buffer = [0; user::PATH_MAX];
    match path::locate(libc::AT_FDCWD, name, &mut buffer) {
        Place::Ours(start, rest) => match call::call(|file_system, who| file_system.mkdir(who, start, rest, 0o700)) {
            Err(OUTSIDE) => Err(Errno::XDEV),
            result => result,
        },
        Place::Refused(error) => Err(error),
        Place::Foreign | Place::Descriptor(_) => Err(Errno::XDEV),
    }
}

/// Whether a template is ours.
fn ours(template: *const c_char) -> bool {
    if path::surely_foreign(libc::AT_FDCWD, template) {
        return false;
    }
    let mut buffer = [0; user::PATH_MAX];
    !matches!(path::locate(libc::AT_FDCWD, template, &mut buffer), Place::Foreign)
}

hooks! {
    fn mkstemp(template: *mut c_char) -> c_int, also mkstemp64 {
        if !ours(template) {
            return next(template);
        }
        give(make_file(template, 0, 0))
    }

    fn mkostemp(template: *mut c_char, flags: c_int) -> c_int, also mkostemp64 {
        if !ours(template) {
            return next(template, flags);
        }
        give(make_file(template, 0, flags))
    }

    fn mkstemps(template: *mut c_char, suffix: c_int) -> c_int, also mkstemps64 {
        if !ours(template) {
            return next(template, suffix);
        }
        give(make_file(template, suffix, 0))
    }

    fn mkostemps(template: *mut c_char, suffix: c_int, flags: c_int) -> c_int, also mkostemps64 {
        if !ours(template) {
            return next(template, suffix, flags);
        }
        give(make_file(template, suffix, flags))
    }

    fn mkdtemp(template: *mut c_char) -> *mut c_char {
        if !ours(template) {
            return next(template);
        }
        match with_new_name(template, 0, make_directory) {
            Ok(()) => template,
            Err(error) => {
                let failed: *mut c_char = fail(error);
                debug_assert_eq!(failed, null_mut());
                failed
            }
        }
    }
}
