//! `cargo xtask bench`: what files below a mount cost, measured by `lifeboat bench`, and the tables of it in
//! docs/performance.md.

use crate::failure::{Context, Outcome};
use crate::run;
use crate::tables::{Extent, put_rows};
use crate::workspace::{self, Workspace};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

const DOCUMENT: &str = "docs/performance.md";
const MEASURES: (&str, &str, &str) =
    (DOCUMENT, "<!-- measures: made by `cargo xtask bench --document` -->\n", "<!-- end of measures -->\n");
const SCALINGS: (&str, &str, &str) =
    (DOCUMENT, "<!-- processes: made by `cargo xtask bench --document` -->\n", "<!-- end of processes -->\n");

const GROWTHS: (&str, &str, &str) =
    (DOCUMENT, "<!-- numbers: made by `cargo xtask bench --document` -->\n", "<!-- end of numbers -->\n");
const DESCRIPTORS: (&str, &str, &str) =
    (DOCUMENT, "<!-- descriptors: made by `cargo xtask bench --document` -->\n", "<!-- end of descriptors -->\n");

/// What to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Fewer rounds, less memory
    #[arg(long)]
    quick: bool,
    /// Only the measure of this name, or those with this in their names; and their rows of the tables
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// A folder on a disk to compare with
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    disk: PathBuf,
    /// Where figures.json and goals.png go
    #[arg(long, value_name = "DIR", default_value = "bench-output")]
    out: PathBuf,
    /// Write the tables into docs/performance.md
    #[arg(long)]
    document: bool,
}

/// Measures with what is built here.
pub fn run(options: &Options) -> Outcome {
    let workspace = Workspace::read()?;
    workspace::check_toolchain(&workspace)?;
    let folder = workspace.build_release()?;
    let out = workspace.root.join(&options.out);
    std::fs::create_dir_all(&out).context(format_args!("make {}", out.display()))?;
    let figures = out.join("figures.json");
    let mut command = Command::new(folder.join("lifeboat"));
    command.arg("bench").arg("--disk").arg(&options.disk);
    command.arg("--save").arg(&figures).arg("--plot").arg(out.join("goals.png"));
    if options.quick {
        command.arg("--quick");
    }
    if let Some(only) = &options.only {
        command.args(["--only", only]);
    }
    run::visibly(&mut command)?;
    println!("figures and picture: {}", out.display());
    if options.document { document(&workspace, &figures, Extent::of(&options.only)) } else { Ok(()) }
}

fn document(workspace: &Workspace, figures: &Path, extent: Extent) -> Outcome {
    let text = std::fs::read_to_string(figures).context(format_args!("read {}", figures.display()))?;
    let report: Value = serde_json::from_str(&text).context(format_args!("read {}", figures.display()))?;
    let note = format!(
        "Instructions: {}; region on {} with {} of {} bytes in pages of 2 MiB; {} rounds; CPU time, medians. \
         Made by `cargo xtask bench --document`.",
        report["instructions"].as_str().unwrap_or("?"),
        report["region"]["carrier"].as_str().unwrap_or("?"),
        report["region"]["huge_bytes"],
        report["region"]["size"],
        report["rounds"]
    );
    let rows = measures(&report);
    if !rows.is_empty() {
        let head = "| measure | Lifeboat | beside | its figure | result | goal |\n|---|---|---|---|---|---|\n";
        put_rows(workspace, MEASURES, &format!("{head}{rows}"), extent, &note)?;
    }
    let rows = scalings(&report);
    if !rows.is_empty() {
        let head = "| work | Lifeboat, by processes | tmpfs | goal for two |\n|---|---|---|---|\n";
        put_rows(workspace, SCALINGS, &format!("{head}{rows}"), extent, &note)?;
    }
    let rows = growths(&report);
    if !rows.is_empty() {
        let head = "| work | by the number of files | dearest : cheapest | goal |\n|---|---|---|---|\n";
        put_rows(workspace, GROWTHS, &format!("{head}{rows}"), extent, &note)?;
    }
    let rows = descriptors(&report);
    if !rows.is_empty() {
        let head = "| scheme | its calls | takes | beside tmpfs | keeps and breaks |\n|---|---|---|---|---|\n";
        // All of them are measured in one run.
        put_rows(workspace, DESCRIPTORS, &format!("{head}{rows}"), Extent::Whole, &note)?;
    }
    Ok(())
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// What each unit takes, in words.
fn figure(found: &Value, unit: &Value) -> String {
    match found["own"]["median"].as_f64() {
        None => "-".into(),
        Some(part) if unit == "share" => format!("{:.2} %", part * 100.0),
        Some(nanoseconds) if unit == "bytes" => format!("{:.2} GB/s", 1.0 / nanoseconds),
        Some(nanoseconds) if nanoseconds >= 10_000.0 => format!("{:.1} us", nanoseconds / 1e3),
        Some(nanoseconds) => format!("{nanoseconds:.1} ns"),
    }
}

fn measures(report: &Value) -> String {
    let mut rows = String::new();
    for row in each(&report["rows"]) {
        let unit = &row["unit"];
        for comparison in each(&row["comparisons"]) {
            let place = comparison["place"].as_str().unwrap_or("-");
            let result = match (comparison["result"]["median"].as_f64(), comparison["kind"].as_str()) {
                (None, _) => comparison["missing"].as_str().unwrap_or("-").to_owned(),
                (Some(result), Some("times")) => format!("{result:.2} times as fast"),
                (Some(result), Some("more")) => format!("{result:.1} ns more"),
                (Some(result), _) if unit == "share" => format!("{:.2} %", result * 100.0),
                (Some(result), _) => format!("{result:.1} ns"),
            };
            let goal = match (&comparison["goal"], &comparison["met"]) {
                (Value::Null, _) => "-".to_owned(),
                (goal, Value::Bool(true)) => format!("{goal}: reached"),
                (goal, Value::Bool(false)) => format!("{goal}: **not reached**"),
                (goal, _) => format!("{goal}: not measured"),
            };
            // A row of the table is known by its first cell, so that a part can be measured again.
            let is_alone = each(&row["comparisons"]).filter(|other| other["place"] == comparison["place"]).count() == 1;
            let task =
                comparison["task"].as_str().filter(|_| !is_alone).map_or(String::new(), |task| format!(", {task}"));
            rows.push_str(&format!(
                "| {} ({}), beside {place}{task} | {} | {place} | {} | {result} | {goal} |\n",
                row["what"].as_str().unwrap_or("?"),
                row["name"].as_str().unwrap_or("?"),
                figure(&row["ours"], unit),
                figure(&comparison["theirs"], unit),
            ));
        }
    }
    rows
}

fn spread(found: &Value) -> String {
    let each = each(&found["ratios"])
        .map(|pair| format!("{}: {:.2}", pair[0], pair[1]["median"].as_f64().unwrap_or(f64::NAN)));
    each.collect::<Vec<_>>().join(", ")
}

fn scalings(report: &Value) -> String {
    let mut rows = String::new();
    for row in each(&report["scalings"]) {
        let reached = match &row["met"] {
            Value::Bool(true) => ": reached",
            Value::Bool(false) => ": **not reached**",
            _ => "",
        };
        let goal = row["goal"].as_f64().map_or("-".to_owned(), |goal| format!("{goal:.2}{reached}"));
        let what = row["what"].as_str().unwrap_or("?");
        rows.push_str(&format!("| {what} | {} | {} | {goal} |\n", spread(&row["ours"]), spread(&row["theirs"])));
    }
    rows
}

fn growths(report: &Value) -> String {
    let mut rows = String::new();
    for row in each(&report["growths"]) {
        let costs = each(&row["costs"])
            .map(|pair| format!("{}: {:.0} ns", pair[0], pair[1]["median"].as_f64().unwrap_or(f64::NAN)));
        let reached = if row["met"] == true { "reached" } else { "**not reached**" };
        rows.push_str(&format!(
            "| {} | {} | {:.2} | {}: {reached} |\n",
            row["what"].as_str().unwrap_or("?"),
            costs.collect::<Vec<_>>().join(", "),
            row["ratio"].as_f64().unwrap_or(f64::NAN),
            row["goal"],
        ));
    }
    rows
}

fn descriptors(report: &Value) -> String {
    let mut rows = String::new();
    let operations = Value::from("operations");
    for row in each(&report["descriptors"]) {
        let [name, calls, says] = ["name", "calls", "says"].map(|key| row[key].as_str().unwrap_or("?"));
        let times = row["times"]["median"].as_f64();
        rows.push_str(&format!(
            "| {name} | {calls} | {} | {}: {} | {says} |\n",
            figure(&row["cost"], &operations),
            figure(&row["tmpfs"], &operations),
            times.map_or("-".to_owned(), |times| format!("{times:.2} times as fast")),
        ));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_missed_stands_in_the_table() {
        let middle = |median: f64| json!({"own": {"median": median}});
        let report = json!({
            "rows": [{"name": "stat", "what": "stat()", "unit": "operations", "ours": middle(100.0), "comparisons": [
                {"place": "tmpfs", "kind": "times", "theirs": middle(500.0), "result": {"median": 5.0}, "goal": 6.0, "met": false},
                {"place": "bare", "task": "copy", "kind": "times", "theirs": middle(50.0), "result": {"median": 0.5}, "goal": null},
                {"place": "bare", "task": "sum", "kind": "times", "theirs": middle(60.0), "result": {"median": 0.6}, "goal": null},
                {"place": "disk", "kind": "times", "theirs": {"own": null}, "result": null, "goal": 2.0, "met": null, "missing": "no disk"},
            ]}],
            "scalings": [{"what": "names", "ours": {"ratios": [[1, {"median": 1.0}], [2, {"median": 1.6}]]},
                          "theirs": {"ratios": []}, "goal": 1.5, "met": true}],
            "descriptors": [{"name": "a tag", "calls": "openat", "cost": middle(500.0), "tmpfs": middle(1000.0),
                             "times": {"median": 2.0}, "breaks": [], "says": "keeps all"}],
        });
        let rows = measures(&report);
        assert!(rows.contains("| 100.0 ns | tmpfs | 500.0 ns | 5.00 times as fast | 6.0: **not reached** |"), "{rows}");
        // Two rows beside one place are two rows of the table.
        assert!(rows.contains("beside bare, copy |") && rows.contains("beside bare, sum |"), "{rows}");
        assert!(rows.contains("| no disk | 2.0: not measured |"), "{rows}");
        assert_eq!(scalings(&report), "| names | 1: 1.00, 2: 1.60 |  | 1.50: reached |\n");
        let expected = "| a tag | openat | 500.0 ns | 1000.0 ns: 2.00 times as fast | keeps all |\n";
        assert_eq!(descriptors(&report), expected);
    }
}
