//! A process that does one kind of work in one place, when it is told to.
//!
//! It prints `ready` when all that it needs is in place. For each line `go` it does a round and prints how many
//! nanoseconds of its CPU time, how many nanoseconds and how many units that took; the end of its input ends it. What it cannot do
//! it says in a line that begins with `failed`.

use crate::tasks::{Sample, Site, find};
use std::ffi::OsString;
use std::io::{BufRead, Error, Result, Write};
use std::path::PathBuf;

/// What a worker does.
#[derive(Clone, Debug)]
pub struct Job {
    /// Name of the kind of work.
    pub task: String,
    /// An existing folder, in which it makes one of its own.
    pub folder: PathBuf,
    /// Bytes of a round of bulk work.
    pub bytes: usize,
    /// Operations of a round of small work.
    pub operations: usize,
}

impl Job {
    /// For the command line of a worker.
    pub fn arguments(&self) -> Vec<OsString> {
        let (bytes, operations) = (self.bytes.to_string().into(), self.operations.to_string().into());
        let task = self.task.as_str().into();
        vec![
            "--task".into(),
            task,
            "--folder".into(),
            self.folder.clone().into(),
            "--bytes".into(),
            bytes,
            "--operations".into(),
            operations,
        ]
    }
}

/// Serves one parent by standard input and output.
pub fn serve(job: &Job) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let outcome = work(job, &mut out);
    if let Err(error) = &outcome {
        writeln!(out, "failed {error}")?;
    }
    out.flush()
}

fn work(job: &Job, out: &mut impl Write) -> Result<()> {
    let begin = find(&job.task).ok_or_else(|| Error::other(format!("no work is called {}", job.task)))?;
    let folder = job.folder.join(format!("bench-{}-{}", job.task, std::process::id()));
    std::fs::create_dir(&folder)?;
    let shared = job.folder.join("shared");
    let site = Site { folder: folder.clone(), shared, bytes: job.bytes, operations: job.operations };
    let outcome = rounds(begin(&site), out);
    // Who is ended from outside leaves it, and the region or the mount that it lies in goes with the whole run.
    let removed = std::fs::remove_dir_all(&folder);
    outcome.and(removed)
}

fn rounds(work: Result<Box<dyn crate::tasks::Work>>, out: &mut impl Write) -> Result<()> {
    let mut work = work?;
    writeln!(out, "ready")?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        if line? != "go" {
            return Err(Error::other("a worker is told `go` only"));
        }
        let Sample { own, wall, units } = work.round()?;
        writeln!(out, "{own} {wall} {units}")?;
        out.flush()?;
    }
    Ok(())
}

/// What a worker printed for a round.
pub(crate) fn read_sample(line: &str) -> Option<Sample> {
    let mut fields = line.split_whitespace().map(|field| field.parse::<f64>());
    let mut next = || fields.next()?.ok().filter(|value| value.is_finite() && *value > 0.0);
    Some(Sample { own: next()?, wall: next()?, units: next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_sample_is_no_figure() {
        assert_eq!(read_sample("5 6 7"), Some(Sample { own: 5.0, wall: 6.0, units: 7.0 }));
        for line in ["", "failed no room", "5 6", "0 1 1", "NaN 1 1", "inf 1 1", "5 6 -7"] {
            assert_eq!(read_sample(line), None, "{line}");
        }
    }
}
