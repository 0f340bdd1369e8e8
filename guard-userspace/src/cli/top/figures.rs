//! Figures in little room.

use std::collections::VecDeque;

use super::state::HISTORY;
use super::style::Bars;
use crate::agent::top::SourceRate;

/// Columns of a sparkline: each is of some seconds.
pub(super) const SPARK: usize = 20;

/// An address stands for itself, a group with its length.
pub(super) fn name(source: &SourceRate) -> String {
    let net = source.source;
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

pub(super) fn percent(source: &SourceRate) -> String {
    source.limit_used.map(|used| format!("{:.0}%", used * 100.0)).unwrap_or_default()
}

/// A figure in four characters or five: `0`, `12`, `3.4k`, `1.2M`.
pub(super) fn short(figure: f64) -> String {
    let (scaled, unit) = match figure {
        0.0..1e4 => return format!("{figure:.0}"),
        1e4..1e6 => (figure / 1e3, "k"),
        1e6..1e9 => (figure / 1e6, "M"),
        _ => (figure / 1e9, "G"),
    };
    if scaled < 10.0 { format!("{scaled:.1}{unit}") } else { format!("{scaled:.0}{unit}") }
}

/// The minute before, its peak as high as a line.
pub(super) fn sparkline(history: &VecDeque<u64>, bars: &Bars) -> String {
    let missing = HISTORY - history.len().min(HISTORY);
    let seconds: Vec<u64> = std::iter::repeat_n(0, missing).chain(history.iter().copied()).collect();
    let columns: Vec<u64> =
        seconds.chunks(HISTORY / SPARK).map(|chunk| chunk.iter().copied().max().unwrap_or(0)).collect();
    let peak = columns.iter().copied().max().unwrap_or(0).max(1);
    // What is not nothing is seen.
    let bar = |column: &u64| bars.get((column * 8).div_ceil(peak) as usize).copied().unwrap_or(" ");
    columns.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::super::style::{BARS, PLAIN_BARS};
    use super::*;

    #[test]
    fn figures_are_short() {
        for (figure, expected) in [
            (0.0, "0"),
            (29.4, "29"),
            (9_999.0, "9999"),
            (12_345.0, "12k"),
            (1_234_567.0, "1.2M"),
            (2.5e10, "25G"),
        ] {
            assert_eq!(short(figure), expected);
        }
    }

    #[test]
    fn a_sparkline_ends_with_now() {
        let history: VecDeque<u64> = [0, 0, 0, 80, 80, 80, 10, 10, 10].into();
        assert_eq!(sparkline(&history, &PLAIN_BARS), format!("{}#.", " ".repeat(SPARK - 2)));
        assert_eq!(sparkline(&VecDeque::new(), &BARS), " ".repeat(SPARK));
    }
}
