//! Bus errors in mappings of files of ours: bytes by which a file has grown since it was mapped, and holes for which nothing
//! was set aside, get their pages when they are touched.
//!
//! The handler may run on a small stack of the program's, and the file system needs more: it runs on a stack of its own.

use crate::{answer, mappings, state};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

const STACK_SIZE: usize = 128 << 10;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; STACK_SIZE]>);

// SAFETY: used by who holds `BUSY` only.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new([0; STACK_SIZE]));
/// The process whose thread is on the stack; 0 when none is.
static BUSY: AtomicU32 = AtomicU32::new(0);

/// Whether the page at `address` is there now, so that the instruction can run again.
pub fn bring(address: usize) -> bool {
    if !mappings::any() {
        return false;
    }
    let before = answer::errno();
    let own = state::own_pid();
    while let Err(holder) = BUSY.compare_exchange_weak(0, own, Ordering::Acquire, Ordering::Relaxed) {
        // A thread of the parent was on it when this process was forked: it does not exist here.
        if holder != 0
            && holder != own
            && BUSY.compare_exchange(holder, own, Ordering::Acquire, Ordering::Relaxed).is_ok()
        {
            break;
        }
        rustix::thread::sched_yield();
    }
    let top = STACK.0.get() as usize + STACK_SIZE;
    // SAFETY: the stack is this thread's until `BUSY` is 0 again, and its top is a multiple of 16.
    let done = unsafe { on_stack(top, show, address) } != 0;
    BUSY.store(0, Ordering::Release);
    answer::set_errno(before);
    done
}

extern "C" fn show(address: usize) -> usize {
    mappings::show_late(address) as usize
}

/// Calls `function(argument)` on the stack that ends at `top`.
///
/// # Safety
/// Nobody else may use the stack meanwhile; `top` is a multiple of 16.
#[cfg(target_arch = "x86_64")]
unsafe fn on_stack(top: usize, function: extern "C" fn(usize) -> usize, argument: usize) -> usize {
    let answer;
    // SAFETY: the stack pointer is put back from a register that the C calling convention preserves; everything else that a
    // call may change is named. This library is built to abort instead of unwinding.
    unsafe {
        core::arch::asm!(
            "mov r12, rsp",
            "mov rsp, {top}",
            "call {function}",
            "mov rsp, r12",
            top = in(reg) top,
            function = in(reg) function,
            inlateout("rdi") argument => _,
            out("r12") _,
            lateout("rax") answer,
            clobber_abi("C"),
        );
    }
    answer
}

/// As above, on the stack that there is.
///
/// # Safety
/// None is needed.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn on_stack(_: usize, function: extern "C" fn(usize) -> usize, argument: usize) -> usize {
    function(argument)
}
