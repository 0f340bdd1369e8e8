//! How large the tables in the kernel are made.

use super::table::{self, Table};
use crate::config::findings::{Fault, Findings};
use crate::config::policy::Capacity;
use crate::config::units;

/// Less saves nothing: the other tables take as much.
const MIN: u64 = 1 << 10;
const MAX: u64 = 1 << 24;

/// What an inference host can spare without a thought.
const LARGE: u64 = 1 << 30;

pub(super) fn read(findings: &mut Findings<'_>, root: &Table<'_, '_>) -> Capacity {
    let default = Capacity::default();
    let Some(table) = root.section(findings, "capacity", &table::CAPACITY) else { return default };
    let mut entries =
        |key, default| table.get(key).and_then(|entry| entry.bounded(findings, MIN, MAX)).unwrap_or(default);
    let capacity = Capacity {
        blocks: entries("blocks", default.blocks),
        sources: entries("sources", default.sources),
        connections: entries("connections", default.connections),
    };
    let memory = capacity.memory();
    if memory > LARGE {
        let fault = Fault::new(format!(
            "tables of this size take {} of the kernel's memory from the start, full or not",
            units::bytes(memory.next_multiple_of(1 << 20))
        ));
        findings.warn(
            &table.span,
            fault.help("lower what need not be so large; docs/performance.md has the sizes"),
        );
    }
    capacity
}
