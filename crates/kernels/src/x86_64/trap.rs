//! From a fault inside a routine back to its caller.

use core::ffi::c_void;

/// Positions in the kernel's `struct siginfo`, x86-64.
#[repr(C)]
struct SignalInfo {
    number: i32,
    error: i32,
    code: i32,
    _padding: i32,
    address: usize,
}

/// The head of the kernel's `struct ucontext`, x86-64: what a handler may change before it returns.
#[repr(C)]
struct Context {
    _flags: u64,
    _link: usize,
    _alternate_stack: [usize; 3],
    /// r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip.
    registers: [usize; 17],
}

const RDX: usize = 12;
const RIP: usize = 16;

const SIGBUS: i32 = 7;
const SIGSEGV: i32 = 11;

/// A hardware error somewhere, told to a thread that did not touch it (`BUS_MCEERR_AO`).
const HARDWARE_ERROR_ELSEWHERE: i32 = 5;

unsafe extern "C" {
    static lifeboat_kernels_plain_begin: u8;
    static lifeboat_kernels_plain_end: u8;
    static lifeboat_kernels_wide_begin: u8;
    static lifeboat_kernels_wide_end: u8;
    static lifeboat_kernels_fault_plain: u8;
    static lifeboat_kernels_fault_plain_address: u8;
    static lifeboat_kernels_fault_wide: u8;
    static lifeboat_kernels_fault_wide_address: u8;
}

/// The two ways on for a fault at one place.
struct Exits {
    /// Answers with address 0.
    unknown: usize,
    /// Answers with the address in rdx.
    address: usize,
}

fn exits(instruction: usize) -> Option<Exits> {
    let within = |begin: *const u8, end: *const u8| (begin as usize..end as usize).contains(&instruction);
    if within(&raw const lifeboat_kernels_plain_begin, &raw const lifeboat_kernels_plain_end) {
        Some(Exits {
            unknown: &raw const lifeboat_kernels_fault_plain as usize,
            address: &raw const lifeboat_kernels_fault_plain_address as usize,
        })
    } else if within(&raw const lifeboat_kernels_wide_begin, &raw const lifeboat_kernels_wide_end) {
        Some(Exits {
            unknown: &raw const lifeboat_kernels_fault_wide as usize,
            address: &raw const lifeboat_kernels_fault_wide_address as usize,
        })
    } else {
        None
    }
}

pub(crate) fn fixup(instruction: usize) -> Option<usize> {
    exits(instruction).map(|exits| exits.unknown)
}

/// # Safety
/// `info` and `context` are what the kernel passed to a handler installed with `SA_SIGINFO`.
pub(crate) unsafe fn handle(signal: i32, info: *const c_void, context: *mut c_void) -> bool {
    if info.is_null() || context.is_null() {
        return false;
    }
    // SAFETY: the caller's promise; the kernel's layout is fixed for this architecture.
    let info = unsafe { &*info.cast::<SignalInfo>() };
    let caused_here = match signal {
        SIGSEGV => info.code > 0,
        SIGBUS => info.code > 0 && info.code != HARDWARE_ERROR_ELSEWHERE,
        _ => false,
    };
    // A signal that somebody sent says nothing about the instruction that it happened to interrupt.
    if !caused_here {
        return false;
    }
    // SAFETY: as above; the context belongs to this handler alone.
    let registers = unsafe { &mut (*context.cast::<Context>()).registers };
    let Some(exits) = exits(registers[RIP]) else { return false };
    registers[RDX] = info.address;
    registers[RIP] = exits.address;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks `handle` about a made-up signal at `instruction`.
    fn ask(signal: i32, code: i32, instruction: usize) -> Option<Context> {
        let info = SignalInfo { number: signal, error: 0, code, _padding: 0, address: 0x1234 };
        let mut context = Context { _flags: 0, _link: 0, _alternate_stack: [0; 3], registers: [0; 17] };
        context.registers[RIP] = instruction;
        // SAFETY: both have the kernel's layout.
        let ours = unsafe { handle(signal, (&raw const info).cast(), (&raw mut context).cast()) };
        if !ours {
            assert_eq!(context.registers[RIP], instruction, "a context that is not ours was changed");
        }
        ours.then_some(context)
    }

    #[test]
    fn a_signal_that_was_sent_is_not_taken_for_a_fault() {
        let inside = &raw const lifeboat_kernels_plain_begin as usize + 5;
        for (signal, code) in [(SIGSEGV, 1), (SIGSEGV, 2), (SIGSEGV, 0x80), (SIGBUS, 2), (SIGBUS, 4)] {
            let context = ask(signal, code, inside).expect("a fault inside is ours");
            assert_eq!(context.registers[RDX], 0x1234);
            assert_eq!(context.registers[RIP], &raw const lifeboat_kernels_fault_plain_address as usize);
        }
        // From kill, sigqueue and tgkill; an error of the hardware elsewhere; other signals.
        for (signal, code) in [(SIGSEGV, 0), (SIGSEGV, -1), (SIGBUS, -6), (SIGBUS, 5), (4, 1), (8, 1)] {
            assert!(ask(signal, code, inside).is_none(), "signal {signal}, code {code}");
        }
    }

    #[test]
    fn only_the_routines_themselves_are_ours() {
        let plain = &raw const lifeboat_kernels_plain_begin as usize..&raw const lifeboat_kernels_plain_end as usize;
        let wide = &raw const lifeboat_kernels_wide_begin as usize..&raw const lifeboat_kernels_wide_end as usize;
        assert!(plain.len() > 100 && wide.len() > 1000 && plain.end <= wide.start);
        for (range, exit) in [
            (plain, &raw const lifeboat_kernels_fault_plain as usize),
            (wide, &raw const lifeboat_kernels_fault_wide as usize),
        ] {
            assert_eq!(fixup(range.start), Some(exit));
            assert_eq!(fixup(range.end - 1), Some(exit));
            assert_eq!(fixup(range.start - 1), None);
            assert_eq!(fixup(range.end), None);
        }
        assert!(ask(SIGSEGV, 1, 0).is_none());
    }

    #[test]
    fn a_handler_without_arguments_is_not_believed() {
        // SAFETY: null is refused.
        assert!(!unsafe { handle(SIGSEGV, core::ptr::null(), core::ptr::null_mut()) });
    }
}
