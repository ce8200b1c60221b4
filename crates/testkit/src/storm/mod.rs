//! Writers that are killed at random moments, a thousand times, and their log held against the region.
//!
//! Each writer announces an action on a [`board`], does it, and notes that it returned; the board is memory outside the
//! region, so what a dead writer noted stays. What it does among its own names has one right outcome ([`tree`], [`seen`]);
//! what all do to the same names is held by sets ([`common`]). The killer ([`storm`](Storm)) strikes a while after some
//! announcement: one writer, two, all, or one that is recovering another. Then the dead are recovered by whom chance
//! chooses, and everything that returned must be there; of what was in flight, what `docs/reliability.md` allows. From time
//! to time all rest, and the whole region is checked for damage and for space that nobody has.
//!
//! The seed repeats what is done and how long the killer waits, not what the scheduler does meanwhile.

pub mod action;
pub mod board;
mod checks;
pub mod common;
mod kills;
pub mod planted;
pub mod seen;
pub mod tree;
pub mod way;
pub mod writer;

use crate::random::Random;
use crate::scratch::attach;
use crate::stepping::judge::{Fault, FaultKind, PATIENCE};
use crate::volume::{RegionVolume, Volume};
use board::{Board, Field, WRITERS};
use common::Commons;
use lifeboat_fs::FileSystem;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tree::Tree;
use way::{InProcess, Intercepted};
use writer::{Writer, Wrong};

/// Names a file to which the region is copied when something is wrong with it.
const KEEP: &str = "LIFEBOAT_KEEP_REGION";

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Writers to kill.
    pub kills: u64,
    /// Kills between two looks at the whole region.
    pub rest_every: u64,
    /// Repeats the choices.
    pub seed: u64,
    /// A wrong way to do something, which must be found.
    pub wrong: Option<Wrong>,
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Of writers whose calls are intercepted, too.
    pub intercepted: bool,
    /// Writers killed.
    pub kills: u64,
    /// Of them, in the middle of an action.
    pub in_flight: u64,
    /// Of them, while recovering another.
    pub recoverers: u64,
    /// Times at which two died at once.
    pub pairs: u64,
    /// Times at which all died at once.
    pub groups: u64,
    /// Actions that returned.
    pub actions: u64,
    /// Looks at the whole region.
    pub checks: u64,
    /// The longest action of a process that lived.
    pub stall: Duration,
    /// What was found.
    pub faults: Vec<Fault>,
}

impl Outcome {
    /// One line for machines and tables.
    pub fn summary(&self, seed: u64) -> String {
        let count = |kind: FaultKind| self.faults.iter().filter(|fault| fault.kind == kind).count();
        let (losses, leaks) = (count(FaultKind::Loss), count(FaultKind::Leak));
        format!(
            "storm: target={} kills={} in_flight={} pairs={} groups={} recoverers={} operations={} checks={} stall_ms={} losses={losses} \
             leaks={leaks} other={} seed={seed}",
            if self.intercepted { "intercepted" } else { "in-process" },
            self.kills,
            self.in_flight,
            self.pairs,
            self.groups,
            self.recoverers,
            self.actions,
            self.checks,
            self.stall.as_millis(),
            self.faults.len() - losses - leaks,
        )
    }
}

/// A storm under way.
pub struct Storm<'f> {
    region: PathBuf,
    /// Where its files are below a mount, if this process has the interception library.
    mount: Option<PathBuf>,
    files: &'f FileSystem,
    volume: RegionVolume<'f>,
    plan: Plan,
    random: Random,
    board: Board,
    commons: Commons,
    writers: [Option<i32>; WRITERS + 1],
    trees: [Tree; WRITERS],
    group: i32,
    /// Process ids of those who were killed and not looked after yet.
    gone: Vec<u32>,
    incarnations: u64,
    outcome: Outcome,
}

/// Runs a storm in this region, which is empty, from a process that has this one thread. With a mount of the region two of three
/// writers are programs whose calls are intercepted: the process must have the library.
///
/// # Errors
/// What went wrong in the harness itself; faults of the region are in the outcome.
pub fn run(region: &Path, mount: Option<&Path>, plan: Plan) -> Result<Outcome, String> {
    let files = attach(region)?;
    let mut storm = Storm::new(region, mount, &files, plan)?;
    let ended = storm.rage();
    if let (Err(_), Some(copy)) = (&ended, std::env::var_os(KEEP)) {
        let _ = std::fs::copy(region.join("memory/region"), copy);
    }
    storm.kill_all();
    if let Err(fault) = ended {
        storm.outcome.faults.push(fault);
    }
    Ok(storm.outcome.clone())
}

impl<'f> Storm<'f> {
    fn new(region: &Path, mount: Option<&Path>, files: &'f FileSystem, plan: Plan) -> Result<Self, String> {
        let volume = RegionVolume::over(files, b"").map_err(|error| format!("the root: errno {error}"))?;
        let commons = Commons::make(&volume).map_err(|error| format!("the common files: errno {error}"))?;
        for writer in 0..WRITERS {
            let made = volume.mkdir(None, format!("w{writer}").as_bytes(), 0o755);
            made.map_err(|error| format!("the directory of a writer: errno {error}"))?;
        }
        Ok(Self {
            region: region.to_path_buf(),
            mount: mount.map(Path::to_path_buf),
            files,
            volume,
            plan,
            random: Random::new(plan.seed),
            board: Board::new(),
            commons,
            writers: [None; WRITERS + 1],
            trees: std::array::from_fn(|_| Tree::default()),
            group: 0,
            gone: Vec::new(),
            incarnations: 0,
            outcome: Outcome { intercepted: mount.is_some(), ..Outcome::default() },
        })
    }

    /// Until all kills are done, or the first fault: what comes after one proves nothing.
    fn rage(&mut self) -> Result<(), Fault> {
        let mut rested = 0;
        while self.outcome.kills < self.plan.kills {
            for writer in 0..WRITERS {
                if self.writers[writer].is_none() {
                    let recovers = self.random.chance(30);
                    self.start(writer, recovers);
                }
            }
            self.strike()?;
            if self.outcome.kills - rested >= self.plan.rest_every {
                rested = self.outcome.kills;
                self.rest()?;
            }
        }
        self.end()
    }

    /// Starts a writer where none is; it has what the dead one had.
    fn start(&mut self, writer: usize, recovers: bool) {
        self.incarnations += 1;
        self.board.slot(writer).clear(self.incarnations);
        // SAFETY: this process has one thread that runs and one that waits for it; the child uses what it has inherited and
        // leaves by `_exit` or a signal.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "cannot fork");
        if child == 0 {
            // SAFETY: plain calls on this process.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let work = || self.play(writer, recovers);
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // SAFETY: ends this process.
            unsafe { libc::_exit(101) };
        }
        // SAFETY: plain calls on our own child. The first of a group leads it; later ones join while one of it lives.
        unsafe {
            if self.group == 0 || libc::setpgid(child, self.group) != 0 {
                libc::setpgid(child, child);
                self.group = child;
            }
        }
        self.writers[writer] = Some(child);
    }

    fn play(&self, writer: usize, recovers: bool) {
        let tree = self.trees.get(writer).cloned().unwrap_or_default();
        let (board, seed, wrong) = (self.board, self.plan.seed, self.plan.wrong);
        let incarnation = board.slot(writer).get(Field::Incarnation);
        if let Some(mount) = &self.mount
            && !incarnation.is_multiple_of(3)
        {
            self.files.after_fork().expect("a slot for the child");
            Writer::new(Intercepted::over(mount, self.files), board, writer, seed, tree).work(recovers);
        }
        // Some go on with what they inherited, as a forked rank; some come anew.
        if incarnation.is_multiple_of(2) {
            self.files.after_fork().expect("a slot for the child");
            Writer::new(InProcess::over(self.files), board, writer, seed, tree).planted(wrong).work(recovers);
        }
        let files = attach(&self.region).expect("attach");
        Writer::new(InProcess::over(&files), board, writer, seed, tree).planted(wrong).work(recovers);
    }
}

fn stalled(what: &str, time: Duration) -> Result<Duration, Fault> {
    let text = || format!("{what} took {time:?}");
    if time > PATIENCE { Err(Fault::new(FaultKind::Stall, text())) } else { Ok(time) }
}
