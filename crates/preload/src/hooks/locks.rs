//! Advisory locks. There are none yet in a region, and saying so is the only honest answer: a program that asks for a
//! lock and is told that it has one will let two writers into one file.

use crate::answer::fail;
use crate::descriptors;
use core::ffi::c_int;
use lifeboat_fs::Errno;

hooks! {
    fn flock(descriptor: c_int, operation: c_int) -> c_int {
        match descriptors::find(descriptor) {
            None => next(descriptor, operation),
            // The placeholder's own lock says whether the file is open; it must not be touched.
            Some(_) => fail(Errno::NOLCK),
        }
    }

    fn lockf(descriptor: c_int, command: c_int, length: libc::off_t) -> c_int, also lockf64 {
        match descriptors::find(descriptor) {
            None => next(descriptor, command, length),
            Some(_) => fail(Errno::NOLCK),
        }
    }
}
