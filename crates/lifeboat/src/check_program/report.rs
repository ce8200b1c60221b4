//! What `lifeboat check-program` says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};

use serde::{Serialize, Serializer};

use super::calls::Weight;
use crate::output::{Out, out};

/// The answer in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every call that was found is served.
    Served,
    /// Some are not.
    Partly,
    /// Interception does not reach the program at all.
    NeedsFuse,
}

/// Calls that are missed for one reason.
#[derive(Debug, Serialize)]
pub struct Missed {
    /// The reason.
    pub why: String,
    /// How much it matters.
    #[serde(serialize_with = "weight_name")]
    pub weight: Weight,
    /// The calls, and which files make them.
    pub calls: BTreeMap<String, Vec<String>>,
}

/// All that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The file.
    pub program: String,
    /// The answer in a word.
    pub verdict: Verdict,
    /// Why interception does not reach it.
    pub needs_fuse: Vec<String>,
    /// Calls that would not be served.
    pub missed: Vec<Missed>,
    /// What no look at files can tell.
    pub cannot_be_seen: Vec<String>,
    /// Calls that would be served.
    pub served: BTreeSet<String>,
    /// Libraries that are loaded with it.
    pub libraries: Vec<String>,
    /// Libraries that are not here, and who needs them.
    pub libraries_not_found: BTreeMap<String, String>,
    /// The library whose functions were taken as served.
    pub interception_library: String,
}

fn weight_name<S: Serializer>(weight: &Weight, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(match weight {
        Weight::Fuse => "needs_fuse",
        Weight::Missed => "missed",
        Weight::Seldom => "seldom",
    })
}

impl Report {
    /// Prints the report for people.
    pub fn print(&self, verbose: bool) -> io::Result<()> {
        let mut out = out();
        let looked = match self.libraries.len() {
            0 => "no libraries".to_string(),
            1 => "1 library".to_string(),
            count => format!("{count} libraries"),
        };
        let found = format!("{} file calls found in it and {looked}", self.served.len() + self.count_missed());
        match self.verdict {
            Verdict::Served => writeln!(out, "{}: every file call would be served ({found})", self.program)?,
            Verdict::Partly => writeln!(out, "{}: not every file call would be served ({found})", self.program)?,
            Verdict::NeedsFuse => {
                writeln!(out, "{}: does not see the mount, needs FUSE (`lifeboat mount`)", self.program)?
            }
        }
        for reason in &self.needs_fuse {
            writeln!(out, "  because         {reason}")?;
        }
        self.print_missed(&mut out)?;
        for (library, user) in &self.libraries_not_found {
            writeln!(out, "  not found       {library}, which {user} needs: its calls are unknown")?;
        }
        for what in &self.cannot_be_seen {
            writeln!(out, "  cannot be seen  {what}")?;
        }
        if verbose {
            writeln!(out, "  served          {}", self.served.iter().cloned().collect::<Vec<_>>().join(", "))?;
            for library in &self.libraries {
                writeln!(out, "  library         {library}")?;
            }
        }
        out.flush()
    }

    fn print_missed(&self, out: &mut Out) -> io::Result<()> {
        for group in &self.missed {
            let label = match group.weight {
                Weight::Fuse => "needs FUSE",
                Weight::Missed => "missed",
                Weight::Seldom => "seldom matters",
            };
            let mut by_users: BTreeMap<&[String], Vec<&str>> = BTreeMap::new();
            for (call, users) in &group.calls {
                by_users.entry(users).or_default().push(call);
            }
            for (users, calls) in by_users {
                let (calls, users) = (calls.join(", "), users.join(", "));
                writeln!(out, "  {label:<14}  {calls} (in {users}): {}", group.why)?;
            }
        }
        Ok(())
    }

    fn count_missed(&self) -> usize {
        self.missed.iter().map(|group| group.calls.len()).sum()
    }
}
