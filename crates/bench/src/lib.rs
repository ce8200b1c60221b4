//! What Lifeboat costs on this machine, beside what else a program could write to.
//!
//! A [`measure`] is one question: how fast is this kind of work below the mount, and how fast in the places that it is
//! compared with. The work itself is a [`task`](tasks), done by a process of its own for each place: those below the mount are
//! started by `lifeboat exec`, as users start theirs, the others without. The [`runner`] lets them take turns, round after
//! round, so that what disturbs the machine disturbs all of them, and compares within each round; what counts is the median of
//! the rounds' ratios.
//!
//! Time is the worker's own CPU time: on a shared machine wall time measures the neighbours. Memory that work is done with is
//! cold and larger than the caches, and written before; its pages are 2 MiB where the kernel gives them.

mod calls;
pub mod measure;
mod memory;
pub mod place;
pub mod plot;
pub mod report;
pub mod runner;
pub mod schemes;
mod statistics;
mod tasks;
pub mod worker;

pub use measure::{GROWTHS, MEASURES, Measure, SCALINGS};
pub use place::Ground;
pub use report::Report;
pub use runner::{Options, names, run};
