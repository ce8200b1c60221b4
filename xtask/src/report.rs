//! What the developer sees: a heading and the time of each stage, the failures in full, and one closing line.

use crate::failure::{Context, Outcome};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// Counts over all stages.
#[derive(Default)]
pub struct Report {
    passed: usize,
    failed: usize,
    skipped: usize,
    failures: Vec<String>,
    allowed: BTreeMap<String, String>,
}

impl Report {
    /// Reads the list of skips that are allowed: lines `NAME: WHEN`; NAME may end with `*`.
    pub fn with_allowed_skips(list: &Path) -> Outcome<Self> {
        let text = std::fs::read_to_string(list).context(format_args!("read {}", list.display()))?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let allowed = lines.filter_map(|line| line.split_once(": ")).map(|(a, b)| (a.to_owned(), b.to_owned()));
        Ok(Self { allowed: allowed.collect(), ..Self::default() })
    }

    /// Runs one stage under its heading and says how long it took. An error is one failure; only an interrupt ends all.
    pub fn stage(&mut self, name: &str, what: &str, work: impl FnOnce(&mut Self) -> Outcome) -> Outcome {
        println!("== {name}: {what}");
        let (start, failed) = (Instant::now(), self.failed);
        if let Err(failure) = work(self) {
            if crate::processes::interrupted() {
                return Err(failure);
            }
            self.fail(name, &failure.to_string());
        }
        let word = if self.failed == failed { "ok" } else { "FAILED" };
        println!("   {word}, {:.1} s", start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Counts a check that passed.
    pub fn pass(&mut self) {
        self.passed += 1;
    }

    /// Counts tests that passed.
    pub fn passes(&mut self, count: usize) {
        self.passed += count;
    }

    /// Counts and tells a failure.
    pub fn fail(&mut self, name: &str, why: &str) {
        println!("   FAILED {name}: {why}");
        self.failed += 1;
        self.failures.push(name.to_owned());
    }

    /// Counts and tells a skip; one that is not on the list is a failure.
    pub fn skip(&mut self, name: &str, why: &str) {
        println!("   skipped: {name}: {why}");
        let listed = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        };
        if self.allowed.keys().any(listed) {
            self.skipped += 1;
        } else {
            self.fail(name, "skipped, but not on the list of allowed skips (xtask/allowed_skips.txt)");
        }
    }

    /// A fact that the reader should know.
    pub fn note(&self, text: &str) {
        println!("   {text}");
    }

    /// The closing line. Anything failed, or nothing tested, is a failure.
    pub fn close(self) -> Outcome {
        if !self.failures.is_empty() {
            println!("failed: {}", self.failures.join(", "));
        }
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped);
        if self.failed == 0 && self.passed > 0 {
            return Ok(());
        }
        Err(crate::failure::Failure::told())
    }
}
