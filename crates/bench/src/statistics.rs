//! The middle of a few figures, and how far they lie apart.

use serde::{Deserialize, Serialize};

/// A median with its quartiles.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Middle {
    /// Half of the figures are below, half above.
    pub median: f64,
    /// A quarter is below.
    pub low: f64,
    /// A quarter is above.
    pub high: f64,
}

impl Middle {
    /// Of figures in any order; `None` when there are none.
    pub fn of(mut figures: Vec<f64>) -> Option<Middle> {
        figures.sort_by(f64::total_cmp);
        let at = |part: f64| figures.get((part * figures.len().saturating_sub(1) as f64).round() as usize).copied();
        Some(Middle { median: at(0.5)?, low: at(0.25)?, high: at(0.75)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wild_figure_does_not_move_the_middle() {
        let middle = Middle::of(vec![3.0, 1000.0, 1.0, 2.0, 4.0]).unwrap();
        assert_eq!(middle, Middle { median: 3.0, low: 2.0, high: 4.0 });
        assert_eq!(Middle::of(vec![]), None);
        assert_eq!(Middle::of(vec![7.0]).unwrap().median, 7.0);
    }
}
