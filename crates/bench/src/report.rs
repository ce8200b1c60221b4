//! What was found, for machines and for people.

use crate::measure::{FLAT, Goal, Growth, Place, Scaling, Unit};
use crate::place::Ground;
use crate::runner::Options;
use crate::schemes::{NAME, SchemeRow};
use crate::statistics::Middle;
use serde::Serialize;
use std::fmt::Write;

/// Nanoseconds for each unit (a byte, or an operation).
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// CPU time.
    pub own: Option<Middle>,
    /// Time.
    pub wall: Option<Middle>,
}

/// An answer beside one thing that it is held against.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// With what, if anything.
    pub place: Option<String>,
    /// What that was measured with.
    pub task: Option<String>,
    /// What that took.
    pub theirs: Figure,
    /// `times` as fast (more is better), nanoseconds `more`, or `at most` (less is better).
    pub kind: &'static str,
    /// The figure of that kind: the middle of the rounds' own.
    pub result: Option<Middle>,
    /// What it ought to be.
    pub goal: Option<f64>,
    /// What would be better still.
    pub stretch: Option<f64>,
    /// Whether it is, where there is a goal and a figure.
    pub met: Option<bool>,
    /// Why there is no figure.
    pub missing: Option<String>,
}

impl Comparison {
    /// Holds a figure against its goal.
    pub fn new(goal: &Goal, theirs: Figure, result: Option<Middle>, missing: Option<String>) -> Comparison {
        let (kind, wanted, stretch) = match *goal {
            Goal::Times(_, goal, stretch) => ("times", Some(goal), stretch),
            Goal::Beside(_) => ("times", None, None),
            Goal::More(_, goal) => ("more", Some(goal), None),
            Goal::AtMost(goal, stretch) => ("at most", Some(goal), stretch),
        };
        let peer = goal.peer();
        let holds = |wanted: f64, middle: Middle| match kind {
            "times" => middle.median >= wanted,
            _ => middle.median <= wanted,
        };
        Comparison {
            place: peer.map(|arm| arm.place.name().to_owned()),
            task: peer.map(|arm| arm.task.to_owned()),
            theirs,
            kind,
            result,
            goal: wanted,
            stretch,
            met: wanted.zip(result).map(|(wanted, middle)| holds(wanted, middle)),
            missing,
        }
    }
}

/// An answered question.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Short name.
    pub name: String,
    /// In words.
    pub what: String,
    /// What the figures are.
    pub unit: Unit,
    /// Where our work was done.
    pub place: String,
    /// What it took.
    pub ours: Figure,
    /// What it is held against.
    pub comparisons: Vec<Comparison>,
}

/// How many times as much several processes do in the same time as one.
#[derive(Clone, Debug, Serialize)]
pub struct Spread {
    /// Where.
    pub place: String,
    /// By the number of processes.
    pub ratios: Vec<(usize, Middle)>,
}

impl Spread {
    fn of(&self, count: usize) -> Option<Middle> {
        self.ratios.iter().find(|(known, _)| *known == count).map(|&(_, middle)| middle)
    }

    fn line(&self) -> String {
        let each = self.ratios.iter().map(|(count, middle)| format!("{count}: {:.2}", middle.median));
        format!("  {:<22} {}", self.place, each.collect::<Vec<_>>().join(", "))
    }
}

/// An answered question about several processes.
#[derive(Clone, Debug, Serialize)]
pub struct ScalingRow {
    /// Short name.
    pub name: String,
    /// In words.
    pub what: String,
    /// Below the mount.
    pub ours: Spread,
    /// On tmpfs.
    pub theirs: Spread,
    /// What two processes should do.
    pub goal: Option<f64>,
    /// Whether they do, where there are two processors.
    pub met: Option<bool>,
}

impl ScalingRow {
    /// Holds ours against the goal, or against theirs.
    pub fn new(scaling: &Scaling, ours: Spread, theirs: Spread) -> ScalingRow {
        let goal = scaling.of_two.or_else(|| theirs.of(2).map(|middle| middle.median));
        let met = goal.zip(ours.of(2)).map(|(goal, middle)| middle.median >= goal);
        ScalingRow { name: scaling.name.to_owned(), what: scaling.what.to_owned(), ours, theirs, goal, met }
    }
}

/// An answered question about the number of files.
#[derive(Clone, Debug, Serialize)]
pub struct GrowthRow {
    /// Short name.
    pub name: String,
    /// In words.
    pub what: String,
    /// Nanoseconds of an operation, by the number of files.
    pub costs: Vec<(usize, Middle)>,
    /// How many times as much that is as among the fewest, in the same rounds.
    pub times: Vec<(usize, f64)>,
    /// How many times as much the dearest takes as the cheapest.
    pub ratio: Option<f64>,
    /// What that should be at most.
    pub goal: f64,
    /// Whether that is little enough.
    pub met: Option<bool>,
}

impl GrowthRow {
    /// Holds the dearest against the cheapest.
    pub fn new(growth: &Growth, costs: Vec<(usize, Middle)>, times: Vec<(usize, f64)>) -> GrowthRow {
        let all = || times.iter().map(|(_, times)| *times);
        let ratio = all().reduce(f64::max).zip(all().reduce(f64::min)).map(|(most, least)| most / least);
        let met = ratio.map(|ratio| ratio <= FLAT);
        GrowthRow { name: growth.name.to_owned(), what: growth.what.to_owned(), costs, times, ratio, goal: FLAT, met }
    }
}

/// All answers, and of what machine.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Processor, as the kernel names it.
    pub processor: String,
    /// How many there are.
    pub processors: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// Instructions used for copies and checksums.
    pub instructions: &'static str,
    /// What `lifeboat region info` says of the region.
    pub region: serde_json::Value,
    /// Rounds of each measure.
    pub rounds: usize,
    /// Bytes of a round of bulk work.
    pub bytes: usize,
    /// Operations of a round of small work.
    pub operations: usize,
    /// Places in which nothing was measured, and why.
    pub left_out: Vec<String>,
    /// The answers.
    pub rows: Vec<Row>,
    /// Those about several processes.
    pub scalings: Vec<ScalingRow>,
    /// Those about the number of files.
    pub growths: Vec<GrowthRow>,
    /// What each way to have a descriptor costs.
    pub descriptors: Vec<SchemeRow>,
}

fn first_line(path: &str, start: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_default();
    line.rsplit_once(": ").map_or(line, |(_, value)| value).trim().to_owned()
}

impl Report {
    /// Without answers yet.
    pub fn about(ground: &Ground, options: &Options) -> Report {
        let refused =
            [Place::TmpfsHuge, Place::Disk, Place::SmallPages].into_iter().filter(|place| options.needs(*place));
        let refused: Vec<Place> = refused.collect();
        let left_out = refused
            .iter()
            .filter_map(|&place| ground.refusal(place).map(|why| format!("{}: {why}", place.name())))
            .collect();
        Report {
            processor: first_line("/proc/cpuinfo", "model name"),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: first_line("/proc/sys/kernel/osrelease", ""),
            instructions: lifeboat_kernels::level().name(),
            region: ground.region().clone(),
            rounds: options.rounds,
            bytes: options.bytes,
            operations: options.operations,
            left_out,
            rows: Vec::new(),
            scalings: Vec::new(),
            growths: Vec::new(),
            descriptors: Vec::new(),
        }
    }

    /// For a terminal.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let (size, huge) = (number(&self.region["size"]), number(&self.region["huge_bytes"]));
        let _ = writeln!(
            text,
            "{} x {}, Linux {}, instructions: {}\nregion of {} MiB on {}, {} of it in pages of 2 MiB; CPU time, medians of {} rounds",
            self.processors,
            self.processor,
            self.kernel,
            self.instructions,
            size / 1_048_576.0,
            self.region["carrier"].as_str().unwrap_or("?"),
            if size > 0.0 { format!("{:.0} %", huge / size * 100.0) } else { "?".into() },
            self.rounds
        );
        for row in &self.rows {
            let _ = writeln!(text, "\n{} ({})", row.what, row.name);
            let _ = writeln!(text, "  {:<22} {}", row.place, shown(&row.ours, row.unit));
            for comparison in &row.comparisons {
                let _ = writeln!(text, "{}", line(comparison, row.unit));
            }
        }
        for row in &self.scalings {
            let _ = writeln!(text, "\n{}: times what one process does ({})", row.what, row.name);
            let _ = writeln!(text, "{}\n{}", row.ours.line(), row.theirs.line());
            if let (Some(goal), Some(met)) = (row.goal, row.met) {
                let _ = writeln!(text, "  goal for two: {goal:.2} {}", mark(met));
            }
        }
        for row in &self.growths {
            let each = row.costs.iter().map(|(count, middle)| format!("{count}: {:.0} ns", middle.median));
            let _ = writeln!(text, "\n{} ({})\n  {}", row.what, row.name, each.collect::<Vec<_>>().join(", "));
            if let (Some(ratio), Some(met)) = (row.ratio, row.met) {
                let _ = writeln!(text, "  dearest : cheapest {ratio:.2}, goal at most {FLAT} {}", mark(met));
            }
        }
        text.push_str(&self.schemes());
        text
    }

    fn schemes(&self) -> String {
        let Some(first) = self.descriptors.first() else { return String::new() };
        let mut text = format!("\na descriptor for an open file, open() and close() ({NAME})\n");
        for row in &self.descriptors {
            let times = row.times.map_or(String::new(), |times| format!("{:.2} times as fast as tmpfs", times.median));
            let _ = writeln!(text, "  {:<36} {:<32} {times}", row.name, shown(&row.cost, Unit::Operations));
            let _ = writeln!(text, "    {}; {}", row.calls, row.says);
        }
        let _ = writeln!(text, "  {:<36} {}", "tmpfs, open and close", shown(&first.tmpfs, Unit::Operations));
        text
    }

    /// One page: what the machine can do, what Lifeboat does, where the rest goes, and where it loses.
    pub fn verdict(&self) -> String {
        let mut text = String::new();
        let compared = self.rows.iter().flat_map(|row| row.comparisons.iter().map(move |comparison| (row, comparison)));
        let (mut held, mut judged) = (0, 0);
        let mut missed = Vec::new();
        for (row, comparison) in compared {
            if let (Some(met), Some(result)) = (comparison.met, comparison.result) {
                judged += 1;
                held += usize::from(met);
                if !met {
                    missed.push(format!("  {}: {}", row.what, against(comparison, result, row.unit)));
                }
            }
        }
        for row in &self.scalings {
            let (Some(goal), Some(met), Some(found)) = (row.goal, row.met, row.ours.of(2)) else { continue };
            judged += 1;
            held += usize::from(met);
            if !met {
                missed.push(format!(
                    "  {}: two processes do {:.2} times as much as one, goal {goal:.2}",
                    row.what, found.median
                ));
            }
        }
        for row in &self.growths {
            let (Some(ratio), Some(met)) = (row.ratio, row.met) else { continue };
            judged += 1;
            held += usize::from(met);
            if !met {
                missed.push(format!("  {}: dearest : cheapest {ratio:.2}, goal at most {FLAT}", row.what));
            }
        }
        if let Some(speed) = self.limit() {
            let _ = writeln!(text, "This machine copies {speed} from cold memory: no write can be faster.");
        }
        if let Some((row, share)) = self.share() {
            let _ = writeln!(
                text,
                "Lifeboat writes {}, which is {:.0} % of that; the rest is checksums, and finding the place for the bytes.",
                shown(&row.ours, Unit::Bytes),
                share * 100.0
            );
        }
        if judged > 0 {
            let _ = writeln!(text, "{held} of {judged} goals are reached.");
        }
        if !missed.is_empty() {
            let _ = writeln!(text, "Not reached:\n{}", missed.join("\n"));
        }
        text
    }

    fn find(&self, name: &str, task: &str) -> Option<(&Row, &Comparison)> {
        let row = self.rows.iter().find(|row| row.name == name)?;
        let comparison = row.comparisons.iter().find(|comparison| comparison.task.as_deref() == Some(task))?;
        Some((row, comparison))
    }

    fn limit(&self) -> Option<String> {
        self.find("write-over", "copy").map(|(_, comparison)| shown(&comparison.theirs, Unit::Bytes))
    }

    fn share(&self) -> Option<(&Row, f64)> {
        let (row, comparison) = self.find("write-over", "copy")?;
        Some((row, comparison.result?.median))
    }
}

fn number(value: &serde_json::Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn shown(figure: &Figure, unit: Unit) -> String {
    let Some(middle) = figure.own else { return "nothing measured".into() };
    if unit == Unit::Share {
        return format!("{:.2} % of the bytes", middle.median * 100.0);
    }
    if unit == Unit::Bytes {
        return format!("{:.2} GB/s ({:.2} to {:.2})", 1.0 / middle.median, 1.0 / middle.high, 1.0 / middle.low);
    }
    if middle.median >= 10_000.0 {
        return format!("{:.1} us ({:.1} to {:.1})", middle.median / 1e3, middle.low / 1e3, middle.high / 1e3);
    }
    format!("{:.1} ns ({:.1} to {:.1})", middle.median, middle.low, middle.high)
}

/// A result beside its goal, in words.
fn against(comparison: &Comparison, result: Middle, unit: Unit) -> String {
    let place = comparison.place.as_deref().unwrap_or_default();
    let figure = match comparison.kind {
        "times" => format!("{:.2} times as fast as {place}", result.median),
        "more" => format!("{:.1} ns more than {place}", result.median),
        _ if unit == Unit::Share => format!("{:.2} %", result.median * 100.0),
        _ => format!("{:.1} ns", result.median),
    };
    match (comparison.goal, comparison.kind) {
        (Some(goal), "times") => format!("{figure}, goal {goal}"),
        (Some(goal), _) if unit == Unit::Share => format!("{figure}, goal at most {:.0} %", goal * 100.0),
        (Some(goal), _) => format!("{figure}, goal at most {goal}"),
        (None, _) => figure,
    }
}

fn mark(met: bool) -> &'static str {
    if met { "reached" } else { "NOT REACHED" }
}

fn line(comparison: &Comparison, unit: Unit) -> String {
    let place = comparison.place.as_deref().unwrap_or("");
    if let Some(why) = &comparison.missing {
        return format!("  {place:<22} not measured: {why}");
    }
    let Some(result) = comparison.result else { return format!("  {place:<22} nothing measured") };
    let mark = comparison.met.map_or("", mark);
    let theirs = if comparison.place.is_some() { shown(&comparison.theirs, unit) } else { String::new() };
    format!("  {place:<22} {theirs:<32} {} {mark}", against(comparison, result, unit)).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::MEASURES;

    fn figure(nanoseconds: f64) -> Figure {
        let middle = Middle { median: nanoseconds, low: nanoseconds, high: nanoseconds };
        Figure { own: Some(middle), wall: Some(middle) }
    }

    fn compared(ratio: f64) -> Comparison {
        Comparison::new(&MEASURES[0].goals[0], figure(1.0), figure(ratio).own, None)
    }

    #[test]
    fn a_goal_that_is_missed_is_not_called_reached() {
        assert_eq!((compared(3.4).met, compared(3.39).met), (Some(true), Some(false)));
        let most = Comparison::new(&Goal::AtMost(30.0, None), figure(1.0), figure(31.0).own, None);
        assert_eq!(most.met, Some(false));
        let none = Comparison::new(&MEASURES[0].goals[0], figure(1.0), None, Some("no disk".into()));
        assert_eq!(none.met, None);
        assert!(line(&none, Unit::Bytes).contains("not measured: no disk"));
        assert!(line(&compared(2.0), Unit::Bytes).contains("NOT REACHED"));
    }
}
