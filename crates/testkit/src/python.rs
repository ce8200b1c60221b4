//! Python's own tests, and how they end.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The first Python that has its own tests.
pub fn with_tests() -> Option<String> {
    let has_tests = |python: &&&str| {
        let asked = Command::new(python).args(["-c", "import test.test_os, test.test_mmap"]).output();
        asked.is_ok_and(|output| output.status.success())
    };
    ["/usr/bin/python3", "python3"].iter().find(has_tests).map(|python| python.to_string())
}

/// How each test ended, from the report that Python's test runner writes.
pub fn results(report: &Path) -> BTreeMap<String, &'static str> {
    let text = std::fs::read_to_string(report).unwrap_or_default();
    let cases = text.split("<testcase ").skip(1);
    cases
        .filter_map(|case| {
            let name = case.split_once("name=\"")?.1.split_once('"')?.0;
            let case = case.split("</testcase>").next().unwrap_or(case);
            let ends = [("<skipped", "skipped"), ("<failure", "failed"), ("<error", "failed")];
            let end = ends.iter().find(|(sign, _)| case.contains(sign)).map_or("passed", |(_, end)| end);
            Some((name.to_string(), end))
        })
        .collect()
}
