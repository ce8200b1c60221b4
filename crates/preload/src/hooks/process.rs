//! New processes and new programs: open files get second holders, and the next program must find the mount.

use crate::answer;
use crate::environment::{self, Environment};
use crate::programs::{Strings, Wish};
use crate::sharing::Fork;
use crate::spawning::Plan;
use crate::{descriptors, mappings, programs, state, user, working_directory};
use core::ffi::{c_char, c_int, c_void};
use libc::pid_t;
use lifeboat_fs::{Errno, Result};

/// Another process is about to hold what this one has open: until what is answered is dropped.
#[must_use]
pub(super) fn about_to_share() -> Option<Fork> {
    (!state::borrows_memory()).then(Fork::begin)
}

/// Runs `fork`, which answers 0 in the child.
fn forking(fork: impl FnOnce() -> pid_t) -> pid_t {
    let _sharing = about_to_share();
    let mapped = state::attached() && !state::borrows_memory();
    if mapped {
        mappings::before_fork();
    }
    let pid = fork();
    if pid == 0 {
        state::after_fork();
    } else if mapped {
        let error = answer::errno();
        mappings::after_fork_in_parent(pid > 0);
        answer::set_errno(error);
    }
    pid
}

hooks! {
    fn fork() -> pid_t, also __fork {
        forking(next)
    }

    fn _Fork() -> pid_t {
        forking(next)
    }

    fn forkpty(
        terminal: *mut c_int,
        name: *mut c_char,
        settings: *const c_void,
        size: *const c_void,
    ) -> pid_t {
        forking(|| next(terminal, name, settings, size))
    }

    fn clone(
        function: *const c_void,
        stack: *mut c_void,
        flags: c_int,
        argument: *mut c_void,
        parent: *mut pid_t,
        thread: *mut c_void,
        child: *mut pid_t,
    ) -> c_int, also __clone {
        let _sharing = if flags & libc::CLONE_FILES == 0 { about_to_share() } else { None };
        if flags & libc::CLONE_VM != 0 && flags & libc::CLONE_THREAD == 0 {
            state::lend_memory();
        }
        next(function, stack, flags, argument, parent, thread, child)
    }

    fn daemon(keep_directory: c_int, keep_descriptors: c_int) -> c_int {
        let _sharing = about_to_share();
        if state::attached() {
            mappings::before_fork();
        }
        // The parent ends inside.
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
        let _sharing = about_to_share();
        environment::with_complete(|| next(command))
    }

    fn popen(command: *const c_char, kind: *const c_char) -> *mut libc::FILE, also _IO_popen {
        let _sharing = about_to_share();
        environment::with_complete(|| next(command, kind))
    }

    fn posix_spawn(
        pid: *mut pid_t,
        path: *const c_char,
        actions: *const c_void,
        attributes: *const c_void,
        arguments: Strings,
        variables: Strings,
    ) -> c_int {
        spawn(path, actions, arguments, variables, |path, actions, arguments, variables| {
            next(pid, path, actions, attributes, arguments, variables)
        })
    }

    fn posix_spawnp(
        pid: *mut pid_t,
        file: *const c_char,
        actions: *const c_void,
        attributes: *const c_void,
        arguments: Strings,
        variables: Strings,
    ) -> c_int {
        let start = |file, actions, arguments, variables| next(pid, file, actions, attributes, arguments, variables);
        if programs::is_path(file) {
            return spawn(file, actions, arguments, variables, start);
        }
        spawn_found(file, actions, arguments, variables, start)
    }
}

/// Starts the file at a path in a new process; answers the error's number, as `posix_spawn` does.
fn spawn(
    path: *const c_char,
    actions: *const c_void,
    arguments: Strings,
    variables: Strings,
    start: impl Fn(*const c_char, *const c_void, Strings, Strings) -> c_int,
) -> c_int {
    if !state::configured() {
        return start(path, actions, arguments, variables);
    }
    let plan = match Plan::new(actions) {
        Ok(plan) => plan,
        Err(error) => return error.raw_os_error(),
    };
    let _sharing = about_to_share();
    let mut environment = Environment::new();
    let variables = environment.complete_in(variables, plan.directory());
    let start = |_, path, arguments| match start(path, plan.actions(actions), arguments, variables) {
        0 => 0,
        error => {
            answer::set_errno(error);
            -1
        }
    };
    let mut joined = [0; user::PATH_MAX];
    let wish = Wish::new(path, arguments, true);
    let started = if plan.goes_elsewhere() && user::peek(path) != Some(b'/') {
        match plan.directory() {
            None => Ok(start(libc::AT_FDCWD, path, arguments)),
            Some(directory) => join(directory, path, &mut joined)
                .and_then(|()| programs::with_program(Wish { name: joined.as_ptr().cast(), ..wish }, start)),
        }
    } else {
        programs::with_program(wish, start)
    };
    match started {
        Ok(0) => 0,
        Ok(_) => answer::errno(),
        Err(error) => error.raw_os_error(),
    }
}

/// Makes an absolute path of one that is relative to a directory of ours.
fn join(directory: lifeboat_fs::InodeId, path: *const c_char, out: &mut [u8; user::PATH_MAX]) -> Result<()> {
    let mut room = user::Room::new();
    let path = user::path(path, &mut room)?;
    let length = working_directory::absolute_path(directory, out)?;
    let end = length + 1 + path.len();
    out.get_mut(length..end + 1).ok_or(Errno::NAMETOOLONG)?[0] = b'/';
    out[length + 1..end].copy_from_slice(path);
    out[end] = 0;
    Ok(())
}

/// As [`spawn`], for a name that is looked for along `PATH`.
fn spawn_found(
    file: *const c_char,
    actions: *const c_void,
    arguments: Strings,
    variables: Strings,
    start: impl Fn(*const c_char, *const c_void, Strings, Strings) -> c_int,
) -> c_int {
    if !state::configured() {
        return start(file, actions, arguments, variables);
    }
    let mut found = [0; user::PATH_MAX];
    if programs::search(file, &mut found) {
        return spawn(found.as_ptr().cast(), actions, arguments, variables, start);
    }
    let plan = match Plan::new(actions) {
        Ok(plan) => plan,
        Err(error) => return error.raw_os_error(),
    };
    let _sharing = about_to_share();
    let mut environment = Environment::new();
    start(file, plan.actions(actions), arguments, environment.complete_in(variables, plan.directory()))
}

/// What has to be done in the parent, because the child of `vfork` may change nothing; gives the address of libc's.
extern "C" fn before_vfork() -> usize {
    static NEXT: crate::real::Next = crate::real::Next::new(c"vfork");
    working_directory::forget_child();
    // A child that goes below the mount could not attach for itself in its parent's memory.
    if state::configured() {
        let _ = state::file_system();
    }
    let sharing = about_to_share();
    state::lend_memory();
    if let Some(fork) = sharing {
        fork.ends_unseen();
    }
    NEXT.address()
}

/// `vfork` returns twice into its caller's frame, so it has to be entered by a jump from a frame that is gone.
macro_rules! jump_to_vfork {
    ($name:ident) => {
        #[cfg(target_arch = "x86_64")]
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        extern "C" fn $name() -> pid_t {
            core::arch::naked_asm!(
                "sub rsp, 8",
                "call {before}",
                "add rsp, 8",
                "jmp rax",
                before = sym before_vfork,
            )
        }

        #[cfg(target_arch = "aarch64")]
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        extern "C" fn $name() -> pid_t {
            core::arch::naked_asm!(
                "stp x29, x30, [sp, #-16]!",
                "bl {before}",
                "mov x16, x0",
                "ldp x29, x30, [sp], #16",
                "br x16",
                before = sym before_vfork,
            )
        }
    };
}

jump_to_vfork!(vfork);
jump_to_vfork!(__vfork);
