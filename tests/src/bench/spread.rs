//! Many measurements in three numbers.

use std::fmt;

use serde::Serialize;

/// Of an odd number of measurements, or of the upper of two in the middle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    pub lower_quartile: f64,
    pub median: f64,
    pub upper_quartile: f64,
}

impl Spread {
    /// All 0 where nothing was measured.
    pub fn of(mut measured: Vec<f64>) -> Self {
        measured.sort_by(f64::total_cmp);
        let at = |quarters: usize| measured.get(measured.len() * quarters / 4).copied().unwrap_or_default();
        Self { lower_quartile: at(1), median: at(2), upper_quartile: at(3) }
    }

    /// The same in another unit.
    pub fn scaled(self, factor: f64) -> Self {
        let Self { lower_quartile, median, upper_quartile } = self;
        Self {
            lower_quartile: lower_quartile * factor,
            median: median * factor,
            upper_quartile: upper_quartile * factor,
        }
    }
}

/// The median, and the quartiles around it.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(1);
        let Self { lower_quartile, median, upper_quartile } = self;
        let text = format!("{median:.decimals$} ({lower_quartile:.decimals$}–{upper_quartile:.decimals$})");
        // `pad` would cut the text at the precision.
        write!(f, "{text:>width$}", width = f.width().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outliers_do_not_move_the_middle() {
        let spread = Spread::of(vec![2.0, 1.0, 900.0, 3.0, 2.5]);
        assert_eq!(spread, Spread { lower_quartile: 2.0, median: 2.5, upper_quartile: 3.0 });
        assert_eq!(format!("{spread:16.1}"), "   2.5 (2.0–3.0)");
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }
}
