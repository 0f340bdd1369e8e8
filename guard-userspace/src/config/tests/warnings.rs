//! Policies that are right but doubtful.

use std::ops::RangeInclusive;

use super::{ATTACH, SERVICE, good};
use crate::config::{Severity, parse_on};
use crate::local_ports::LocalPorts;

/// What is doubtful, what follows a right service (from the seventh line), line, column, and what message and help say.
type Case<'a> = (&'a str, &'a str, u32, u32, &'a str);

fn check(cases: &[Case<'_>]) {
    for (name, text, line, column, expected) in cases {
        let text = format!("{ATTACH}{SERVICE}{text}");
        let warnings = good(&text).warnings;
        let [warning] = warnings.as_slice() else {
            panic!("{name}: {} warnings: {warnings:#?}", warnings.len())
        };
        assert_eq!(warning.severity, Severity::Warning, "{name}");
        let said = warning.to_string();
        assert!(said.contains(expected), "{name}: {said}");
        assert_eq!((warning.line, warning.column), (Some(*line), Some(*column)), "{name}: {said}");
        let shown = warning.render(&text, false);
        assert!(shown.starts_with("warning: "), "{name}: {shown}");
        assert!(shown.contains(&format!("--> policy.toml:{line}:{column}\n")), "{name}: {shown}");
    }
}

#[test]
fn nothing_doubtful() {
    let limits = "limits = \"client\"\n[limits.client]\npackets_per_second = 2000\npacket_burst = 4000\n";
    for rest in ["", limits, "deny = [\"10.1.0.0/16\"]\n", "[trusted]\nprefixes = [\"10.0.0.5\"]\n"] {
        assert_eq!(good(&format!("{ATTACH}{SERVICE}{rest}")).warnings, [], "{rest}");
    }
    let nested = "[[service]]\nname = \"a\"\nports = [1]\nallow = [\"10.0.0.0/8\", \"10.1.2.0/24\"]\ndeny = [\"10.1.0.0/16\"]\n";
    assert_eq!(good(&format!("{ATTACH}{nested}")).warnings, [], "an exception of an exception has an effect");
}

#[test]
fn interfaces() {
    let warnings = good(SERVICE).warnings;
    assert_eq!(warnings.len(), 1);
    assert_eq!((warnings[0].line, warnings[0].column), (Some(1), Some(1)));
    assert!(warnings[0].message.contains("only those of the default route"), "{}", warnings[0]);
    let warnings = good(&format!("[attach]\nmode = \"auto\"\n{SERVICE}")).warnings;
    assert_eq!(warnings.len(), 1);
}

#[test]
fn limits() {
    let with = "limits = \"c\"\n[limits.c]\n";
    check(&[
        ("unused", "[limits.c]\nmax_connections = 5\n", 7, 9, "nothing uses the limits \"c\""),
        ("empty", with, 8, 1, "the limits \"c\" limit nothing"),
        (
            "few packets",
            &format!("{with}packets_per_second = 999\npacket_burst = 9000\n"),
            9,
            22,
            "999 packets a second cut lawful clients",
        ),
        (
            "a small burst",
            &format!("{with}packets_per_second = 1000\n"),
            9,
            22,
            "a burst of 1000 packets at 1000 a second cuts an upload of 4 MB",
        ),
    ]);
    let everyone =
        format!("{ATTACH}[[service]]\nname = \"a\"\nports = [1]\nallow = [\"10.0.0.0/8\", \"::/0\"]\n");
    let warnings = good(&everyone).warnings;
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert_eq!((warnings[0].line, warnings[0].column), (Some(6), Some(24)));
    assert!(
        warnings[0].message.contains("service \"a\" lets everyone in, without limits"),
        "{}",
        warnings[0]
    );
}

#[test]
fn a_service_whose_clients_are_one_source() {
    let service =
        |allow: &str| format!("{ATTACH}[[service]]\nname = \"a\"\nports = [1]\nallow = [{allow}]\n");
    let warns = |text: &str| {
        let warnings = good(text).warnings;
        warnings.iter().any(|warning| warning.message.contains("all clients of service \"a\" are one source"))
    };
    for (allow, rest, expected) in [
        ("\"fd00:1::/64\"", "", true),
        ("\"fd00:1::/80\"", "", true),
        ("\"fd00:1::1\", \"fd00:1::2\"", "", true),
        ("\"fd00:1::/63\"", "", false),
        ("\"fd00:1::7\"", "", false),
        ("\"fd00:1::/64\", \"10.0.0.0/8\"", "", false),
        ("\"10.1.2.0/24\"", "", false),
        ("\"10.1.2.0/24\"", "[source]\nipv4_prefix = 24\n", true),
        ("\"fd00:1::/64\"", "[source]\nipv6_prefix = 128\n", false),
    ] {
        assert_eq!(warns(&format!("{}{rest}", service(allow))), expected, "{allow} {rest}");
    }
}

#[test]
fn capacity() {
    let large = "[capacity]\nblocks = 10000000\n";
    check(&[("large tables", large, 7, 1, "tables of this size take 1088MiB of the kernel's memory")]);
    assert_eq!(good(&format!("{ATTACH}{SERVICE}[capacity]\nblocks = 8000000\n")).warnings, []);
}

#[test]
fn ports_of_outgoing_connections() {
    let local = |range, reserved: &[RangeInclusive<u16>]| LocalPorts { range, reserved: reserved.to_vec() };
    let text = format!(
        "{ATTACH}[[service]]\nname = \"a\"\nports = [8000, \"32000-33000\", 60000]\nallow = [\"10.0.0.0/8\"]\nprotocols = [\"udp\"]\n"
    );
    let warnings = |local: &LocalPorts| parse_on(local, &text, "policy.toml").unwrap().warnings;
    let found = warnings(&local(Some(32768..=60999), &[7000..=7009, 32768..=32800]));
    let [warning] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!((warning.line, warning.column), (Some(5), Some(16)), "the place of the first such port");
    for part in [
        "service \"a\"",
        "from port 32801-33000,60000 too",
        "ip_local_port_range is 32768-60999",
        "ip_local_reserved_ports=7000-7009,8000,32000-33000,60000",
    ] {
        assert!(warning.to_string().contains(part), "{part}: {warning}");
    }
    assert_eq!(warnings(&local(None, &[])), [], "an unknown range is not held against the policy");
    assert_eq!(warnings(&local(Some(32768..=60999), &[32000..=33000, 60000..=60000])), []);
    assert_eq!(warnings(&local(Some(50000..=50100), &[])), []);
}

#[test]
fn a_range_that_takes_in_ssh() {
    let warnings = |ports: &str, protocols: &str| {
        let text = format!(
            "{ATTACH}[[service]]\nname = \"a\"\nports = [{ports}]\nallow = [\"10.0.0.0/8\"]\nprotocols = [{protocols}]\n"
        );
        let warnings = good(&text).warnings;
        warnings.iter().map(|warning| (warning.line, warning.column, warning.to_string())).collect::<Vec<_>>()
    };
    for (ports, protocols, expected) in [
        ("\"1-65535\"", "\"tcp\"", &["port 22 (tcp), so guard drops ssh"][..]),
        ("8000, \"20-30\"", "\"tcp\"", &["port 22 (tcp)"]),
        ("\"1-1000\"", "\"udp\"", &["port 68 (udp)", "port 123 (udp)", "port 546 (udp)"]),
        ("\"1-1000\", 22", "\"tcp\"", &[]),
        ("22", "\"tcp\"", &[]),
        ("\"23-65535\"", "\"tcp\"", &[]),
    ] {
        let found = warnings(ports, protocols);
        assert_eq!(found.len(), expected.len(), "{ports} {protocols}: {found:#?}");
        for ((line, column, said), expected) in found.iter().zip(expected) {
            assert!(said.contains(expected), "{ports} {protocols}: {said}");
            let place = if ports.starts_with("8000") { 16 } else { 10 };
            assert_eq!((*line, *column), (Some(5), Some(place)), "{said}");
        }
    }
}

#[test]
fn prefixes() {
    let sources = |prefix: &str| {
        format!(
            "[[service.sources]]\nprefix = \"{prefix}\"\nlimits = \"x\"\n[limits.x]\nmax_connections = 1\n"
        )
    };
    check(&[
        ("a deny of nobody", "deny = [\"11.0.0.0/8\"]\n", 7, 9, "denies nothing that allow lets in"),
        (
            "a deny around an allow",
            "deny = [\"8.0.0.0/6\"]\n",
            7,
            9,
            "does not keep 10.0.0.0/8 out (line 6): the longest prefix wins",
        ),
        (
            "a deny in a deny",
            "deny = [\"10.1.0.0/16\", \"10.1.1.0/24\"]\n",
            7,
            24,
            "is denied already, within 10.1.0.0/16 (line 7)",
        ),
        (
            "a destination in another",
            "destinations = [\"::/0\", \"192.0.2.0/24\", \"192.0.2.5\"]\n",
            7,
            41,
            "is a destination already, within 192.0.2.0/24 (line 7)",
        ),
        (
            "destinations of one family",
            "destinations = [\"192.0.2.1\", \"192.0.2.2\"]\n",
            7,
            17,
            "names no destination of IPv6: there its ports are open to everyone",
        ),
        ("a deny twice", "deny = [\"10.1.0.0/16\", \"10.1.0.0/16\"]\n", 7, 24, "is denied already"),
        (
            "a wide trusted one",
            "[trusted]\nprefixes = [\"10.0.0.0/8\"]\n",
            8,
            13,
            "a very wide prefix to trust",
        ),
        (
            "a trusted one in another",
            "[trusted]\nprefixes = [\"10.0.0.0/24\", \"10.0.0.5\"]\n",
            8,
            28,
            "is trusted already, within 10.0.0.0/24",
        ),
        (
            "limits of the denied",
            &format!("deny = [\"10.1.0.0/16\"]\n{}", sources("10.1.1.0/24")),
            9,
            10,
            "is denied, so there is nobody to limit",
        ),
        (
            "limits of the trusted",
            &format!("{}[trusted]\nprefixes = [\"10.1.0.0/16\"]\n", sources("10.1.1.0/24")),
            8,
            10,
            "within the trusted prefix 10.1.0.0/16 and never limited",
        ),
    ]);
    let nested = format!(
        "{ATTACH}[[service]]\nname = \"a\"\nports = [1]\nallow = [\"10.0.0.0/8\", \"10.1.0.0/16\", \"10.0.0.0/8\"]\n"
    );
    let warnings = good(&nested).warnings;
    let columns: Vec<_> = warnings.iter().map(|warning| warning.column).collect();
    assert_eq!(columns, [Some(24), Some(39)], "{warnings:#?}");
    assert!(
        warnings
            .iter()
            .all(|warning| warning.message.contains("is allowed already, within 10.0.0.0/8 (line 6)"))
    );
}
