//! Long lists.

use std::fmt::Write;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::{ATTACH, good, parse};

/// Far above what a debug build takes, far below what comparing every prefix with every other would.
const LONG: Duration = Duration::from_secs(10);

/// What this thread has spent of a CPU: other work on the machine does not count.
fn spent() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

fn list(key: &str, prefixes: impl Iterator<Item = String>) -> String {
    let mut text = format!("{key} = [\n");
    for prefix in prefixes {
        let _ = writeln!(text, "    \"{prefix}\",");
    }
    text + "]\n"
}

fn address(index: u32) -> String {
    format!("10.{}.{}.{}", index >> 16 & 0xff, index >> 8 & 0xff, index & 0xff)
}

#[test]
fn a_hundred_thousand_prefixes_are_checked_quickly() {
    let allow = list("allow", (0..100_000).map(address));
    let deny =
        list("deny", (0..100_000).map(|index| format!("fd00:{:x}:{:x}::/48", index >> 16, index & 0xffff)));
    let text = format!("{ATTACH}[[service]]\nname = \"a\"\nports = [1]\n{allow}{deny}");
    let start = spent();
    let checked = good(&text);
    let again = good(&checked.policy.to_toml());
    let took = spent() - start;
    assert!(took < LONG, "{took:?}");
    assert_eq!(checked.policy, again.policy);
    assert_eq!(checked.policy.services[0].allow.len(), 100_000);
    assert_eq!(checked.policy.services[0].allow[99_999].line, Some(6 + 100_000));
    // Each deny is doubtful: ten are shown, one sentence counts the others.
    assert_eq!(checked.warnings.len(), 11);
    assert!(
        checked.warnings[0].message.contains("99990 more prefixes without effect"),
        "{}",
        checked.warnings[0]
    );
}

#[test]
fn equal_and_nested_prefixes_in_great_number_are_checked_quickly() {
    let same = list("allow", (0..50_000).map(|_| "10.0.0.0/32".into()));
    let within = list("deny", (0..50_000).map(|index| address(index + 1)));
    let trusted = list("prefixes", (0..50_000).map(|_| "10.0.0.0".into()));
    let sources: String = (0..20_000)
        .map(|index| format!("{{ prefix = \"{}\", limits = \"x\" }},\n", address(index + 1)))
        .collect();
    let text = format!(
        "[[service]]\nname = \"a\"\nports = [1]\n{same}{within}sources = [\n{sources}]\n[limits.x]\nmax_connections = 1\n[trusted]\n{trusted}"
    );
    let start = spent();
    let report = parse(&text, "policy.toml").unwrap_err();
    let shown = report.to_string();
    let took = spent() - start;
    assert!(took < LONG, "{took:?}");
    assert_eq!(report.errors().len(), 20_000, "no source is allowed");
    assert!(shown.len() < 20_000, "{} bytes", shown.len());
}

#[test]
fn errors_in_one_long_line_are_found_quickly() {
    let allow: Vec<String> = (0..100_000).map(|index| format!("\"{}/8\"", address(index + 1))).collect();
    let text = format!("[[service]]\nname = \"a\"\nports = [1]\nallow = [{}]\n", allow.join(", "));
    let start = spent();
    let report = parse(&text, "policy.toml").unwrap_err();
    let took = spent() - start;
    assert!(took < LONG, "{took:?}");
    let errors = report.errors();
    assert_eq!(errors.len(), 100_000);
    let last = text.find(&allow[99_999]).unwrap() - text.find("allow").unwrap() + 1;
    assert_eq!(errors[99_999].column, u32::try_from(last).ok());
    let shown = errors[99_999].render(&text, false);
    assert!(shown.len() < 1000, "an excerpt of the line: {} bytes", shown.len());
}
