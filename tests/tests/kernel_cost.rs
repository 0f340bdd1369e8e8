//! What a packet costs does not follow from what is configured. In ratios and with wide bounds, for what changes it altogether: another order
//! of the checks, another kind of table. `cargo xtask bench` has the figures.

use anyhow::{Context, Result, ensure};
use guard_tests::bench::cost::{self, Effort, Size};

const SIZE: Size = Size { blocks: 1_000_000, prefixes: 100_000 };
const EFFORT: Effort = Effort { rounds: 25, packets: 20_000 };

/// A packet, whether its source stays the same, and how many times as much as a bare drop it may cost with full tables. Half of that is
/// what it does cost; with the blocks asked first, a stranger from a new source costs 14 bare drops.
const OVER_A_BARE_DROP: [(&str, bool, f64); 4] = [
    ("to another port", true, 4.0),
    ("to another port", false, 3.5),
    ("stranger, forged", true, 5.0),
    ("stranger, forged", false, 5.0),
];

/// ... and how many times as much as with small tables.
const OVER_SMALL_TABLES: [(&str, bool, f64); 5] = [
    ("to another port", true, 1.5),
    ("to another port", false, 1.5),
    ("to another port, one host blocked", true, 1.5),
    ("to another port, one host blocked", false, 5.0),
    ("stranger, forged", true, 1.5),
];

#[test]
fn full_tables_cost_a_packet_that_needs_none_of_them_next_to_nothing() -> Result<()> {
    let costs = cost::measure(SIZE, EFFORT)?;
    let find = |packet, hot| {
        let found = costs.iter().find(|cost| cost.packet == packet && cost.hot == hot);
        found.with_context(|| format!("{packet} is not measured"))
    };
    for (packet, hot, bound) in OVER_A_BARE_DROP {
        let ratio = find(packet, hot)?.full.ratio;
        println!("{packet}, same source: {hot}: {ratio:.2} bare drops");
        ensure!(ratio.median <= bound, "{packet}, same source: {hot}: {ratio:.2} bare drops");
    }
    for (packet, hot, bound) in OVER_SMALL_TABLES {
        let growth = find(packet, hot)?.growth.context("there are no small tables")?;
        println!("{packet}, same source: {hot}: {growth:.2} times small tables");
        ensure!(growth.median <= bound, "{packet}, same source: {hot}: {growth:.2} times small tables");
    }
    Ok(())
}
