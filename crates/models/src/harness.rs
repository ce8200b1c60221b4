//! Running a model: all interleavings up to a bound, from a state that is made once.

use crate::memory::{Memory, Process, Touched};
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How far a model is explored.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most times that a thread is interrupted in an execution.
    pub preemptions: usize,
    /// No longer than this; being stopped by it is told.
    pub time: Duration,
}

/// What was explored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Explored {
    /// Executions.
    pub executions: u64,
    /// Executions in which the process died that was to die.
    pub deaths: u64,
    /// Models of which time ran out before all were made.
    pub cut_short: u32,
}

impl std::ops::AddAssign for Explored {
    fn add_assign(&mut self, other: Explored) {
        self.executions += other.executions;
        self.deaths += other.deaths;
        self.cut_short += other.cut_short;
    }
}

/// The execution showed nothing: a word was missing.
struct Again;

/// One execution: its memory and its processes.
pub struct World {
    memory: Arc<Memory>,
    deaths: Arc<AtomicU64>,
}

impl World {
    /// Process `number`, which dies instead of its `dies_at`-th access to the region.
    pub fn process(&self, number: usize, dies_at: Option<u32>) -> Process {
        Process::new(&self.memory, number, dies_at)
    }

    /// From here on all interleavings are explored; before, one thread is all there is.
    pub fn start(&self) {
        loom::explore();
    }

    /// All threads are done: what follows is only looked at.
    pub fn end(&self) {
        loom::stop_exploring();
    }

    /// The process that was to die did, or came to its end before.
    pub fn died(&self, died: bool) {
        self.deaths.fetch_add(died as u64, Ordering::Relaxed);
    }

    /// To be asked before anything is judged: false when the execution shows nothing.
    pub fn counts(&self) -> bool {
        !self.memory.is_incomplete()
    }
}

/// Words of stack that code of the product gets: loom's own threads have too few for it.
const STACK: usize = 1 << 16;

/// A thread of the model.
pub fn spawn<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> loom::thread::JoinHandle<R> {
    loom::thread::Builder::new().stack_size(STACK).spawn(work).expect("a thread of the model")
}

/// Explores `scenario` from `initial`; the panic of an assertion that failed is handed on.
pub fn explore(
    bounds: Bounds,
    initial: &BTreeMap<u64, u64>,
    scenario: impl Fn(&World) + Send + Sync + 'static,
) -> Explored {
    let touched = Arc::new(Touched::default());
    let scenario = Arc::new(scenario);
    let start = Instant::now();
    loop {
        let (executions, deaths) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counter, died) = (executions.clone(), deaths.clone());
        let (inner, words, first) = (scenario.clone(), touched.clone(), initial.clone());
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(bounds.preemptions);
        builder.max_branches = 100_000;
        builder.max_duration = Some(bounds.time.saturating_sub(start.elapsed()));
        builder.checkpoint_interval = 32;
        builder.expect_explicit_explore = true;
        let run = move || {
            let inner = inner.clone();
            let world = World { memory: Memory::new(&words, &first), deaths: died.clone() };
            let world = spawn(move || {
                inner(&world);
                world
            });
            let world = world.join().expect("the scenario");
            counter.fetch_add(1, Ordering::Relaxed);
            if !world.counts() {
                resume_unwind(Box::new(Again));
            }
        };
        match catch_unwind(AssertUnwindSafe(|| builder.check(run))) {
            Ok(()) => {
                let cut_short = u32::from(start.elapsed() >= bounds.time);
                let [executions, deaths] = [executions, deaths].map(|count| count.load(Ordering::Relaxed));
                return Explored { executions, deaths, cut_short };
            }
            Err(why) if is_again(&*why) => {}
            Err(why) => resume_unwind(why),
        }
    }
}

/// Explores one model for each step (or each `stride`-th) at which its victim may die, from the first to the last that it
/// makes; answers about how many it makes, too.
pub fn explore_deaths(stride: usize, mut model: impl FnMut(u32) -> Explored) -> (Explored, u32) {
    let mut all = Explored::default();
    for step in (1..).step_by(stride) {
        let explored = model(step);
        all += explored;
        if explored.deaths == 0 {
            return (all, step - 1);
        }
    }
    (all, 0)
}

fn is_again(why: &(dyn Any + Send)) -> bool {
    why.is::<Again>()
}
