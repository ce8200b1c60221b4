//! Killed at any instruction: each operation of the file system is stepped through by `ptrace`, and every state of the
//! region that its death could leave is recovered and held against what must be there.
//!
//! | module | what it gives |
//! |---|---|
//! | [`trace`] | a process stepped by instructions or by stores |
//! | [`states`] | copies of the region, each state once |
//! | [`picture`] | all that a file system says of itself, and what a death may leave of it |
//! | [`operations`] | the operations |
//! | [`judge`] | recovery, check and oracle, in a process of its own |
//! | `nested` | who recovers dies, too |
//! | `beside` | two who do the same die together |
//! | `kills` | real deaths beside a process that lives |
//! | `creation` | regions that are being made |
//! | [`planted`] | wrong operations, which must be caught |
//! | [`report`] | one run over everything, and its table |
//!
//! Two ways to die. *Snapshots*: the region is copied after every store and the copy, in a directory of its own, is
//! recovered by a process for which the victim is dead (it does not map the copy and holds no lock file there). *Kills*:
//! the victim is really killed, and a process that lives and uses the same objects must go on within a second.

mod beside;
mod creation;
pub mod judge;
mod kills;
mod nested;
pub mod operations;
pub mod picture;
pub mod planted;
pub mod report;
pub mod states;
pub mod trace;

use crate::scratch::ScratchRegion;
use crate::volume::RegionVolume;
use judge::{Choices, Fault, FaultKind, Judge, Wanted};
use operations::{Actor, Operation};
use picture::Picture;
use states::{Base, Image, Recorder, Seen, State};
use std::path::Path;
use std::time::Duration;
use trace::{Event, Marks, Tracee};

/// Room for a chunk of each class and some more.
const SIZE: u64 = 12 << 20;
/// An operation with more instructions than this runs in a circle.
const MOST_INSTRUCTIONS: u64 = 50_000_000;

/// How long a tracee may run between two stores.
const WAIT: Duration = Duration::from_secs(20);
/// So many states between which only a file's bytes changed are enough for the quick set.
const DATA_STATES: usize = 12;

/// How a victim is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Every instruction is a step.
    Instructions,
    /// From store to store: the same states, sooner.
    Stores,
}

/// Where in a run something was found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// Instructions done since the begin of the operation.
    pub instruction: u64,
    /// Stores into the region done.
    pub store: u64,
    /// Address of the last instruction that stored.
    pub address: u64,
    /// Byte of the region that it wrote.
    pub offset: u64,
}

/// What was done for one operation, and what came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Instructions stepped.
    pub instructions: u64,
    /// Stores into the region.
    pub stores: u64,
    /// Distinct states of the region that were recovered.
    pub states: u64,
    /// Distinct states of regions that were being recovered and were recovered again.
    pub nested_states: u64,
    /// Distinct states with a peer who died in the middle of the same operation.
    pub states_beside: u64,
    /// Processes really killed.
    pub kills: u64,
    /// The longest that a survivor waited.
    pub longest_stall: Duration,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

impl Outcome {
    /// One line that [`Outcome::from_line`] takes back, marked with `index`; of the faults only the kinds.
    pub fn to_line(&self, index: usize) -> String {
        let stall = self.longest_stall.as_nanos() as u64;
        let numbers = [self.instructions, self.stores, self.states, self.nested_states, self.states_beside, self.kills];
        let kinds: String = self.faults.iter().map(|fault| fault.encode().chars().next().unwrap_or('D')).collect();
        let numbers: Vec<String> = numbers.iter().chain([&stall]).map(u64::to_string).collect();
        format!("{index} {} faults:{kinds}\n", numbers.join(" "))
    }

    /// What another process wrote with [`Outcome::to_line`].
    pub fn from_line(line: &str) -> Option<(usize, Self)> {
        let (numbers, kinds) = line.split_once(" faults:")?;
        let numbers: Vec<u64> = numbers.split(' ').map_while(|number| number.parse().ok()).collect();
        let &[index, instructions, stores, states, nested_states, states_beside, kills, stall] = &numbers[..] else {
            return None;
        };
        let faults = kinds.chars().filter_map(|kind| Fault::decode(&kind.to_string())).collect();
        let longest_stall = Duration::from_nanos(stall);
        let outcome = Self { instructions, stores, states, nested_states, states_beside, kills, longest_stall, faults };
        Some((index as usize, outcome))
    }
}

/// One operation on its regions: one where it takes place, one where copies are judged.
pub struct Stage {
    live: ScratchRegion,
    copies: ScratchRegion,
    image: Image,
    copy: Image,
    base: Base,
    operation: Operation,
    marks: &'static Marks,
}

/// A state and when it arose.
struct Snapshot {
    state: State,
    moment: Moment,
    /// Whether the operation had returned.
    done: bool,
}

impl Stage {
    /// Makes the regions, with all that is there before.
    pub fn new(operation: &Operation, marks: &'static Marks) -> Self {
        let live = ScratchRegion::new(&label("steps"), SIZE);
        let files = live.attach();
        let volume = RegionVolume::over(&files, b"").expect("the root");
        operations::furnish(&volume).expect("files to be there before");
        drop(files);
        let copies = ScratchRegion::new(&label("copies"), SIZE);
        let (image, copy) = (Image::open(&live.file()), Image::open(&copies.file()));
        let base = image.copy();
        Self { live, copies, image, copy, base, operation: *operation, marks }
    }

    /// The pictures after each of these sequences of operations, when all who act in any of them are ready.
    fn pictures(&self, base: &Base, orders: &[&[Actor]]) -> Result<Vec<Picture>, Fault> {
        let failed =
            |error: i32| Fault::new(FaultKind::Damage, format!("the operation fails by itself: errno {error}"));
        let acts = |actor: Actor| orders.iter().any(|order| order.contains(&actor));
        let mut pictures = Vec::new();
        for order in orders {
            self.copy.write(base, &State::default());
            // One attach for both: a second one by the same process would count as its next program.
            let files = self.copies.attach();
            let mut ready = Vec::new();
            for actor in [Actor::Victim, Actor::Peer].into_iter().filter(|actor| acts(*actor)) {
                ready.push((actor, self.operation_of(actor).get_ready(&files, actor).map_err(failed)?));
            }
            for (actor, ready) in order.iter().filter_map(|actor| ready.iter().find(|(ready, _)| ready == actor)) {
                self.operation_of(*actor).run_with(&files, &mut ready.clone(), *actor).map_err(failed)?;
            }
            let picture = Picture::of(&files);
            pictures.push(picture.map_err(|text| Fault::new(FaultKind::Damage, text))?);
        }
        Ok(pictures)
    }

    fn operation_of(&self, actor: Actor) -> Operation {
        match actor {
            Actor::Victim => self.operation,
            Actor::Peer => self.operation.of_a_survivor(),
        }
    }

    /// What may be found when the victim is alone.
    fn choices_alone(&self) -> Result<Choices, Fault> {
        let pictures = self.pictures(&self.base, &[&[], &[Actor::Victim]])?;
        Ok(Choices { done: pictures[1..].to_vec(), interrupted: pictures })
    }

    /// What may be found when the peer has done his operation, too.
    fn choices_with_peer(&self) -> Result<Choices, Fault> {
        use Actor::{Peer, Victim};
        let pictures = self.pictures(&self.base, &[&[Peer], &[Victim, Peer], &[Peer, Victim]])?;
        Ok(Choices { done: pictures[1..].to_vec(), interrupted: pictures })
    }

    /// One run of the victim: every state that its death could leave.
    fn states(&self, pace: Pace, outcome: &mut Outcome) -> Result<Vec<Snapshot>, String> {
        self.image.write(&self.base, &State::default());
        let tracee = self.start_victim(self.live.path())?;
        let mut recorder = Recorder::new(&self.image, &self.base, &State::default());
        let mut seen = Seen::default();
        let mut moment = Moment::default();
        recorder.note_all(&mut seen);
        let mut found = vec![Snapshot { state: recorder.state(), moment, done: false }];
        loop {
            let event = match pace {
                Pace::Instructions => tracee.step()?,
                Pace::Stores => tracee.next_store(WAIT)?,
            };
            moment.instruction += 1;
            match event {
                Event::Store { at, offset, pages } => {
                    moment.store += 1;
                    (moment.address, moment.offset) = (at, offset);
                    if recorder.note(&pages, &mut seen) {
                        found.push(Snapshot { state: recorder.state(), moment, done: false });
                    }
                }
                Event::Instruction => {}
                Event::Done => break,
                Event::Waits => return Err("the victim waits, though it is alone".to_string()),
            }
            if moment.instruction > MOST_INSTRUCTIONS {
                return Err(format!("the operation does not end in {MOST_INSTRUCTIONS} instructions"));
            }
        }
        if self.marks.outcome() != 0 {
            return Err(format!("the operation fails by itself: errno {}", self.marks.outcome()));
        }
        recorder.note_all(&mut seen);
        found.push(Snapshot { state: recorder.state(), moment, done: true });
        if pace == Pace::Instructions {
            outcome.instructions += moment.instruction - 1;
        }
        outcome.stores += moment.store;
        Ok(found)
    }

    fn start_victim(&self, region: &Path) -> Result<Tracee, String> {
        let (marks, operation) = (self.marks, self.operation);
        Tracee::start(marks, || operation.play(marks, region, Actor::Victim))
    }

    /// Steps the operation and judges the states: all of them, or all but most of those between which only a file's
    /// bytes changed. Then the states of recoveries: of `recoveries.0` states at most `recoveries.1` of each.
    pub fn snapshots(
        &self,
        pace: Pace,
        all: bool,
        recoveries: (usize, usize),
        outcome: &mut Outcome,
    ) -> Result<(), String> {
        let choices = self.choices_alone().map_err(|fault| fault.text)?;
        let mut judge = Judge::start(self.copies.path(), &self.operation, &choices);
        let mut found = self.states(pace, outcome)?;
        let of_data = found.iter().filter(|snapshot| self.base.is_data(snapshot.moment.offset)).count();
        let every = if all { 1 } else { of_data.div_ceil(DATA_STATES).max(1) };
        let mut number = 0;
        found.retain(|snapshot| {
            number += 1;
            snapshot.done || number % every == 0 || !self.base.is_data(snapshot.moment.offset)
        });
        for snapshot in &found {
            let wanted = if snapshot.done { Wanted::Done } else { Wanted::Any };
            outcome.states += 1;
            if let Err(fault) = self.judge(&mut judge, &snapshot.state, wanted) {
                let text = format!("{}, {}: {}", self.operation.name, describe(pace, &snapshot.moment), fault.text);
                outcome.faults.push(Fault { text, ..fault });
            }
        }
        if recoveries.0 > 0 {
            self.recoveries(&found, recoveries, &mut judge, outcome)?;
        }
        Ok(())
    }

    fn judge(&self, judge: &mut Judge, state: &State, wanted: Wanted) -> Result<(), Fault> {
        self.copy.write(&self.base, state);
        let verdict = judge.ask(wanted);
        if verdict.as_ref().is_err_and(|fault| fault.kind == FaultKind::Stall) {
            // The machine may have been busy: a state that makes a survivor wait does so every time.
            self.copy.write(&self.base, state);
            return judge.ask(wanted);
        }
        verdict
    }
}

/// A name for files of this process: several share a test run.
fn label(what: &str) -> String {
    format!("{what}-{}", std::process::id())
}

fn describe(pace: Pace, moment: &Moment) -> String {
    let Moment { instruction, store, address, offset } = moment;
    let instruction = match pace {
        Pace::Instructions => format!("instruction {instruction}, "),
        Pace::Stores => String::new(),
    };
    format!("after {instruction}store {store} (to {offset:#x}, by the instruction at {address:#x})")
}
