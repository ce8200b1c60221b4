//! libc's way to answer: a value, or -1 (a null pointer) and `errno`.

use lifeboat_fs::{Errno, Result};

/// Sets the calling thread's `errno`.
pub fn set_errno(number: i32) {
    // SAFETY: the function returns the address of this thread's errno, which is always writable.
    unsafe { *libc::__errno_location() = number }
}

/// The calling thread's `errno`.
pub fn errno() -> i32 {
    // SAFETY: as in `set_errno`.
    unsafe { *libc::__errno_location() }
}

/// What a C function can answer on failure.
pub trait Failure {
    /// The value that says "look at errno".
    const FAILED: Self;

    /// Whether this is that value.
    fn failed(&self) -> bool;
}

impl Failure for i32 {
    const FAILED: i32 = -1;

    #[inline(always)]
    fn failed(&self) -> bool {
        *self == -1
    }
}

impl Failure for i64 {
    const FAILED: i64 = -1;

    #[inline(always)]
    fn failed(&self) -> bool {
        *self == -1
    }
}

impl Failure for isize {
    const FAILED: isize = -1;

    #[inline(always)]
    fn failed(&self) -> bool {
        *self == -1
    }
}

impl<T> Failure for *mut T {
    const FAILED: *mut T = core::ptr::null_mut();

    #[inline(always)]
    fn failed(&self) -> bool {
        self.is_null()
    }
}

/// What a C function answers for a value of the file system.
pub trait Answer<C> {
    /// The C value.
    fn answer(self) -> C;
}

impl Answer<i32> for () {
    fn answer(self) -> i32 {
        0
    }
}

impl Answer<i32> for i32 {
    fn answer(self) -> i32 {
        self
    }
}

impl Answer<isize> for usize {
    fn answer(self) -> isize {
        self as isize
    }
}

impl Answer<i64> for u64 {
    fn answer(self) -> i64 {
        self as i64
    }
}

impl<T> Answer<*mut T> for *mut T {
    fn answer(self) -> *mut T {
        self
    }
}

/// Sets `errno` and gives the value that says so.
#[cold]
pub fn fail<C: Failure>(error: Errno) -> C {
    set_errno(error.raw_os_error());
    C::FAILED
}

/// The C form of a result.
pub fn give<T: Answer<C>, C: Failure>(result: Result<T>) -> C {
    match result {
        Ok(value) => value.answer(),
        Err(error) => fail(error),
    }
}

/// The form of the `posix_*` functions, which return the error number and leave `errno` alone.
pub fn number(result: Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => error.raw_os_error(),
    }
}
