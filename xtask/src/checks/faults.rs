//! docs/faults.md is held against the tests: no number is missing, and no test is named that is not there.

use super::rust_files;
use crate::failure::{Context, Failure, Outcome};
use crate::workspace::Workspace;
use std::collections::HashSet;

/// Every fault has a number, and either tests or a word on what it waits for.
pub fn check(workspace: &Workspace) -> Outcome {
    let path = workspace.root.join("docs/faults.md");
    let text = std::fs::read_to_string(&path).context(format_args!("read {}", path.display()))?;
    let wrong = wrong_rows(&text, &tests(workspace)?);
    if wrong.is_empty() { Ok(()) } else { Err(Failure::new(wrong.join("\n   "))) }
}

/// Names of test programs, and of the functions in them and in unit tests.
fn tests(workspace: &Workspace) -> Outcome<HashSet<String>> {
    let mut names = HashSet::new();
    for file in rust_files(&workspace.root.join("crates"))? {
        let text = std::fs::read_to_string(&file).context(format_args!("read {}", file.display()))?;
        if file.parent().is_some_and(|folder| folder.ends_with("tests")) {
            names.extend(file.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        for (index, _) in lines.iter().enumerate().filter(|(_, line)| **line == "#[test]") {
            let function = lines[index..].iter().take(6).find_map(|line| line.strip_prefix("fn "));
            names.extend(function.and_then(|rest| rest.split('(').next()).map(str::to_owned));
        }
    }
    Ok(names)
}

/// Rows like "| 7 | killed holding a lock | `name_of_a_test`, `another` |" or "| 21 | node lost | later: groups |".
fn wrong_rows(text: &str, tests: &HashSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut expected = 1;
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, number, _, shown, ..] = cells[..] else { continue };
        let Ok(number) = number.parse::<u32>() else { continue };
        if number != expected {
            wrong.push(format!("docs/faults.md: fault {expected} is missing before {number}"));
        }
        expected = number + 1;
        let named: Vec<_> = shown.split('`').skip(1).step_by(2).collect();
        if named.is_empty() && !shown.contains("later:") && shown != "not yet" {
            wrong.push(format!("docs/faults.md: fault {number} has neither a test nor a word on what it waits for"));
        }
        let absent = named.into_iter().filter(|name| !tests.contains(*name));
        wrong.extend(absent.map(|name| format!("docs/faults.md: fault {number} names `{name}`, which is no test")));
    }
    if expected == 1 {
        wrong.push("docs/faults.md has no faults".to_owned());
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_promises_what_is_not_there_is_found() {
        let tests = HashSet::from(["there".to_owned()]);
        let wrong = |text: &str| wrong_rows(text, &tests).len();
        assert_eq!(wrong("| 1 | a | `there` |\n| 2 | b | later: groups |"), 0);
        assert_eq!(wrong("| 1 | a | `there`, `gone` |"), 1);
        assert_eq!(wrong("| 1 | a | `there` |\n| 3 | b | `there` |"), 1);
        assert_eq!(wrong("| 1 | a | |"), 1);
        assert_eq!(wrong("nothing"), 1);
    }
}
