//! Ids, groups and the file creation mask: libc changes them, and we learn that they changed.

use crate::{identity, state};
use core::ffi::{c_char, c_int};
use libc::{gid_t, mode_t, uid_t};

/// Attaches first: afterwards the process may no longer be allowed to.
fn changed(change: impl FnOnce() -> c_int) -> c_int {
    if state::configured() && !state::borrows_memory() {
        let _ = state::file_system();
    }
    let answer = change();
    identity::forget();
    answer
}

hooks! {
    fn umask(mask: mode_t) -> mode_t {
        if !state::borrows_memory() {
            identity::set_umask(mask);
        }
        next(mask)
    }

    fn setuid(uid: uid_t) -> c_int {
        changed(|| next(uid))
    }

    fn seteuid(uid: uid_t) -> c_int {
        changed(|| next(uid))
    }

    fn setreuid(real: uid_t, effective: uid_t) -> c_int {
        changed(|| next(real, effective))
    }

    fn setresuid(real: uid_t, effective: uid_t, saved: uid_t) -> c_int {
        changed(|| next(real, effective, saved))
    }

    fn setgid(gid: gid_t) -> c_int {
        changed(|| next(gid))
    }

    fn setegid(gid: gid_t) -> c_int {
        changed(|| next(gid))
    }

    fn setregid(real: gid_t, effective: gid_t) -> c_int {
        changed(|| next(real, effective))
    }

    fn setresgid(real: gid_t, effective: gid_t, saved: gid_t) -> c_int {
        changed(|| next(real, effective, saved))
    }

    fn setgroups(count: usize, groups: *const gid_t) -> c_int {
        changed(|| next(count, groups))
    }

    fn initgroups(user: *const c_char, group: gid_t) -> c_int {
        changed(|| next(user, group))
    }
}
