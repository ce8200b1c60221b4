//! The calls that are measured, as C programs make them: straight to libc, so that the interception library sees them.

use std::ffi::CStr;
use std::io::{Error, Result};

/// An open descriptor, closed without a look at the answer when dropped.
#[derive(Debug)]
pub struct Descriptor(libc::c_int);

fn check(answer: isize) -> Result<usize> {
    usize::try_from(answer).map_err(|_| Error::last_os_error())
}

impl Descriptor {
    /// `open` with mode 0644.
    pub fn open(path: &CStr, flags: libc::c_int) -> Result<Descriptor> {
        // SAFETY: the path is a C string.
        check(unsafe { libc::open(path.as_ptr(), flags, 0o644) } as isize)
            .map(|number| Descriptor(number as libc::c_int))
    }

    /// `write`.
    pub fn write(&self, bytes: &[u8]) -> Result<usize> {
        // SAFETY: the length is the slice's.
        check(unsafe { libc::write(self.0, bytes.as_ptr().cast(), bytes.len()) })
    }

    /// `pwrite`.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize> {
        // SAFETY: the length is the slice's.
        check(unsafe { libc::pwrite64(self.0, bytes.as_ptr().cast(), bytes.len(), offset as i64) })
    }

    /// `read`.
    pub fn read(&self, into: &mut [u8]) -> Result<usize> {
        // SAFETY: the length is the slice's, which nobody else has.
        check(unsafe { libc::read(self.0, into.as_mut_ptr().cast(), into.len()) })
    }

    /// `lseek` from the start.
    pub fn seek(&self, offset: u64) -> Result<()> {
        // SAFETY: plain numbers.
        check(unsafe { libc::lseek64(self.0, offset as i64, libc::SEEK_SET) } as isize).map(drop)
    }

    /// `ftruncate`.
    pub fn truncate(&self, length: u64) -> Result<()> {
        // SAFETY: plain numbers.
        check(unsafe { libc::ftruncate64(self.0, length as i64) } as isize).map(drop)
    }

    /// `close`.
    pub fn close(self) -> Result<()> {
        let number = self.0;
        std::mem::forget(self);
        // SAFETY: the descriptor is ours, and nobody uses it any more.
        check(unsafe { libc::close(number) } as isize).map(drop)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours, and nobody uses it any more.
        unsafe { libc::close(self.0) };
    }
}

/// `stat`; answers the size.
pub fn stat(path: &CStr) -> Result<u64> {
    // SAFETY: a stat of zeros is a stat.
    let mut found: libc::stat64 = unsafe { std::mem::zeroed() };
    // SAFETY: a C string, and a stat that lives until the call returns.
    check(unsafe { libc::stat64(path.as_ptr(), &mut found) } as isize)?;
    Ok(found.st_size as u64)
}

/// `unlink`.
pub fn unlink(path: &CStr) -> Result<()> {
    // SAFETY: a C string.
    check(unsafe { libc::unlink(path.as_ptr()) } as isize).map(drop)
}

/// Nanoseconds of a clock.
fn clock(which: libc::clockid_t) -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place lives until the call returns; these clocks are always there.
    unsafe { libc::clock_gettime(which, &mut now) };
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

/// CPU time of this thread, in nanoseconds.
pub fn own_time() -> f64 {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Time, in nanoseconds.
pub fn wall_time() -> f64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// CPU time of all children that have ended and been waited for, in nanoseconds.
pub fn childrens_time() -> f64 {
    // SAFETY: a rusage of zeros is a rusage.
    let mut used: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the place lives until the call returns.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &mut used) };
    let nanoseconds = |time: libc::timeval| time.tv_sec as f64 * 1e9 + time.tv_usec as f64 * 1e3;
    nanoseconds(used.ru_utime) + nanoseconds(used.ru_stime)
}
