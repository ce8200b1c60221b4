//! Real deaths: the victim is killed with SIGKILL at some instruction, beside a process that lives, has the same region
//! attached and the same objects open, and must go on within a second.

use super::judge::{Asked, Choices, Fault, FaultKind, PATIENCE, Wanted, damage, grow_all, is_clean, nothing_is_left};
use super::operations::{Actor, Attached, Operation};
use super::states::{Base, State};
use super::trace::{Event, Tracee};
use super::{Moment, Outcome, Pace, Stage, WAIT, describe};
use crate::random::Random;
use crate::scratch::attach;
use std::time::{Duration, Instant};

/// How long a survivor that began before the kill is left to itself: long enough to come to a lock.
const HEAD_START: Duration = Duration::from_millis(2);
/// At most so many instructions behind a store are stepped; the next store usually comes sooner.
const BEHIND: u64 = 400;

const READY: u8 = b'r';
const ACT: u8 = b'a';
const INTERRUPTED: u8 = b'i';
const DONE: u8 = b'd';

/// Answers of a process that lives: what it does is in the region's base, so it can do it again and again.
fn survive(files: &Attached, operation: &Operation, victim: &Operation, choices: &Choices, question: u8) -> String {
    let verdict = |wanted| match hold(files, victim, choices, wanted) {
        Ok(()) => String::new(),
        Err(fault) => fault.encode(),
    };
    match question {
        ACT => {
            // The region was put back to its base since it looked last.
            files.files().forget_names();
            let start = Instant::now();
            match operation.run_again(files, Actor::Peer) {
                Ok(()) => format!("{}", start.elapsed().as_micros()),
                Err(error) => format!("errno {error}"),
            }
        }
        INTERRUPTED => verdict(Wanted::Any),
        DONE => verdict(Wanted::Done),
        _ => String::new(),
    }
}

fn hold(attached: &Attached, victim: &Operation, choices: &Choices, wanted: Wanted) -> Result<(), Fault> {
    let files = attached.files();
    files.sweep().map_err(damage("recovering"))?;
    nothing_is_left(files)?;
    let picture = choices.hold(files, victim, wanted)?;
    grow_all(files, &picture)?;
    is_clean(files)
}

/// When the victim is killed.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// After so many stores,
    stores: u64,
    /// and so many more instructions,
    behind: u64,
    /// while the survivor is in the middle of his operation, or before he begins.
    in_flight: bool,
    /// After so many stores of a recovery that is killed, too.
    recovery: Option<u64>,
}

/// A process that lives, the region with it attached, and what may be found there.
struct Scenery {
    survivor: Asked,
    base: Base,
    stores: u64,
}

impl Stage {
    fn scenery(&self) -> Result<Scenery, String> {
        let choices = self.choices_with_peer().map_err(|fault| fault.text)?;
        self.image.write(&self.base, &State::default());
        let (operation, victim) = (self.operation_of(Actor::Peer), self.operation);
        let region = self.live.path().to_path_buf();
        let mut attached = None;
        let mut survivor = Asked::start(move |question| {
            let attached = attached.get_or_insert_with(|| {
                let files = attach(&region).expect("attach");
                operation.prepare(files, Actor::Peer).expect("getting ready")
            });
            survive(attached, &operation, &victim, &choices, question)
        });
        survivor.ask(READY)?;
        let base = self.image.copy();
        let victim = self.start_victim(self.live.path())?;
        let mut stores = 0;
        while let Event::Store { .. } = victim.next_store(WAIT)? {
            stores += 1;
        }
        Ok(Scenery { survivor, base, stores })
    }

    /// Kills `count` victims at instructions spread over the whole operation by `random`, every third beside a survivor
    /// in the middle of the same, and `recoveries` with the process that recovers them.
    pub fn kills(&self, count: u64, recoveries: u64, random: &mut Random, outcome: &mut Outcome) -> Result<(), String> {
        let mut scenery = self.scenery()?;
        for number in 0..count + recoveries {
            let stratum = scenery.stores + 1;
            let plan = Plan {
                // Spread evenly when there are fewer kills than stores, each store several times otherwise.
                stores: if count >= stratum { number % stratum } else { random.below(stratum) },
                behind: random.below(BEHIND),
                in_flight: number % 3 == 1,
                recovery: (number >= count).then(|| random.below(60)),
            };
            let mut verdict = self.kill_once(&mut scenery, plan, outcome);
            if verdict.as_ref().is_err_and(|(fault, _)| fault.kind == FaultKind::Stall) {
                // The machine may have been busy: what makes a survivor wait does so every time.
                scenery = self.scenery()?;
                verdict = self.kill_once(&mut scenery, plan, outcome);
            }
            if let Err((fault, moment)) = verdict {
                let place = describe(Pace::Instructions, &moment);
                let text = format!("{}, killed {place}, {plan:?}: {}", self.operation.name, fault.text);
                outcome.faults.push(Fault { text, ..fault });
                scenery = self.scenery()?;
            }
        }
        Ok(())
    }

    fn kill_once(&self, scenery: &mut Scenery, plan: Plan, outcome: &mut Outcome) -> Result<(), (Fault, Moment)> {
        self.image.write(&scenery.base, &State::default());
        let broken = |text: String| Fault::new(FaultKind::Damage, text);
        let mut moment = Moment::default();
        let victim = self.start_victim(self.live.path()).map_err(|text| (broken(text), moment))?;
        let done = advance(&victim, plan, &mut moment).map_err(|text| (broken(text), moment))?;
        self.die(scenery, plan, victim, done, outcome).map_err(|fault| (fault, moment))
    }

    fn die(
        &self,
        scenery: &mut Scenery,
        plan: Plan,
        victim: Tracee,
        done: bool,
        outcome: &mut Outcome,
    ) -> Result<(), Fault> {
        let silent = |text: String| Fault::new(FaultKind::Stall, format!("the survivor: {text}"));
        if plan.in_flight {
            scenery.survivor.begin(ACT).map_err(silent)?;
            std::thread::sleep(HEAD_START);
        }
        victim.kill();
        outcome.kills += 1;
        if let Some(stores) = plan.recovery.filter(|_| !plan.in_flight) {
            self.kill_recovery(stores).map_err(|text| Fault::new(FaultKind::Damage, text))?;
            outcome.kills += 1;
        }
        let start = Instant::now();
        if !plan.in_flight {
            scenery.survivor.begin(ACT).map_err(silent)?;
        }
        let said = scenery.survivor.answer().map_err(silent)?;
        if said.starts_with("errno") {
            return Err(Fault::new(FaultKind::Damage, format!("the survivor's operation: {said}")));
        }
        let waited = start.elapsed();
        if waited > PATIENCE {
            return Err(Fault::new(FaultKind::Stall, format!("the survivor waited for {waited:?}")));
        }
        outcome.longest_stall = outcome.longest_stall.max(waited);
        let verdict = scenery.survivor.ask(if done { DONE } else { INTERRUPTED }).map_err(silent)?;
        Fault::decode(&verdict).map_or(Ok(()), Err)
    }

    /// Starts a recovery and kills it after so many of its stores.
    fn kill_recovery(&self, stores: u64) -> Result<(), String> {
        let region = self.live.path();
        let recoverer = Tracee::start(self.marks, || {
            let files = attach(region).expect("attach");
            self.marks.protect(files.region().base(), files.region().length());
            self.marks.begin();
            let _ = files.sweep();
            self.marks.end(0);
        })?;
        for _ in 0..stores {
            match recoverer.next_store(WAIT)? {
                Event::Store { .. } => {}
                Event::Done => break,
                Event::Instruction | Event::Waits => return Err("the recoverer waits".to_string()),
            }
        }
        recoverer.kill();
        Ok(())
    }
}

/// Brings the victim to where it is to be killed; tells whether its operation had returned.
fn advance(victim: &Tracee, plan: Plan, moment: &mut Moment) -> Result<bool, String> {
    while moment.store < plan.stores {
        match victim.next_store(WAIT)? {
            Event::Store { at, offset, .. } => {
                moment.store += 1;
                (moment.address, moment.offset) = (at, offset);
            }
            Event::Done => return Ok(true),
            Event::Instruction | Event::Waits => return Err("the victim waits, though it is alone".to_string()),
        }
    }
    for _ in 0..plan.behind {
        match victim.step()? {
            Event::Store { .. } => break,
            Event::Done => return Ok(true),
            _ => moment.instruction += 1,
        }
    }
    Ok(false)
}
