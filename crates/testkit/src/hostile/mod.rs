//! Regions full of hostile bytes: what is damaged must be an error or repaired, never a fault, never another file's data.

pub mod cases;
pub mod crafted;
pub mod fuzz;
pub mod places;
pub mod population;
pub mod verdict;

pub use cases::{Case, Tally};
pub use population::Population;
