//! Signals that end a program end the mount first.

use std::mem::MaybeUninit;

const ENDING: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// The signals that end programs, kept from this thread and those that it starts.
#[derive(Clone, Copy)]
pub(crate) struct EndingSignals(libc::sigset_t);

impl EndingSignals {
    /// Keeps them back from now on. To be called before there are other threads.
    pub(crate) fn block() -> EndingSignals {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigemptyset` fills the whole set before it is used, the signals are valid ones, and changing this
        // thread's mask touches nothing else.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in ENDING {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            EndingSignals(set.assume_init())
        }
    }

    /// Returns when one has come.
    pub(crate) fn wait(&self) {
        let mut signal = 0;
        // SAFETY: both pointers are to values that live over the call.
        unsafe { libc::sigwait(&self.0, &mut signal) };
    }
}
