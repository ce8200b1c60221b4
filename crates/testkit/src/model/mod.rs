//! Random operations, their comparison on two volumes, and the shrinking of what differs.
//!
//! A run is a list of [`Op`]s that a seed gives. [`Pair`] executes each on both volumes and compares the answers; every
//! so often it compares the two trees. When something differs, [`smallest`] finds a short list that still differs.

pub mod checks;
mod generate;
mod op;
mod pair;
pub mod scenario;
mod shrink;
pub(crate) mod tree;

pub use generate::{Taste, operations};
pub use op::{Op, OpenTimes, Path, USERS};
pub use pair::{Difference, Pair};
pub use shrink::smallest;
pub use tree::{Node, compare, remove_all, walk};
