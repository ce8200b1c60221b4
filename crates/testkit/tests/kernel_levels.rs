//! The fear: the tests pass "with scalar instructions", and in truth AVX-512 ran.
//!
//! `LIFEBOAT_KERNELS` limits the instructions of all programs of the project. Each is asked what it uses.

use lifeboat_kernels::Level;
use lifeboat_testkit::child::{self, Role};
use lifeboat_testkit::command::{Mounted, lifeboat};
use lifeboat_testkit::report;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchRegion, limit_kernels};
use std::ffi::CStr;
use std::process::Output;
use std::time::Duration;

const KEY: &str = "LIFEBOAT_KERNELS";
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn entry_of_child_processes() {
    child::enter(&[("asks the library", asks_the_library), ("asks itself", asks_itself)]);
}

/// The best that this machine offers, whatever the environment of this test says.
fn best() -> Level {
    level_of(&Role::new("asks itself").without(KEY).run(LIMIT)[0])
}

fn level_of(name: &str) -> Level {
    Level::from_name(name).unwrap_or_else(|| panic!("{name:?} is no level"))
}

fn asks_itself() {
    // Several processes of this run do so at once.
    let scratch = ScratchRegion::new(&format!("level-{}", std::process::id()), 8 << 20);
    drop(scratch.attach());
    child::report(lifeboat_kernels::level().name());
}

/// As any program can: the library is loaded, so its symbols are there.
fn asks_the_library() {
    // SAFETY: the name is a C string; the symbol, when there, is a function without arguments that gives a C string.
    let name = unsafe {
        let found = libc::dlsym(libc::RTLD_DEFAULT, c"lifeboat_kernels".as_ptr());
        assert!(!found.is_null(), "the interception library is not loaded");
        let ask: extern "C" fn() -> *const libc::c_char = std::mem::transmute(found);
        CStr::from_ptr(ask())
    };
    child::report(name.to_str().expect("plain letters"));
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect()
}

#[test]
fn no_program_uses_instructions_above_the_limit() {
    let _nothing_left = NoResidue::begin();
    let mounted = Mounted::new("levels", "16MiB");
    let best = best();
    report::note("kernels", &format!("the best of this machine is {}", best.name()));
    for limit in Level::ALL {
        let expected = limit.min(best);
        let itself = Role::new("asks itself").with(KEY, limit.name()).run(LIMIT);
        assert_eq!(itself, [expected.name()], "a test with the limit {}", limit.name());
        let library = Role::below(mounted.exec(), "asks the library").with(KEY, limit.name()).run(LIMIT);
        assert_eq!(library, [expected.name()], "a program below exec with the limit {}", limit.name());
        let command = lifeboat(["region", "info", mounted.name()]).env(KEY, limit.name()).output().expect("lifeboat");
        let said = String::from_utf8_lossy(&command.stdout).into_owned();
        let line = said.lines().find_map(|line| line.strip_prefix("kernels")).expect("a line about kernels");
        assert_eq!(line.trim(), expected.name(), "the command with the limit {}", limit.name());
    }
    let free = Role::below(mounted.exec(), "asks the library").without(KEY).run(LIMIT);
    assert_eq!(free, [best.name()], "a program without a limit");
}

#[test]
fn the_limit_stays_when_a_program_clears_the_environment_of_the_next() {
    let _nothing_left = NoResidue::begin();
    let mounted = Mounted::new("levels", "16MiB");
    let script = "import os; os.execve('/usr/bin/python3', ['python3', '-c', 'import ctypes; \
                  name = ctypes.CDLL(None).lifeboat_kernels; name.restype = ctypes.c_char_p; print(name().decode())'], {})";
    let output = mounted.exec().args(["python3", "-c", script]).env(KEY, "scalar").output().expect("lifeboat");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "scalar\n", "{:?}", lines(&output));
}

#[test]
fn an_unknown_limit_is_said_in_one_line() {
    let _nothing_left = NoResidue::begin();
    let mounted = Mounted::new("levels", "16MiB");
    assert!(mounted.exec().arg("true").env_remove(KEY).status().is_ok_and(|status| status.success()), "make a region");
    let expected = "lifeboat: LIFEBOAT_KERNELS must be scalar, avx2 or avx512, not";
    for wrong in ["", "AVX2", "sse", &"x".repeat(5000)] {
        let refused = mounted.exec().arg("true").env(KEY, wrong).output().expect("lifeboat");
        assert_eq!(refused.status.code(), Some(2), "the command with the limit {wrong:?}");
        assert!(matches!(&lines(&refused)[..], [line] if line.starts_with(expected)), "{:?}", lines(&refused));
        // The library cannot refuse: it says so and goes on.
        let script = format!("{KEY}={wrong} cat /dev/null");
        let told = mounted.exec().args(["sh", "-c", &script]).env_remove(KEY).output().expect("lifeboat");
        assert_eq!(told.status.code(), Some(0), "a program with the limit {wrong:?}");
        assert!(matches!(&lines(&told)[..], [line] if line.starts_with(expected)), "{:?}", lines(&told));
    }
}

/// The harness that runs all tests at a lower level relies on it.
#[test]
fn this_test_run_obeys_its_own_limit() {
    let used = limit_kernels();
    match std::env::var(KEY) {
        Ok(name) => assert_eq!(used, level_of(&name).min(best()), "LIFEBOAT_KERNELS={name}"),
        Err(_) => assert_eq!(used, best()),
    }
}
