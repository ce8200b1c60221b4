//! What trapping (`lifeboat exec --trap-raw`) asks of threads: a new one is armed before it begins, and none blocks the
//! signal by which it traps. Without trapping these pass on. And threads that may be ended anywhere: not inside a call of
//! ours, which may hold a lock.

use crate::{signals, trap, user};
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};

/// `PTHREAD_CANCEL_ASYNCHRONOUS` of `<pthread.h>`.
const CANCEL_ASYNCHRONOUS: c_int = 1;

/// What a new thread is to run.
struct Start {
    function: AtomicUsize,
    argument: AtomicUsize,
}

/// More threads than these are not started in one moment; those that find no place are not trapped.
const PLACES: usize = 64;
static STARTS: [Start; PLACES] =
    [const { Start { function: AtomicUsize::new(0), argument: AtomicUsize::new(0) } }; PLACES];

/// Keeps what a new thread is to run until it runs.
fn keep(function: usize, argument: *mut c_void) -> Option<&'static Start> {
    let free =
        |start: &&Start| start.function.compare_exchange(0, function, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    let start = STARTS.iter().find(free)?;
    start.argument.store(argument as usize, Ordering::Release);
    Some(start)
}

extern "C" fn begin(start: *mut c_void) -> *mut c_void {
    // SAFETY: `pthread_create` below passed a place of STARTS, which lives for ever.
    let start = unsafe { &*start.cast::<Start>() };
    let argument = start.argument.load(Ordering::Acquire) as *mut c_void;
    let function = start.function.swap(0, Ordering::AcqRel);
    trap::arm();
    // SAFETY: the program passed this address as a function of this form.
    let function = unsafe { core::mem::transmute::<usize, extern "C" fn(*mut c_void) -> *mut c_void>(function) };
    function(argument)
}

fn with_allowed_set<R>(set: *const libc::sigset_t, call: impl FnOnce(*const libc::sigset_t) -> R) -> R {
    if !trap::is_wanted() || set.is_null() {
        return call(set);
    }
    match user::get(set) {
        Ok(mut allowed) => {
            trap::without_trap(&mut allowed);
            call(&allowed)
        }
        // libc is to say what is wrong with it.
        Err(_) => call(set),
    }
}

hooks! {
    fn pthread_create(
        thread: *mut libc::pthread_t,
        attributes: *const libc::pthread_attr_t,
        function: usize,
        argument: *mut c_void,
    ) -> c_int {
        if !trap::is_wanted() {
            return next(thread, attributes, function, argument);
        }
        let Some(start) = keep(function, argument) else { return next(thread, attributes, function, argument) };
        let answer = next(thread, attributes, begin as *const () as usize, start as *const Start as *mut c_void);
        if answer != 0 {
            start.function.store(0, Ordering::Release);
        }
        answer
    }

    fn pthread_setcanceltype(kind: c_int, old: *mut c_int) -> c_int {
        if kind == CANCEL_ASYNCHRONOUS {
            signals::note_cancellation();
        }
        next(kind, old)
    }

    fn pthread_cancel(thread: libc::pthread_t) -> c_int {
        signals::note_cancellation();
        next(thread)
    }

    fn pthread_sigmask(how: c_int, set: *const libc::sigset_t, old: *mut libc::sigset_t) -> c_int {
        with_allowed_set(set, |set| next(how, set, old))
    }

    fn sigprocmask(how: c_int, set: *const libc::sigset_t, old: *mut libc::sigset_t) -> c_int {
        with_allowed_set(set, |set| next(how, set, old))
    }
}
