//! The interception library: libc's file calls, answered from a Lifeboat region where they concern files below the
//! mount.
//!
//! How a call travels. The dynamic linker binds a program's `open`, `read`, `rename`... to the functions in [`hooks`].
//! A hook asks one question. For a path: does it lie below the mount ([`path`])? For a descriptor: is it one of ours
//! ([`descriptors`])? If not, it jumps to the libc function of the same name ([`real`]). If so, [`call`] runs the
//! operation on the region's file system with signals blocked, and [`answer`] turns the result into libc's convention.
//!
//! An open file has a real kernel descriptor, the *placeholder*: an open file description of a small file in the
//! region's `tags/` folder, named by the open file's number ([`tags`]). So the lowest free number, `dup`, `fork`,
//! `exec`, close-on-exec, `poll` and limits are the kernel's; a program image that was `exec`ed finds its inherited
//! files by reading the names behind its descriptors. What bypasses the hooks meets a file offset at the very end of
//! the number range and fails, instead of quietly reading nothing.
//!
//! stdio stays libc's own: its `FILE` works on the placeholder, and the five input and output slots of its jump tables
//! lead here first ([`streams`]).
//!
//! Nothing here allocates, unwinds or uses `std`, and nothing calls a libc function that is itself hooked: the hooks
//! run inside signal handlers, between `vfork` and `exec`, and before the constructors of other libraries.
#![no_std]

// First: its macros are used by all others.
#[macro_use]
mod real;

mod answer;
mod call;
mod covered;
mod descriptors;
mod directory;
mod environment;
mod faults;
mod fifos;
mod hooks;
mod identity;
mod kept_tags;
mod kernels;
mod keys;
mod late_pages;
mod limits;
mod mappings;
mod message;
mod opening;
mod path;
mod programs;
mod sharing;
mod signals;
mod spawning;
mod state;
mod streams;
mod tags;
mod trap;
mod user;
mod working_directory;

// The precompiled `core` names the function that unwinding would consult. Nothing unwinds here, so it is never called;
// hidden, so that it does not take the place of the real one in programs that have it.
core::arch::global_asm!(
    ".globl rust_eh_personality",
    ".hidden rust_eh_personality",
    "rust_eh_personality:",
    #[cfg(target_arch = "x86_64")]
    "call {abort}",
    #[cfg(target_arch = "aarch64")]
    "bl {abort}",
    abort = sym never_unwinds,
);

extern "C" fn never_unwinds() -> ! {
    // SAFETY: `abort` takes no argument and does not return; it is not hooked.
    unsafe { libc::abort() }
}

/// The only end of a bug in here: a line on standard error, and the process stops before it can do harm.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    message::say(format_args!(
        "internal error at {}; the process is stopped to protect its files",
        message::place(info)
    ));
    // SAFETY: `abort` takes no argument and does not return; it is not hooked.
    unsafe { libc::abort() }
}
