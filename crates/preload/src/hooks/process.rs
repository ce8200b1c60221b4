//! New processes and new programs: open files get second holders, and the next program must find the mount.

use crate::answer::{self, give};
use crate::environment::{self, Environment};
use crate::{descriptors, programs, state, user, working_directory};
use core::ffi::{c_char, c_int, c_void};
use libc::pid_t;

type Strings = *const *const c_char;

/// Another process is about to hold what this one has open.
fn about_to_share() {
    if state::attached() && !state::borrows_memory() {
        descriptors::mark_all_shared();
    }
}

/// In the child, by answer 0.
fn in_child(pid: pid_t) -> pid_t {
    if pid == 0 {
        state::after_fork();
    }
    pid
}

/// Runs `start`, which makes libc start a shell by itself with the environment as it is: where the working directory
/// is ours, the environment says so for that time.
fn with_directory_in_environment<R>(start: impl FnOnce() -> R) -> R {
    let mut text = [0u8; user::PATH_MAX];
    if !working_directory::to_hand_on(&mut text, b"") {
        return start();
    }
    // SAFETY: both are C strings; `setenv` and `unsetenv` are not hooked. A program that starts a shell while another
    // thread changes the environment races by itself.
    unsafe { libc::setenv(c"LIFEBOAT_CWD".as_ptr(), text.as_ptr().cast(), 1) };
    let result = start();
    // SAFETY: as above.
    unsafe { libc::unsetenv(c"LIFEBOAT_CWD".as_ptr()) };
    result
}

hooks! {
    fn fork() -> pid_t, also __fork {
        about_to_share();
        in_child(next())
    }

    fn _Fork() -> pid_t {
        about_to_share();
        in_child(next())
    }

    fn clone(
        function: *const c_void,
        stack: *mut c_void,
        flags: c_int,
        argument: *mut c_void,
        parent: *mut pid_t,
        thread: *mut c_void,
        child: *mut pid_t,
    ) -> c_int {
        if flags & libc::CLONE_FILES == 0 {
            about_to_share();
        }
        if flags & libc::CLONE_VM != 0 && flags & libc::CLONE_THREAD == 0 {
            state::lend_memory();
        }
        next(function, stack, flags, argument, parent, thread, child)
    }

    fn daemon(keep_directory: c_int, keep_descriptors: c_int) -> c_int {
        about_to_share();
        let answer = next(keep_directory, keep_descriptors);
        if answer == 0 {
            state::after_fork();
            if keep_descriptors == 0 {
                // libc has put /dev/null there.
                (0..3).filter(|&descriptor| descriptors::find(descriptor).is_some()).for_each(descriptors::vanished);
            }
            if keep_directory == 0 {
                working_directory::leave();
            }
        }
        answer
    }

    fn system(command: *const c_char) -> c_int {
        about_to_share();
        with_directory_in_environment(|| next(command))
    }

    fn popen(command: *const c_char, kind: *const c_char) -> *mut libc::FILE, also _IO_popen {
        about_to_share();
        with_directory_in_environment(|| next(command, kind))
    }

    fn posix_spawn(
        pid: *mut pid_t,
        path: *const c_char,
        actions: *const c_void,
        attributes: *const c_void,
        arguments: Strings,
        variables: Strings,
    ) -> c_int {
        spawn(path, variables, |path, variables| next(pid, path, actions, attributes, arguments, variables))
    }

    fn posix_spawnp(
        pid: *mut pid_t,
        file: *const c_char,
        actions: *const c_void,
        attributes: *const c_void,
        arguments: Strings,
        variables: Strings,
    ) -> c_int {
        spawn_found(file, variables, |file, variables| next(pid, file, actions, attributes, arguments, variables))
    }

    fn execve(path: *const c_char, arguments: Strings, variables: Strings) -> c_int {
        execute(path, variables, |path, variables| next(path, arguments, variables))
    }

    fn execveat(directory: c_int, path: *const c_char, arguments: Strings, variables: Strings, flags: c_int) -> c_int {
        let mut environment = Environment::new();
        let variables = environment.complete(variables);
        handing_on_locks(|| next(directory, path, arguments, variables, flags))
    }

    fn fexecve(descriptor: c_int, arguments: Strings, variables: Strings) -> c_int {
        let mut environment = Environment::new();
        let variables = environment.complete(variables);
        handing_on_locks(|| next(descriptor, arguments, variables))
    }

    fn execvpe(file: *const c_char, arguments: Strings, variables: Strings) -> c_int {
        execute_found(file, variables, |file, variables| next(file, arguments, variables))
    }

    fn execv(path: *const c_char, arguments: Strings) -> c_int {
        if !state::configured() {
            return next(path, arguments);
        }
        let real = libc_function!(c"execve", fn(*const c_char, Strings, Strings) -> c_int);
        execute(path, environment::current(), |path, variables| real(path, arguments, variables))
    }

    fn execvp(file: *const c_char, arguments: Strings) -> c_int {
        if !state::configured() {
            return next(file, arguments);
        }
        let real = libc_function!(c"execvpe", fn(*const c_char, Strings, Strings) -> c_int);
        execute_found(file, environment::current(), |file, variables| real(file, arguments, variables))
    }
}

/// Executes the file at a path, which may be one of ours, with an environment that leads to the mount.
fn execute(path: *const c_char, variables: Strings, start: impl Fn(*const c_char, Strings) -> c_int) -> c_int {
    if !state::configured() {
        return start(path, variables);
    }
    let mut environment = Environment::new();
    let variables = environment.complete(variables);
    give(programs::with_program(path, false, |path| handing_on_locks(|| start(path, variables))))
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

/// As [`execute`], for a name that is looked for along `PATH` unless it has a slash.
fn execute_found(file: *const c_char, variables: Strings, start: impl Fn(*const c_char, Strings) -> c_int) -> c_int {
    if state::configured() && programs::is_path(file) {
        return execute(file, variables, start);
    }
    let mut environment = Environment::new();
    let variables = environment.complete(variables);
    handing_on_locks(|| start(file, variables))
}

/// Starts the file at a path in a new process; answers the error's number, as `posix_spawn` does.
fn spawn(path: *const c_char, variables: Strings, start: impl Fn(*const c_char, Strings) -> c_int) -> c_int {
    about_to_share();
    if !state::configured() {
        return start(path, variables);
    }
    let mut environment = Environment::new();
    let variables = environment.complete(variables);
    // `posix_spawn` answers the error's number.
    let start = |path| match start(path, variables) {
        0 => 0,
        error => {
            answer::set_errno(error);
            -1
        }
    };
    match programs::with_program(path, true, start) {
        Ok(0) => 0,
        Ok(_) => answer::errno(),
        Err(error) => error.raw_os_error(),
    }
}

/// As [`spawn`], for a name that is looked for along `PATH` unless it has a slash.
fn spawn_found(file: *const c_char, variables: Strings, start: impl Fn(*const c_char, Strings) -> c_int) -> c_int {
    if state::configured() && programs::is_path(file) {
        return spawn(file, variables, start);
    }
    about_to_share();
    start(file, Environment::new().complete(variables))
}

/// What has to be done in the parent, because the child of `vfork` may change nothing; gives the address of libc's.
extern "C" fn before_vfork() -> usize {
    static NEXT: crate::real::Next = crate::real::Next::new(c"vfork");
    working_directory::forget_child();
    // A child that goes below the mount could not attach for itself in its parent's memory.
    if state::configured() {
        let _ = state::file_system();
    }
    about_to_share();
    state::lend_memory();
    NEXT.address()
}

/// `vfork` returns twice into its caller's frame, so it has to be entered by a jump from a frame that is gone.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn vfork() -> pid_t {
    core::arch::naked_asm!(
        "sub rsp, 8",
        "call {before}",
        "add rsp, 8",
        "jmp rax",
        before = sym before_vfork,
    )
}

/// `vfork` returns twice into its caller's frame, so it has to be entered by a jump from a frame that is gone.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn vfork() -> pid_t {
    core::arch::naked_asm!(
        "stp x29, x30, [sp, #-16]!",
        "bl {before}",
        "mov x16, x0",
        "ldp x29, x30, [sp], #16",
        "br x16",
        before = sym before_vfork,
    )
}
