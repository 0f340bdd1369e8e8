//! What happened, held against what the policy says.

use anyhow::Result;

use super::role;
use crate::guard::{Counts, Guard};

/// How far the goodput of a flood may be from its limit.
const TOLERANCE: f64 = 0.01;

pub(super) struct Report<'g> {
    guard: &'g Guard<'g>,
    rows: Vec<[String; 5]>,
    failed: bool,
    before: Counts,
    flood: Option<(u64, u64)>,
}

impl<'g> Report<'g> {
    pub(super) fn new(guard: &'g Guard<'g>) -> Result<Self> {
        Ok(Self { guard, rows: Vec::new(), failed: false, before: guard.counts()?, flood: None })
    }

    /// Notes what a host tried and got; `expected` is what the policy says of it.
    pub(super) fn outcome(&mut self, source: &str, tried: &str, got: bool, what: &str, expected: bool) {
        self.row(source, tried, what, got == expected);
    }

    /// Notes a flood: what was sent, what arrived at the server, and what the limit lets through in that time.
    pub(super) fn flood(&mut self, source: &str, sent: u64, arrived: u64, due: f64) {
        let off = arrived as f64 / due - 1.0;
        let what = format!("{arrived} got through, the limit is {due:.0} ({:+.2} %)", off * 100.0);
        self.row(source, &format!("{sent} packets in a flood"), &what, off.abs() < TOLERANCE);
        self.flood = Some((sent, arrived));
    }

    fn row(&mut self, source: &str, tried: &str, what: &str, right: bool) {
        self.failed |= !right;
        let verdict = if right { "ok" } else { "WRONG" };
        println!("    {:<9} {:<15} {tried}: {what} [{verdict}]", role(source), source);
        self.rows.push([role(source), source, tried, what, verdict].map(String::from));
    }

    /// Prints the tables. Returns whether all was right.
    pub(super) fn finish(mut self) -> Result<bool> {
        let after = self.guard.counts()?;
        let grown = |service: &str, verdict: &str, reason: &str| {
            let key = (service.to_owned(), verdict.to_owned(), reason.to_owned());
            after.get(&key).copied().unwrap_or(0) - self.before.get(&key).copied().unwrap_or(0)
        };
        println!("\nwho sent what, and what became of it\n");
        print_table(["who", "from", "sent", "got", ""], &self.rows);
        println!("\nwhat guard counted (guard status, /metrics)\n");
        let mut counted = Vec::new();
        for ((service, verdict, reason), packets) in &after {
            let new = packets
                - self.before.get(&(service.clone(), verdict.clone(), reason.clone())).copied().unwrap_or(0);
            if new > 0 {
                let service = if service.is_empty() { "-" } else { service };
                counted.push([service, verdict, reason, &new.to_string(), ""].map(String::from));
            }
        }
        print_table(["service", "verdict", "reason", "packets", ""], &counted);
        println!();
        let (limited, refused) =
            (grown("model", "drop", "packet_rate"), grown("model", "drop", "not_allowed"));
        let allowed = grown("model", "pass", "allowed");
        let (sent, arrived) = self.flood.unwrap_or_default();
        let metrics = self.guard.metrics()?;
        let exported = format!(
            "guard_packets_total{{reason=\"packet_rate\",service=\"model\",verdict=\"drop\"}} {limited}"
        );
        let checks = [
            ("the stranger's packets are counted as not_allowed", refused > 0),
            ("the rest of the flood is counted as packet_rate", limited == sent - arrived),
            ("what got through is counted as allowed", allowed > arrived),
            (
                "nothing else of the model's was dropped",
                grown("model", "drop", "denied") == 0 && grown("", "drop", "malformed") == 0,
            ),
            ("/metrics says the same", metrics.contains(&exported)),
        ];
        for (name, right) in checks {
            self.failed |= !right;
            println!("  {} {name}", if right { "ok   " } else { "WRONG" });
        }
        println!(
            "\n{}",
            if self.failed {
                "What happened is NOT what the policy says."
            } else {
                "What happened is what the policy says."
            }
        );
        Ok(!self.failed)
    }
}

fn print_table(heading: [&str; 5], rows: &[[String; 5]]) {
    let heading = heading.map(String::from);
    let rows: Vec<&[String; 5]> = std::iter::once(&heading).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    for row in &rows {
        let cells: Vec<String> = (0..5).map(|column| format!("{:<1$}", row[column], width(column))).collect();
        println!("  {}", cells.join("  ").trim_end());
    }
}
