//! Executing another program in this process: it must find the mount, and may itself be a file there.

use crate::answer::give;
use crate::environment::{self, Environment};
use crate::programs::Strings;
use crate::{descriptors, path, programs, state, user};
use core::ffi::{c_char, c_int};

hooks! {
    fn execve(path: *const c_char, arguments: Strings, variables: Strings) -> c_int {
        execute(path, arguments, variables, next)
    }

    fn execveat(directory: c_int, path: *const c_char, arguments: Strings, variables: Strings, flags: c_int) -> c_int {
        if !state::configured() {
            return next(directory, path, arguments, variables, flags);
        }
        let mut environment = Environment::new();
        let variables = environment.complete(variables);
        let real = libc_function!(c"execve", fn(*const c_char, Strings, Strings) -> c_int);
        if flags & libc::AT_EMPTY_PATH != 0 && path::is_empty(path)
            && let Some(file) = descriptors::find(directory)
        {
            return give(programs::with_open_file(file, |name| handing_on_locks(|| real(name, arguments, variables))));
        }
        let wish = programs::Wish { directory, ..programs::Wish::new(path, arguments, false) };
        let start = |directory, path, arguments| {
            // A descriptor means nothing to a path from the root, which may be that of a link.
            let flags = if directory == libc::AT_FDCWD { 0 } else { flags };
            handing_on_locks(|| next(directory, path, arguments, variables, flags))
        };
        give(programs::with_program(wish, start))
    }

    fn fexecve(descriptor: c_int, arguments: Strings, variables: Strings) -> c_int {
        if !state::configured() {
            return next(descriptor, arguments, variables);
        }
        let mut environment = Environment::new();
        let variables = environment.complete(variables);
        match descriptors::find(descriptor) {
            None => handing_on_locks(|| next(descriptor, arguments, variables)),
            Some(file) => {
                let real = libc_function!(c"execve", fn(*const c_char, Strings, Strings) -> c_int);
                give(programs::with_open_file(file, |name| handing_on_locks(|| real(name, arguments, variables))))
            }
        }
    }

    fn execvpe(file: *const c_char, arguments: Strings, variables: Strings) -> c_int {
        execute_found(file, arguments, variables, next)
    }

    fn execv(path: *const c_char, arguments: Strings) -> c_int {
        if !state::configured() {
            return next(path, arguments);
        }
        let real = libc_function!(c"execve", fn(*const c_char, Strings, Strings) -> c_int);
        execute(path, arguments, environment::current(), |file, arguments, variables| {
            real(file, arguments, variables)
        })
    }

    fn execvp(file: *const c_char, arguments: Strings) -> c_int {
        if !state::configured() {
            return next(file, arguments);
        }
        let real = libc_function!(c"execvpe", fn(*const c_char, Strings, Strings) -> c_int);
        execute_found(file, arguments, environment::current(), |file, arguments, variables| {
            real(file, arguments, variables)
        })
    }
}

/// Executes the file at a path, which may be one of ours, with an environment that leads to the mount.
fn execute(
    path: *const c_char,
    arguments: Strings,
    variables: Strings,
    start: impl Fn(*const c_char, Strings, Strings) -> c_int,
) -> c_int {
    if !state::configured() {
        return start(path, arguments, variables);
    }
    let mut environment = Environment::new();
    let variables = environment.complete(variables);
    let wish = programs::Wish::new(path, arguments, false);
    give(programs::with_program(wish, |_, path, arguments| handing_on_locks(|| start(path, arguments, variables))))
}

/// As [`execute`], for a name that is looked for along `PATH` unless it has a slash.
fn execute_found(
    file: *const c_char,
    arguments: Strings,
    variables: Strings,
    start: impl Fn(*const c_char, Strings, Strings) -> c_int,
) -> c_int {
    if !state::configured() {
        return start(file, arguments, variables);
    }
    if programs::is_path(file) {
        return execute(file, arguments, variables, start);
    }
    let mut found = [0; user::PATH_MAX];
    if programs::search(file, &mut found) {
        return execute(found.as_ptr().cast(), arguments, variables, start);
    }
    let mut environment = Environment::new();
    let variables = environment.complete(variables);
    handing_on_locks(|| start(file, arguments, variables))
}

/// Around an `exec`: the locks of this process wait for the next program, unless there is none.
fn handing_on_locks(start: impl FnOnce() -> c_int) -> c_int {
    let note = |begins| {
        if state::attached() && !state::borrows_memory() {
            // A lock that could not be noted ends with this program.
            let _ = state::file_system().and_then(|file_system| file_system.hand_on_process_locks(begins));
        }
    };
    note(true);
    let answer = start();
    note(false);
    answer
}

extern "C" fn execute_list(path: *const c_char, arguments: Strings) -> c_int {
    execv(path, arguments)
}

extern "C" fn execute_list_found(file: *const c_char, arguments: Strings) -> c_int {
    execvp(file, arguments)
}

/// The environment stands behind the null pointer that ends the arguments.
extern "C" fn execute_list_with_environment(path: *const c_char, arguments: Strings) -> c_int {
    let mut end = arguments;
    // SAFETY: the caller of `execle` passed arguments up to a null pointer, and an environment behind it.
    unsafe {
        while !(*end).is_null() {
            end = end.add(1);
        }
        execve(path, arguments, *end.add(1).cast::<Strings>())
    }
}

/// `execl` and its kin take their arguments one by one: in registers and then on the stack. The registers are put on
/// the stack in front of the rest, which makes an array of them.
macro_rules! from_list {
    ($(#[$meta:meta])* $name:ident, $inner:ident) => {
        $(#[$meta])*
        #[cfg(target_arch = "x86_64")]
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        extern "C" fn $name() -> c_int {
            core::arch::naked_asm!(
                "pop rax",
                "push r9",
                "push r8",
                "push rcx",
                "push rdx",
                "push rsi",
                "mov rsi, rsp",
                "push rax",
                "call {inner}",
                "pop rcx",
                "add rsp, 40",
                "push rcx",
                "ret",
                inner = sym $inner,
            )
        }

        $(#[$meta])*
        #[cfg(target_arch = "aarch64")]
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        extern "C" fn $name() -> c_int {
            core::arch::naked_asm!(
                "stp x30, x1, [sp, #-64]!",
                "stp x2, x3, [sp, #16]",
                "stp x4, x5, [sp, #32]",
                "stp x6, x7, [sp, #48]",
                "add x1, sp, #8",
                "bl {inner}",
                "ldr x30, [sp]",
                "add sp, sp, #64",
                "ret",
                inner = sym $inner,
            )
        }
    };
}

from_list!(
    /// Executes the file at a path.
    execl,
    execute_list
);
from_list!(
    /// Executes what is found along `PATH`.
    execlp,
    execute_list_found
);
from_list!(
    /// Executes the file at a path with a given environment.
    execle,
    execute_list_with_environment
);
