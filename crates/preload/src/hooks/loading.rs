//! `dlopen` of a file in the mount: the linker opens files by itself, so it gets a copy in memory. The same file gets
//! the same copy as long as it does not change, because the linker tells libraries apart by device and inode.

use crate::path::{self, Place};
use crate::{call, covered, programs, user};
use core::cell::UnsafeCell;
use core::ffi::c_char;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use lifeboat_fs::{Errno, InodeId, LastLink, Result};
use rustix::fd::{AsRawFd, IntoRawFd};

/// Most libraries of the mount that a process loads.
const LIBRARIES_MAX: usize = 512;

/// Room for `/proc/self/fd/N`.
const NAME_MAX: usize = 64;

/// Lowest number for descriptors of our own, out of the way of programs that count on theirs.
const INTERNAL_FROM: i32 = 1000;

/// A library that was copied.
struct Library {
    inode: AtomicU64,
    modified: AtomicU64,
    name: UnsafeCell<[u8; NAME_MAX]>,
}

// SAFETY: a name is written under the lock, before `COUNT` shows the entry, and never changed.
unsafe impl Sync for Library {}

static LIBRARIES: [Library; LIBRARIES_MAX] =
    [const { Library { inode: AtomicU64::new(0), modified: AtomicU64::new(0), name: UnsafeCell::new([0; NAME_MAX]) } };
        LIBRARIES_MAX];

static COUNT: AtomicUsize = AtomicUsize::new(0);
static LOCK: AtomicBool = AtomicBool::new(false);

/// The name to load in place of `name`.
extern "C" fn name_to_load(name: *const c_char) -> *const c_char {
    if !programs::is_path(name) {
        return name;
    }
    let mut room = user::Room::new();
    let found = if path::surely_foreign(libc::AT_FDCWD, name) {
        Place::Foreign
    } else {
        path::locate(libc::AT_FDCWD, name, &mut room)
    };
    let copied = match found {
        Place::Ours(start, rest) => copy(start, rest),
        Place::Foreign => {
            // The linker says why a file cannot be loaded in words only, so this has to be asked before.
            let kernels = user::get(name).is_err() || kernel_has(name);
            let mut entered = [0; user::PATH_MAX];
            match if kernels { None } else { covered::entered(libc::AT_FDCWD, name, LastLink::Follow, &mut entered) } {
                Some((start, rest)) => copy(start, rest),
                None => return name,
            }
        }
        Place::Descriptor(_) | Place::Refused(_) => return name,
    };
    copied.unwrap_or(name)
}

fn kernel_has(name: *const c_char) -> bool {
    libc_function!(c"access", fn(*const c_char, i32) -> i32)(name, libc::F_OK) == 0
}

fn copy(start: InodeId, rest: &[u8]) -> Result<*const c_char> {
    let (inode, modified) = call::call(|file_system, who| {
        let inode = file_system.resolve(who, start, rest, LastLink::Follow)?;
        Ok((inode, file_system.stat(inode)?.modified as u64))
    })?;
    while LOCK.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
        rustix::thread::sched_yield();
    }
    let name = find_or_copy(inode, modified);
    LOCK.store(false, Ordering::Release);
    name
}

fn find_or_copy(inode: InodeId, modified: u64) -> Result<*const c_char> {
    let count = COUNT.load(Ordering::Relaxed);
    let known = LIBRARIES.iter().take(count).find(|library| {
        library.inode.load(Ordering::Relaxed) == inode.to_word() && library.modified.load(Ordering::Relaxed) == modified
    });
    if let Some(library) = known {
        return Ok(library.name.get().cast_const().cast());
    }
    let library = LIBRARIES.get(count).ok_or(Errno::MFILE)?;
    let memory = programs::copy_inode(inode)?;
    let memory = rustix::io::fcntl_dupfd_cloexec(&memory, INTERNAL_FROM).unwrap_or(memory);
    // SAFETY: only the holder of the lock writes, and nobody reads this entry yet.
    let name = unsafe { &mut *library.name.get() };
    lifeboat_region::process::decimal(b"/proc/self/fd/", memory.as_raw_fd() as u64, b"\0", name);
    // It stays open: its name has to go on meaning this file.
    let _ = memory.into_raw_fd();
    library.inode.store(inode.to_word(), Ordering::Relaxed);
    library.modified.store(modified, Ordering::Relaxed);
    COUNT.store(count + 1, Ordering::Release);
    Ok(library.name.get().cast_const().cast())
}

extern "C" fn real_open() -> usize {
    static NEXT: crate::real::Next = crate::real::Next::new(c"dlopen");
    NEXT.address()
}

extern "C" fn real_open_in_namespace() -> usize {
    static NEXT: crate::real::Next = crate::real::Next::new(c"dlmopen");
    NEXT.address()
}

/// libc looks at who calls `dlopen`, to search that object's paths; so it is entered by a jump.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn dlopen() {
    core::arch::naked_asm!(
        "push rsi",
        "test rdi, rdi",
        "jz 2f",
        "call {name}",
        "mov rdi, rax",
        "2:",
        "push rdi",
        "sub rsp, 8",
        "call {real}",
        "add rsp, 8",
        "pop rdi",
        "pop rsi",
        "jmp rax",
        name = sym name_to_load,
        real = sym real_open,
    )
}

/// As `dlopen`, with a namespace in front.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn dlmopen() {
    core::arch::naked_asm!(
        "push rdi",
        "push rdx",
        "push rsi",
        "mov rdi, rsi",
        "test rdi, rdi",
        "jz 2f",
        "call {name}",
        "mov [rsp], rax",
        "2:",
        "call {real}",
        "pop rsi",
        "pop rdx",
        "pop rdi",
        "jmp rax",
        name = sym name_to_load,
        real = sym real_open_in_namespace,
    )
}

/// libc looks at who calls `dlopen`, to search that object's paths; so it is entered by a jump.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn dlopen() {
    core::arch::naked_asm!(
        "stp x29, x30, [sp, #-32]!",
        "str x1, [sp, #16]",
        "cbz x0, 2f",
        "bl {name}",
        "2:",
        "str x0, [sp, #24]",
        "bl {real}",
        "mov x16, x0",
        "ldr x0, [sp, #24]",
        "ldr x1, [sp, #16]",
        "ldp x29, x30, [sp], #32",
        "br x16",
        name = sym name_to_load,
        real = sym real_open,
    )
}

/// As `dlopen`, with a namespace in front.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn dlmopen() {
    core::arch::naked_asm!(
        "stp x29, x30, [sp, #-48]!",
        "stp x0, x2, [sp, #16]",
        "mov x0, x1",
        "cbz x0, 2f",
        "bl {name}",
        "2:",
        "str x0, [sp, #32]",
        "bl {real}",
        "mov x16, x0",
        "ldp x0, x2, [sp, #16]",
        "ldr x1, [sp, #32]",
        "ldp x29, x30, [sp], #48",
        "br x16",
        name = sym name_to_load,
        real = sym real_open_in_namespace,
    )
}
