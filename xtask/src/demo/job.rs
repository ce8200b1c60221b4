//! A parallel job, and its death in the middle of a checkpoint.

use super::place::{Listed, Place};
use crate::failure::{Failure, Outcome};
use crate::processes::{self, Process};
use crate::run::{Event, Finished, Running, last_lines};
use rustix::process::Signal;
use std::process::Command;
use std::time::{Duration, Instant};

/// No run of the demonstration takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// A file that was being written when its writer died.
pub struct Torn {
    /// Its name.
    pub name: String,
    /// Bytes that were written.
    pub size: u64,
}

/// How to see that a checkpoint is being written.
pub struct Watch<'a> {
    /// A line of the job that says so; none: the files are looked at all the time.
    pub announced: Option<&'a dyn Fn(&str) -> bool>,
    /// Picks the file that is only partly written, if there is one.
    pub torn: &'a dyn Fn(&[Listed]) -> Option<Torn>,
    /// The program that the ranks run, first 15 bytes of its name.
    pub program: &'a str,
}

/// Runs a job to its end, which must be a good one.
pub fn complete(command: &mut Command) -> Outcome<Finished> {
    let finished = Running::start(command)?.finish(LIMIT, &mut |_| ())?;
    if finished.status.success() {
        return Ok(finished);
    }
    Err(Failure::new(format!("the job ended with {}:\n{}", finished.status, last_lines(&finished.output, 30))))
}

/// Runs a job and kills all its ranks by SIGKILL while a checkpoint is partly written; answers what was torn, and what
/// the job had said until then; nothing when the job ended before it could be killed.
///
/// The ranks are stopped, then the files are looked at, then they are killed or sent on: so the death is in the middle
/// of a checkpoint by proof, not by luck.
pub fn kill_in_the_middle(command: &mut Command, place: &Place, watch: &Watch) -> Outcome<Option<(Torn, String)>> {
    let mut job = Running::start(command)?;
    let end = Instant::now() + LIMIT;
    let mut due = watch.announced.is_none();
    while Instant::now() < end {
        match job.next(Duration::from_millis(if due { 3 } else { 200 }))? {
            Event::Line(line) => due |= watch.announced.is_some_and(|announced| announced(&line)),
            Event::Quiet => {}
            Event::Ended => return Ok(None),
        }
        if !due {
            continue;
        }
        // Without an announcement the job runs on while it is looked at, or it would hardly get on.
        let tries = match watch.announced {
            Some(_) => 60,
            None if seen_torn(place, watch).is_some() => 5,
            None => 0,
        };
        for _ in 0..tries {
            if let Some(torn) = kill_if_torn(&job, place, watch)? {
                return Ok(Some((torn, job.output().to_owned())));
            }
        }
        due = watch.announced.is_none();
    }
    Err(Failure::new(format!("no checkpoint was seen half written within {} s", LIMIT.as_secs())))
}

fn ranks_of(job: &Running, program: &str) -> Vec<Process> {
    let all = processes::descendants_of(job.pid());
    all.into_iter().filter(|process| process.name == program && !process.zombie).collect()
}

fn seen_torn(place: &Place, watch: &Watch) -> Option<Torn> {
    place.list(Duration::from_millis(500)).ok().and_then(|files| (watch.torn)(&files))
}

fn kill_if_torn(job: &Running, place: &Place, watch: &Watch) -> Outcome<Option<Torn>> {
    let ranks = ranks_of(job, watch.program);
    ranks.iter().for_each(|rank| rank.signal(Signal::STOP));
    // A stopped rank may hold a lock that the look needs: then it is sent on, and this was not the moment.
    if ranks.len() != super::RANKS || seen_torn(place, watch).is_none() {
        ranks.iter().for_each(|rank| rank.signal(Signal::CONT));
        std::thread::sleep(Duration::from_millis(1));
        return Ok(None);
    }
    ranks.iter().for_each(|rank| rank.signal(Signal::KILL));
    let end = Instant::now() + Duration::from_secs(10);
    while !ranks_of(job, watch.program).is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    // What counts is what is there after the death.
    let files = place.list(Duration::from_secs(30))?;
    match (watch.torn)(&files) {
        Some(torn) => Ok(Some(torn)),
        None => Err(Failure::new("after the kill no half-written file is there, though one was there before")),
    }
}
