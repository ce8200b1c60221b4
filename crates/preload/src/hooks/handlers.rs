//! Handlers of the two signals that the copy routines need: the program's are remembered and called after ours.

use crate::answer::{fail, give};
use crate::{faults, signals, state, trap, user};
use core::ffi::c_int;
use libc::sighandler_t;
use lifeboat_fs::{Errno, Result};

fn set_action(signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> Result<()> {
    let new = if new.is_null() { None } else { Some(user::get(new)?) };
    let set = |signal, new, old| {
        libc_function!(c"sigaction", fn(c_int, *const libc::sigaction, *mut libc::sigaction) -> c_int)(signal, new, old)
    };
    let before = faults::exchange(signal, new.as_ref(), set);
    if old.is_null() { Ok(()) } else { user::put(old, &before) }
}

fn set_handler(signal: c_int, handler: sighandler_t, flags: c_int) -> sighandler_t {
    if handler == libc::SIG_ERR {
        let _: c_int = fail(Errno::INVAL);
        return libc::SIG_ERR;
    }
    // SAFETY: a C structure of integers and pointers, for which zeros are valid.
    let mut new: libc::sigaction = unsafe { core::mem::zeroed() };
    new.sa_sigaction = handler;
    new.sa_flags = flags;
    // SAFETY: as above.
    let mut old: libc::sigaction = unsafe { core::mem::zeroed() };
    match set_action(signal, &new, &mut old) {
        Ok(()) => old.sa_sigaction,
        Err(error) => {
            let _: c_int = fail(error);
            libc::SIG_ERR
        }
    }
}

hooks! {
    fn sigaction(signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int, also __sigaction {
        if state::configured()
            && !new.is_null()
            && let Ok(new) = user::get(new)
        {
            signals::note_handler(signal, new.sa_sigaction);
        }
        if faults::owns(signal) {
            return give(set_action(signal, new, old));
        }
        if !trap::is_wanted() || new.is_null() {
            return next(signal, new, old);
        }
        let Ok(mut allowed) = user::get(new) else { return next(signal, new, old) };
        trap::without_trap(&mut allowed.sa_mask);
        // The signal by which calls are trapped keeps its handler.
        let new = if signal == libc::SIGSYS { core::ptr::null() } else { &raw const allowed };
        next(signal, new, old)
    }

    fn signal(number: c_int, handler: sighandler_t) -> sighandler_t, also bsd_signal, also ssignal {
        signals::note_handler(number, handler);
        if !faults::owns(number) {
            return next(number, handler);
        }
        set_handler(number, handler, libc::SA_RESTART)
    }

    fn sysv_signal(signal: c_int, handler: sighandler_t) -> sighandler_t, also __sysv_signal {
        signals::note_handler(signal, handler);
        if !faults::owns(signal) {
            return next(signal, handler);
        }
        set_handler(signal, handler, libc::SA_RESETHAND | libc::SA_NODEFER)
    }

    fn sigset(signal: c_int, handler: sighandler_t) -> sighandler_t {
        signals::note_handler(signal, handler);
        if !faults::owns(signal) {
            return next(signal, handler);
        }
        set_handler(signal, handler, 0)
    }

    fn sigignore(signal: c_int) -> c_int {
        if !faults::owns(signal) {
            return next(signal);
        }
        let before = set_handler(signal, libc::SIG_IGN, 0);
        if before == libc::SIG_ERR { -1 } else { 0 }
    }
}
