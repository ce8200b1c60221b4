//! Faults inside the copy routines become errors: this library owns the handlers of SIGSEGV and SIGBUS, and the
//! program's own are called for every fault that is not ours.

use crate::{late_pages, message, signals, state};
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicBool, Ordering};

/// C signature of `sigaction`.
type SetAction = fn(c_int, *const libc::sigaction, *mut libc::sigaction) -> c_int;

/// What the program wants of one of the two signals.
struct Wanted(UnsafeCell<libc::sigaction>);

// SAFETY: changed only by `exchange`, with signals held back; a handler on another thread that reads it in that moment
// may see half a change, as it may in any program that changes a handler while faults happen.
unsafe impl Sync for Wanted {}

const fn default_action() -> libc::sigaction {
    // SAFETY: a C structure of integers and pointers, for which zeros are valid: the default action.
    unsafe { core::mem::zeroed() }
}

static SEGMENTATION: Wanted = Wanted(UnsafeCell::new(default_action()));
static BUS: Wanted = Wanted(UnsafeCell::new(default_action()));
/// A page that is there without the right that was wanted.
const SEGV_ACCERR: c_int = 2;
/// A page whose protection key this thread has not opened.
const SEGV_PKUERR: c_int = 4;

static INSTALLED: AtomicBool = AtomicBool::new(false);

fn wanted(signal: c_int) -> Option<&'static Wanted> {
    match signal {
        libc::SIGSEGV => Some(&SEGMENTATION),
        libc::SIGBUS => Some(&BUS),
        _ => None,
    }
}

/// Libc's own, by the name that no sanitizer takes: when this library starts, theirs are not ready and do nothing.
fn libc_sigaction() -> SetAction {
    |signal, new, old| {
        libc_function!(c"__sigaction", fn(c_int, *const libc::sigaction, *mut libc::sigaction) -> c_int)(
            signal, new, old,
        )
    }
}

/// Puts our handler in front of the program's.
pub fn install() {
    if INSTALLED.swap(true, Ordering::AcqRel) {
        return;
    }
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        let mut before = default_action();
        libc_sigaction()(signal, core::ptr::null(), &mut before);
        exchange(signal, Some(&before), libc_sigaction());
    }
}

/// Whether the action of `signal` is kept here rather than in the kernel.
pub fn owns(signal: c_int) -> bool {
    INSTALLED.load(Ordering::Acquire) && wanted(signal).is_some()
}

/// Notes the program's wish for a signal that is ours, and gives the one before. `set` is libc's `sigaction`.
pub fn exchange(signal: c_int, new: Option<&libc::sigaction>, set: SetAction) -> libc::sigaction {
    let Some(wanted) = wanted(signal) else { return default_action() };
    let _held = signals::hold();
    // SAFETY: see the type.
    let before = unsafe { *wanted.0.get() };
    if let Some(new) = new {
        // SAFETY: see the type.
        unsafe { *wanted.0.get() = *new };
        let mut ours = *new;
        ours.sa_sigaction = handler as *const () as usize;
        ours.sa_flags = (new.sa_flags | libc::SA_SIGINFO) & !libc::SA_RESETHAND;
        if new.sa_sigaction == libc::SIG_DFL || new.sa_sigaction == libc::SIG_IGN {
            // SAFETY: `sigset_t` of zeros is the empty set.
            ours.sa_mask = unsafe { core::mem::zeroed() };
            // On the program's alternate stack where it has one: its own may be what ran out.
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        }
        set(signal, &ours, core::ptr::null_mut());
    }
    before
}

extern "C" fn handler(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passed a valid siginfo.
    let code = unsafe { (*info).si_code };
    if signal == libc::SIGBUS && code == libc::BUS_ADRERR {
        // SAFETY: as above; with this code it has an address.
        let address = unsafe { (*info).si_addr() } as usize;
        if late_pages::bring(address) {
            return;
        }
    }
    if signal == libc::SIGSEGV && code == SEGV_ACCERR {
        // SAFETY: as above; with this code it has an address.
        let address = unsafe { (*info).si_addr() } as usize;
        if state::open_guarded(address) {
            return;
        }
    }
    // SAFETY: the kernel called this with the arguments of an SA_SIGINFO handler.
    if unsafe { lifeboat_kernels::fault::handle(signal, info.cast_const().cast(), context) } {
        return;
    }
    if signal == libc::SIGBUS && code > 0 {
        // SAFETY: as above; the kernel's own bus errors have an address.
        explain(unsafe { (*info).si_addr() } as usize, code);
    }
    if signal == libc::SIGSEGV && matches!(code, SEGV_ACCERR | SEGV_PKUERR) {
        // SAFETY: as above.
        explain_stray(unsafe { (*info).si_addr() } as usize, code);
    }
    let Some(wanted) = wanted(signal) else { return };
    // SAFETY: see `Wanted`.
    let action = unsafe { *wanted.0.get() };
    let sent_by_process = code <= 0;
    match action.sa_sigaction {
        libc::SIG_IGN if sent_by_process => {}
        libc::SIG_DFL | libc::SIG_IGN => die_as_by_default(signal, sent_by_process),
        function => {
            if action.sa_flags & libc::SA_RESETHAND != 0 {
                // SAFETY: see `Wanted`.
                unsafe { *wanted.0.get() = default_action() };
            }
            call_handler(function, action.sa_flags, signal, info, context);
        }
    }
}

/// Says it when the memory that is gone is the region's.
fn explain(address: usize, code: c_int) {
    let Some(offset) = state::offset_in_region(address) else { return };
    let why = match code {
        libc::BUS_MCEERR_AR | libc::BUS_MCEERR_AO => "the machine reports broken memory",
        _ => "its file was cut short behind the programs that use it",
    };
    let region = message::Shown(crate::environment::region());
    message::say(format_args!(
        "{region}: the region's memory at offset {offset:#x} is gone: {why}; 'lifeboat region check' says what is left"
    ));
}

/// Says it when a pointer of the program led into the region.
fn explain_stray(address: usize, code: c_int) {
    let Some(offset) = state::offset_in_region(address) else { return };
    let region = message::Shown(crate::environment::region());
    let what = if code == SEGV_PKUERR { "reached into the region" } else { "stored into sealed data" };
    message::say(format_args!(
        "{region}: the program {what} at offset {offset:#x} by a pointer of its own; nothing was changed"
    ));
}

fn call_handler(function: usize, flags: c_int, signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    if flags & libc::SA_SIGINFO != 0 {
        // SAFETY: the program set this address as a handler of this form.
        let function =
            unsafe { core::mem::transmute::<usize, extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)>(function) };
        function(signal, info, context);
    } else {
        // SAFETY: as above.
        let function = unsafe { core::mem::transmute::<usize, extern "C" fn(c_int)>(function) };
        function(signal);
    }
}

/// Gives the signal back to the kernel; the faulting instruction runs again and the process ends as it would without
/// us.
fn die_as_by_default(signal: c_int, sent_by_process: bool) {
    libc_sigaction()(signal, &default_action(), core::ptr::null_mut());
    if sent_by_process {
        // SAFETY: `raise` takes any number; it is not hooked.
        unsafe { libc::raise(signal) };
    }
}
