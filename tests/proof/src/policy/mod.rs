//! What holds for every text of a policy.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use guard_userspace::config::{self, Checked, Report};
use guard_userspace::plan;

/// Far above what a text of some kilobytes takes, far below what an exponent would.
const LONG: Duration = Duration::from_secs(10);

/// No text makes the reader panic or work for long. A text that is accepted has a normal form that reads back as the same policy, and
/// fits into the tables; any other has at least one error, which can be shown.
///
/// # Panics
/// Where that does not hold.
pub fn check(text: &str) {
    let start = Instant::now();
    match config::parse(text, "policy.toml") {
        Ok(checked) => accepted(text, &checked),
        Err(report) => refused(text, &report),
    }
    assert!(start.elapsed() < LONG, "{:?} for\n{text}", start.elapsed());
}

fn accepted(text: &str, Checked { policy, warnings }: &Checked) {
    for warning in warnings {
        let _ = (warning.render(text, true), warning.to_string());
    }
    let normal = policy.to_toml();
    let again = config::parse(&normal, "again.toml")
        .unwrap_or_else(|report| panic!("its normal form is refused: {report}\n{normal}\nof\n{text}"));
    assert_eq!(&again.policy, policy, "{normal}\nof\n{text}");
    assert_eq!(again.policy.to_toml(), normal, "of\n{text}");
    if let Err(error) = plan::compile(policy, &BTreeMap::new()) {
        panic!("accepted, but {error}\n{text}");
    }
    if let Err(error) = serde_json::to_string(policy) {
        panic!("accepted, but not to be shown as JSON: {error}\n{text}");
    }
}

fn refused(text: &str, report: &Report) {
    assert!(!report.errors().is_empty(), "{text}");
    let _ = (report.render(true), report.to_string());
}

#[cfg(test)]
mod tests;
