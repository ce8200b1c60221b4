//! The short account: how long checkpoints and restarts took, and where Lifeboat loses.

use std::path::Path;

/// What one program took in one place. Times are seconds of the slowest rank.
pub struct Row {
    program: &'static str,
    place: &'static str,
    megabytes: f64,
    writes: Vec<f64>,
    restarts: Vec<f64>,
}

impl Row {
    /// Without figures yet.
    pub fn new(program: &'static str, place: &'static str) -> Self {
        Self { program, place, megabytes: 0.0, writes: Vec::new(), restarts: Vec::new() }
    }

    /// From lines like "step 10: checkpoint of 52.4 MB in 0.0123 s".
    pub fn add_checkpoints(&mut self, said: &str) {
        for line in said.lines() {
            if let Some((megabytes, seconds)) = figures(line, ": checkpoint of ") {
                self.megabytes = megabytes;
                self.writes.push(seconds);
            }
        }
    }

    /// From a line like "restart from step 120: read 52.4 MB in 0.0123 s".
    pub fn add_restart(&mut self, said: &str) {
        self.restarts.extend(said.lines().filter_map(|line| figures(line, ": read ")).map(|(_, seconds)| seconds));
    }
}

fn figures(line: &str, before: &str) -> Option<(f64, f64)> {
    let (_, rest) = line.split_once(before)?;
    let (megabytes, rest) = rest.split_once(" MB in ")?;
    Some((megabytes.parse().ok()?, rest.strip_suffix(" s")?.parse().ok()?))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// All rows.
#[derive(Default)]
pub struct Account {
    /// In the order in which they are shown.
    pub rows: Vec<Row>,
}

impl Account {
    /// Prints the table. `disk` lies on the disk that was measured.
    pub fn print(&self, disk: &Path) {
        let Some(first) = self.rows.first() else { return };
        println!(
            "\nAccount: time of the slowest rank in the file system's calls, for one checkpoint of {:.1} MB",
            first.megabytes
        );
        println!(
            "(median and slowest of {}), and until a restarted job has found, checked and read it (median of {})",
            first.writes.len(),
            first.restarts.len()
        );
        println!("  {:<8} {:<18} {:>9} {:>9} {:>8} {:>11}", "", "", "median", "slowest", "MB/s", "restart");
        for row in &self.rows {
            let place = if row.place == "disk" { format!("disk ({})", kind_of(disk)) } else { row.place.to_owned() };
            let (typical, slowest) = (median(&row.writes), row.writes.iter().copied().fold(0.0, f64::max));
            let (speed, restart) = (row.megabytes / typical, median(&row.restarts));
            println!(
                "  {:<8} {place:<18} {typical:>7.4} s {slowest:>7.4} s {speed:>8.0} {restart:>9.4} s",
                row.program
            );
        }
        for line in self.losses() {
            println!("  {line}");
        }
    }

    fn losses(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for rows in self.rows.chunk_by(|a, b| a.program == b.program) {
            let Some((ours, others)) = rows.split_first() else { continue };
            for other in others {
                for (what, mine, theirs) in
                    [("writing", &ours.writes, &other.writes), ("restarting", &ours.restarts, &other.restarts)]
                {
                    let ratio = median(mine) / median(theirs);
                    if ratio >= 1.05 {
                        lines.push(format!(
                            "Lifeboat loses: {what} in {} takes {ratio:.1} times as long as on {}",
                            ours.program, other.place
                        ));
                    }
                }
            }
        }
        if lines.is_empty() {
            lines.push("Lifeboat is not slower than either in this run (differences below 5 % not counted)".to_owned());
        }
        lines
    }
}

/// The file system's type, from the mount that the path lies in.
fn kind_of(path: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fitting = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        path.starts_with(point).then_some((point.len(), kind))
    });
    fitting.max_by_key(|(length, _)| *length).map_or("unknown", |(_, kind)| kind).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_we_lose_is_not_kept_quiet() {
        let row = |place, seconds: f64| {
            let mut row = Row::new("C", place);
            row.add_checkpoints(&format!("step 10: checkpoint of 52.4 MB in {seconds} s"));
            row.add_restart(&format!("restart from step 10: read 52.4 MB in {seconds} s"));
            row
        };
        let account = Account { rows: vec![row("Lifeboat", 0.02), row("/dev/shm", 0.01), row("disk", 0.5)] };
        let losses = account.losses();
        assert_eq!(losses.len(), 2, "{losses:?}");
        assert!(losses[0].contains("writing") && losses[0].contains("2.0") && losses[0].contains("/dev/shm"));
    }
}
