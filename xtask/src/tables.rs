//! The tables in documents that commands write. A run of everything replaces the table, a run of a part the rows of
//! that part.

use crate::failure::{Context, Failure, Outcome};
use crate::workspace::Workspace;

/// In which document, and between which two of its lines, a table lies.
pub type Marks = (&'static str, &'static str, &'static str);

/// The row that sums the others up.
const ALL: &str = "all";
/// A column of which the largest figure counts, not the sum.
const LONGEST: &str = "longest";

/// How much of a table a run made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    Whole,
    Part,
}

impl Extent {
    /// Of a run with this choice of a part.
    pub fn of(only: &Option<String>) -> Self {
        if only.is_none() { Self::Whole } else { Self::Part }
    }
}

/// Puts the rows of `table` between two marks: of a part in place of those of the same name, else behind them. Above the table
/// stand the machine and `note`.
pub fn put_rows(
    workspace: &Workspace,
    (document, begin, end): Marks,
    table: &str,
    extent: Extent,
    note: &str,
) -> Outcome {
    let path = workspace.root.join(document);
    let text = std::fs::read_to_string(&path).context(format_args!("read {}", path.display()))?;
    let parts = text.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?)));
    let (before, (old, after)) =
        parts.ok_or_else(|| Failure::new(format!("no place for a table in {}", path.display())))?;
    let table = merged(if extent == Extent::Part { old } else { "" }, table);
    let text = format!("{before}{begin}\n{}. {note}\n\n{table}\n{end}{after}", machine());
    std::fs::write(&path, text).context(format_args!("write {}", path.display()))
}

/// The first table of a text, as lines: head, rule, rows.
fn lines(text: &str) -> Vec<&str> {
    text.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).collect()
}

fn cells(row: &str) -> Vec<&str> {
    row.trim().trim_matches('|').split('|').map(str::trim).collect()
}

fn name(row: &str) -> &str {
    cells(row).first().copied().unwrap_or_default()
}

fn merged(old: &str, new: &str) -> String {
    let (old, new) = (lines(old), lines(new));
    let head: Vec<&str> = new.iter().take(2).copied().collect();
    let kept = if old.first() == new.first() { old.get(2..).unwrap_or_default() } else { &[] };
    let fresh = new.get(2..).unwrap_or_default();
    let mut rows: Vec<&str> = Vec::new();
    for row in kept.iter().chain(fresh).filter(|row| name(row) != ALL) {
        match rows.iter_mut().find(|known| name(known) == name(row)) {
            Some(known) => *known = row,
            None => rows.push(row),
        }
    }
    let mut text: Vec<String> = head.iter().chain(&rows).map(|row| (*row).to_owned()).collect();
    if fresh.iter().any(|row| name(row) == ALL) {
        text.push(summed(head.first().copied().unwrap_or_default(), &rows));
    }
    text.join("\n") + "\n"
}

/// The row that sums others up. What is no number counts nothing.
fn summed(head: &str, rows: &[&str]) -> String {
    let columns = cells(head);
    let figures = columns.iter().enumerate().skip(1).map(|(column, title)| {
        let values = rows.iter().filter_map(|row| cells(row).get(column)?.parse::<u64>().ok());
        let figure = if title.starts_with(LONGEST) { values.max().unwrap_or(0) } else { values.sum() };
        format!(" {figure} |")
    });
    format!("| {ALL} |{}", figures.collect::<String>())
}

/// Processor, how many, kernel.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let information = read("/proc/cpuinfo");
    let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown processor", |(_, name)| name.trim());
    let count = std::thread::available_parallelism().map_or(1, |count| count.get());
    format!("{count} processors ({model}), Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "| operation | kills | longest stall, ms |\n|---|---|---|\n";

    #[test]
    fn a_part_replaces_its_rows_and_the_sum_is_made_again() {
        let old = format!("\nA machine.\n\n{HEAD}| create | 5 | 7 |\n| open | - | 3 |\n| all | 5 | 7 |\n\n");
        let new = format!("{HEAD}| open | 10 | 4 |\n| close | 1 | 1 |\n| all | 11 | 4 |\n");
        let expected = format!("{HEAD}| create | 5 | 7 |\n| open | 10 | 4 |\n| close | 1 | 1 |\n| all | 16 | 7 |\n");
        assert_eq!(merged(&old, &new), expected);
    }

    #[test]
    fn a_table_with_another_head_is_replaced() {
        let new = "| harness | figures |\n|---|---|\n| storm | kills 10 |\n";
        assert_eq!(merged(&format!("{HEAD}| create | 5 | 7 |\n"), new), new);
        assert_eq!(merged("", new), new);
    }
}
