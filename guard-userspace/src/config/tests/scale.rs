//! Long lists.

use std::fmt::Write;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::{ATTACH, good, parse};

/// Does the work for a tenth of `count` and for `count`. To compare every prefix with every other takes a hundred times as much for ten
/// times as many; to sort them takes little more than ten times.
fn grows_with(count: u32, work: impl Fn(u32)) {
    let spent = |count| {
        // What this thread has spent of a CPU: other work on the machine does not count.
        let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default();
        let before = now();
        work(count);
        now() - before
    };
    let (tenth, all) = (spent(count / 10), spent(count));
    assert!(all < 40 * tenth, "{all:?} for {count}, {tenth:?} for a tenth");
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
    grows_with(100_000, |count| {
        let allow = list("allow", (0..count).map(address));
        let deny =
            list("deny", (0..count).map(|index| format!("fd00:{:x}:{:x}::/48", index >> 16, index & 0xffff)));
        let text = format!("{ATTACH}[[service]]\nname = \"a\"\nports = [1]\n{allow}{deny}");
        let checked = good(&text);
        let again = good(&checked.policy.to_toml());
        assert_eq!(checked.policy, again.policy);
        let allowed = &checked.policy.services[0].allow;
        assert_eq!(allowed.len(), count as usize);
        assert_eq!(allowed.last().and_then(|last| last.line), Some(6 + count));
        // Each deny is doubtful: ten are shown, one sentence counts the others.
        assert_eq!(checked.warnings.len(), 11);
        let hidden = format!("{} more prefixes without effect", count - 10);
        assert!(checked.warnings[0].message.contains(&hidden), "{}", checked.warnings[0]);
    });
}

#[test]
fn equal_and_nested_prefixes_in_great_number_are_checked_quickly() {
    grows_with(50_000, |count| {
        let same = list("allow", (0..count).map(|_| "10.0.0.0/32".into()));
        let within = list("deny", (0..count).map(|index| address(index + 1)));
        let trusted = list("prefixes", (0..count).map(|_| "10.0.0.0".into()));
        let sources: String = (0..count * 2 / 5)
            .map(|index| format!("{{ prefix = \"{}\", limits = \"x\" }},\n", address(index + 1)))
            .collect();
        let text = format!(
            "[[service]]\nname = \"a\"\nports = [1]\n{same}{within}sources = [\n{sources}]\n[limits.x]\nmax_connections = 1\n[trusted]\n{trusted}"
        );
        let report = parse(&text, "policy.toml").unwrap_err();
        let shown = report.to_string();
        assert_eq!(report.errors().len(), count as usize * 2 / 5, "no source is allowed");
        assert!(shown.len() < 20_000, "{} bytes", shown.len());
    });
}

#[test]
fn errors_in_one_long_line_are_found_quickly() {
    grows_with(100_000, |count| {
        let allow: Vec<String> = (0..count).map(|index| format!("\"{}/8\"", address(index + 1))).collect();
        let text = format!("[[service]]\nname = \"a\"\nports = [1]\nallow = [{}]\n", allow.join(", "));
        let report = parse(&text, "policy.toml").unwrap_err();
        let errors = report.errors();
        assert_eq!(errors.len(), count as usize);
        let last = text.find(allow.last().unwrap()).unwrap() - text.find("allow").unwrap() + 1;
        assert_eq!(errors.last().unwrap().column, u32::try_from(last).ok());
        let shown = errors.last().unwrap().render(&text, false);
        assert!(shown.len() < 1000, "an excerpt of the line: {} bytes", shown.len());
    });
}
