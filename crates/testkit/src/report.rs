//! Lines that are shown even when a test passes: skips, seeds and figures.

use std::io::Write;

/// Prints one line past the test harness, which would swallow what a passing test prints.
pub fn line(text: &str) {
    let mut stderr = std::io::stderr();
    // One write, so that lines of two processes do not mix. Nobody can be told when standard error is gone.
    let _ = stderr.write_all(format!("{text}\n").as_bytes());
}

/// Says that `what` was not tested and why. Such lines are counted by whoever runs the tests.
pub fn skipped(what: &str, why: &str) {
    line(&format!("skipped: {what}: {why}"));
}

/// A measured figure, or a circumstance that the reader of the results must know.
pub fn note(test: &str, text: &str) {
    line(&format!("note: {test}: {text}"));
}

/// Whether also what takes hours is wanted (`LIFEBOAT_FULL=all`).
pub fn exhaustive() -> bool {
    std::env::var_os("LIFEBOAT_FULL").is_some_and(|value| value == "all")
}

/// One of three sizes: of the quick set, of the long harnesses, of what takes hours.
pub fn sized<T>(quick: T, long: T, all: T) -> T {
    match (full(), exhaustive()) {
        (_, true) => all,
        (true, false) => long,
        (false, false) => quick,
    }
}

/// Whether the long harnesses are wanted (`LIFEBOAT_FULL=1`).
pub fn full() -> bool {
    std::env::var_os("LIFEBOAT_FULL").is_some_and(|value| value != "0" && !value.is_empty())
}
