//! The recoverer as victim: from states that a death left, recovery is stopped after each of its stores, and what that
//! leaves is recovered again.

use super::judge::{Fault, Judge, Wanted};
use super::states::{Image, Recorder, Seen, State};
use super::trace::{Event, Marks, Tracee};
use super::{Moment, Outcome, Pace, Snapshot, Stage, WAIT, describe, label};
use crate::scratch::{ScratchRegion, attach};
use std::path::Path;

/// In a tracee: recovers one region after the other.
fn recover_again_and_again(marks: &Marks, region: &Path) {
    loop {
        marks.pause();
        let files = attach(region).expect("attach");
        marks.protect(files.region().base(), files.region().length());
        marks.begin();
        let outcome = files.sweep();
        marks.end(outcome.err().map_or(0, |error| error.raw_os_error() as u64));
        marks.unprotect();
    }
}

/// Where the recoverer works.
struct Recoverer {
    tracee: Tracee,
    image: Image,
    _region: ScratchRegion,
}

impl Stage {
    fn start_recoverer(&self) -> Result<Recoverer, String> {
        let region = ScratchRegion::new(&label("recovered"), super::SIZE);
        let image = Image::open(&region.file());
        let tracee = Tracee::start_paused(self.marks, || recover_again_and_again(self.marks, region.path()))?;
        Ok(Recoverer { tracee, image, _region: region })
    }

    /// Takes `first` of the snapshots, spread evenly, and of each the states that its recovery goes through, again not
    /// more than `second`.
    pub(super) fn recoveries(
        &self,
        found: &[Snapshot],
        (first, second): (usize, usize),
        judge: &mut Judge,
        outcome: &mut Outcome,
    ) -> Result<(), String> {
        let recoverer = self.start_recoverer()?;
        let mut seen = Seen::default();
        let every = found.len().div_ceil(first).max(1);
        for (number, snapshot) in found.iter().enumerate().filter(|(number, _)| number % every == every / 2) {
            let states = self.recovery_of(&recoverer, &snapshot.state, &mut seen).map_err(|text| {
                format!("recovering what was left {}: {text}", describe(Pace::Stores, &snapshot.moment))
            })?;
            let skip = states.len().div_ceil(second).max(1);
            let offset = number % skip;
            for (state, moment) in states.iter().skip(offset).step_by(skip) {
                outcome.nested_states += 1;
                let wanted = if snapshot.done { Wanted::Done } else { Wanted::Any };
                if let Err(fault) = self.judge(judge, state, wanted) {
                    let text = format!(
                        "{}: killed {}, then its recovery {}: {}",
                        self.operation.name,
                        describe(Pace::Stores, &snapshot.moment),
                        describe(Pace::Stores, moment),
                        fault.text
                    );
                    outcome.faults.push(Fault { text, ..fault });
                }
            }
        }
        Ok(())
    }

    /// The states that the recovery of `left` goes through and that were not seen before.
    fn recovery_of(
        &self,
        recoverer: &Recoverer,
        left: &State,
        seen: &mut Seen,
    ) -> Result<Vec<(State, Moment)>, String> {
        let Recoverer { tracee, image, .. } = recoverer;
        image.write(&self.base, left);
        tracee.run_to_begin()?;
        let mut recorder = Recorder::new(image, &self.base, left);
        let mut moment = Moment::default();
        let mut found = Vec::new();
        loop {
            match tracee.next_store(WAIT)? {
                Event::Store { at, offset, pages } => {
                    moment.store += 1;
                    (moment.address, moment.offset) = (at, offset);
                    if recorder.note(&pages, seen) {
                        found.push((recorder.state(), moment));
                    }
                }
                Event::Done => break,
                Event::Instruction | Event::Waits => return Err("it does not end".to_string()),
            }
        }
        if self.marks.outcome() != 0 {
            return Err(format!("it fails: errno {}", self.marks.outcome()));
        }
        tracee.run_to_pause()?;
        Ok(found)
    }
}
