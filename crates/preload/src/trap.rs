//! `lifeboat exec --trap-raw`: system calls that a program makes by itself, past libc, come here.
//!
//! Syscall User Dispatch (Linux 5.11) sends SIGSYS for every system call whose instruction lies outside one range of
//! addresses; the range is libc's code. The handler serves calls about files below the mount as their hooks do, says
//! once per place who went round libc, and passes all others on. It costs about a microsecond for each such call, those of
//! this library included, so it is for programs that need it.
//!
//! The kernel turns it off in forked children, new threads and executed programs: each is armed again by a hook.

use crate::hooks::raw;
use crate::message::{self, Shown};
use crate::{answer, real};
use core::ffi::{CStr, c_int, c_long, c_void};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// `si_code` of a dispatched call.
const USER_DISPATCH: c_int = 2;
const PR_SET_SYSCALL_USER_DISPATCH: c_int = 59;
const PR_SYS_DISPATCH_OFF: usize = 0;
const PR_SYS_DISPATCH_ON: usize = 1;
/// Bytes of the `syscall` instruction.
const INSTRUCTION: u64 = 2;

static WANTED: AtomicBool = AtomicBool::new(false);
static LIBC_START: AtomicUsize = AtomicUsize::new(0);
static LIBC_LENGTH: AtomicUsize = AtomicUsize::new(0);
static OWN_START: AtomicUsize = AtomicUsize::new(0);
static OWN_LENGTH: AtomicUsize = AtomicUsize::new(0);

/// Whether calls are trapped in this process.
pub fn is_wanted() -> bool {
    WANTED.load(Ordering::Relaxed)
}

/// Begins to trap, in a program that was started so.
pub fn begin() {
    let libc = code_around(real::look_up(c"getpid"));
    let own = code_around(begin as *const () as usize);
    for ((start, length), (start_at, length_at)) in
        [(libc, (&LIBC_START, &LIBC_LENGTH)), (own, (&OWN_START, &OWN_LENGTH))]
    {
        start_at.store(start, Ordering::Relaxed);
        length_at.store(length, Ordering::Relaxed);
    }
    // SAFETY: a C structure of integers and pointers, for which zeros are valid.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = trapped as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    let set = libc_function!(c"sigaction", fn(c_int, *const libc::sigaction, *mut libc::sigaction) -> c_int);
    let ready = libc.1 != 0 && own.1 != 0 && set(libc::SIGSYS, &action, core::ptr::null_mut()) == 0;
    WANTED.store(ready, Ordering::Release);
    if !ready || !arm() {
        WANTED.store(false, Ordering::Release);
        message::say(format_args!(
            "--trap-raw is not to be had here: it takes Linux 5.11 or newer on x86-64, and a libc of its own file"
        ));
    }
}

/// Traps the calls of this thread, if this process traps. Tells whether they are.
pub fn arm() -> bool {
    is_wanted()
        && control(PR_SYS_DISPATCH_ON, LIBC_START.load(Ordering::Relaxed), LIBC_LENGTH.load(Ordering::Relaxed)) == 0
}

fn control(mode: usize, start: usize, length: usize) -> c_int {
    /// Always: block.
    static SELECTOR: u8 = 1;
    let selector = if mode == PR_SYS_DISPATCH_ON { &raw const SELECTOR as usize } else { 0 };
    libc_function!(c"prctl", fn(c_int, usize, usize, usize, usize) -> c_int)(
        PR_SET_SYSCALL_USER_DISPATCH,
        mode,
        start,
        length,
        selector,
    )
}

struct Search {
    address: usize,
    found: (usize, usize),
}

/// First address and length of the code that `address` lies in; zeros when no object has it.
fn code_around(address: usize) -> (usize, usize) {
    let mut search = Search { address, found: (0, 0) };
    // SAFETY: the callback gets a valid list of the loaded objects and our own structure.
    unsafe { libc::dl_iterate_phdr(Some(look_at), (&raw mut search).cast()) };
    search.found
}

extern "C" fn look_at(object: *mut libc::dl_phdr_info, _size: libc::size_t, search: *mut c_void) -> c_int {
    // SAFETY: both pointers are those that `dl_iterate_phdr` was called with or made, for the time of this call; an
    // object has as many headers as it says.
    let (object, search) = unsafe { (&*object, &mut *search.cast::<Search>()) };
    // SAFETY: as above.
    let headers = unsafe { core::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum as usize) };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0) {
        let start = (object.dlpi_addr + header.p_vaddr) as usize;
        if (start..start + header.p_memsz as usize).contains(&search.address) {
            search.found = (start, header.p_memsz as usize);
            return 1;
        }
    }
    0
}

/// The kernel's `siginfo` of SIGSYS.
#[repr(C)]
struct Trapped {
    signal: c_int,
    error: c_int,
    code: c_int,
    _gap: c_int,
    call_address: usize,
    number: c_int,
    architecture: u32,
}

#[cfg(target_arch = "x86_64")]
extern "C" fn trapped(_signal: c_int, information: *mut libc::siginfo_t, context: *mut c_void) {
    use libc::{REG_R8, REG_R9, REG_R10, REG_RAX, REG_RDI, REG_RDX, REG_RIP, REG_RSI};
    // SAFETY: the kernel called this with the arguments of an SA_SIGINFO handler of SIGSYS.
    let (information, registers) =
        unsafe { (&*information.cast::<Trapped>(), &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs) };
    if information.code != USER_DISPATCH {
        // A sandbox's own trap: its handler was not let in front of ours, and its call is refused.
        registers[REG_RAX as usize] = -(libc::ENOSYS as i64);
        return;
    }
    let number = c_long::from(information.number);
    let words = [REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9].map(|at| registers[at as usize] as usize);
    if matches!(number, libc::SYS_rt_sigreturn | libc::SYS_clone | libc::SYS_clone3 | libc::SYS_vfork) {
        // These depend on the stack that they are called on: the instruction runs again, and the thread is on its own.
        // Nobody is told when it is over.
        drop(raw::before_new_process(number, &words));
        control(PR_SYS_DISPATCH_OFF, 0, 0);
        registers[REG_RIP as usize] -= INSTRUCTION as i64;
        return;
    }
    let before = answer::errno();
    let own = information.call_address.wrapping_sub(OWN_START.load(Ordering::Relaxed));
    let result = if own < OWN_LENGTH.load(Ordering::Relaxed) {
        raw::next(number, &words)
    } else {
        if raw::is_about_ours(number, &words) {
            report(information.call_address, number);
        }
        raw::serve(number, &words)
    };
    registers[REG_RAX as usize] = if result == -1 { -i64::from(answer::errno()) } else { result };
    answer::set_errno(before);
}

#[cfg(not(target_arch = "x86_64"))]
extern "C" fn trapped(_signal: c_int, _information: *mut libc::siginfo_t, _context: *mut c_void) {}

/// Says once per place that calls about the mount are made there.
fn report(address: usize, number: c_long) {
    const PLACES: usize = 64;
    static SEEN: [AtomicU64; PLACES] = [const { AtomicU64::new(0) }; PLACES];
    let mark = (address as u64) << 10 | number as u64 & 1023;
    for place in &SEEN {
        match place.compare_exchange(0, mark, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => break,
            Err(seen) if seen == mark => return,
            Err(_) => {}
        }
    }
    // SAFETY: a C structure of pointers, for which zeros are valid; `dladdr` is not hooked and fills in what it finds.
    let mut object: libc::Dl_info = unsafe { core::mem::zeroed() };
    // SAFETY: as above.
    let known = unsafe { libc::dladdr(address as *const c_void, &mut object) } != 0 && !object.dli_fname.is_null();
    let name: &[u8] = match known {
        // SAFETY: the linker's name of an object whose code is running.
        true => unsafe { CStr::from_ptr(object.dli_fname) }.to_bytes(),
        false => b"code that was made at run time",
    };
    let offset = address.wrapping_sub(object.dli_fbase as usize);
    message::say(format_args!(
        "{}+{offset:#x} makes system call {number} about files of the mount past libc: served",
        Shown(name)
    ));
}

/// A signal set without SIGSYS: the kernel ends a thread that traps while it blocks it.
pub fn without_trap(set: &mut libc::sigset_t) {
    if is_wanted() {
        // SAFETY: a valid set; the function is not hooked.
        unsafe { libc::sigdelset(set, libc::SIGSYS) };
    }
}
