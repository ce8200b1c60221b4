//! Memory that could not be touched, and how execution goes on after the attempt.

use core::ffi::c_void;

/// Memory given to a routine of this crate could not be touched: a bad pointer, a page without the right, a mapping
/// whose file became shorter, a page that the hardware lost. What was copied before it stays copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The address whose access failed; 0 when the processor does not tell (an address that is no address at all).
    pub address: usize,
}

/// Where execution must go on when a fault happened at `instruction`, if that lies inside one of the routines here.
///
/// [`handle`] does all that is needed; this is for handlers that change the context themselves: they set the
/// instruction pointer to the value returned and nothing else. The [`Fault`] then carries address 0.
pub fn fixup(instruction: usize) -> Option<usize> {
    crate::machine::fixup(instruction)
}

/// To be called first by a handler of `SIGSEGV` and `SIGBUS` with its three arguments. True: the fault was ours and the
/// context now leads out of the routine, so the handler returns at once. False: nothing was changed, and whoever had
/// the signal before has to be asked.
///
/// # Safety
/// `info` and `context` are what the kernel passed to a handler installed with `SA_SIGINFO`.
pub unsafe fn handle(signal: i32, info: *const c_void, context: *mut c_void) -> bool {
    // SAFETY: the caller's promise, handed on.
    unsafe { crate::machine::handle(signal, info, context) }
}
