//! Services, with their ports, prefixes and sources.

use super::{check, check_after_service};
use crate::config::tests::{SERVICE, parse};

#[test]
fn services() {
    let with = |lines: &str| format!("[[service]]\n{lines}");
    check(&[
        ("no name", &with("ports = [1]\nallow = [\"::/0\"]\n"), 1, 1, "has no name"),
        ("no ports", &with("name = \"a\"\nallow = [\"::/0\"]\n"), 1, 1, "service \"a\" has no ports"),
        (
            "no allow",
            &with("name = \"a\"\nports = [1]\n"),
            1,
            1,
            "everyone is allow = [\"0.0.0.0/0\", \"::/0\"]",
        ),
        (
            "an empty allow",
            &with("name = \"a\"\nports = [1]\nallow = []\n"),
            4,
            9,
            "everyone is allow = [\"0.0.0.0/0\"",
        ),
        ("empty ports", &with("name = \"a\"\nallow = [\"::/0\"]\nports = []\n"), 4, 9, "the list is empty"),
        ("an empty name", &with("name = \"\"\nports = [1]\nallow = [\"::/0\"]\n"), 2, 8, "cannot be empty"),
        (
            "a name with a space",
            &with("name = \"a b\"\nports = [1]\nallow = [\"::/0\"]\n"),
            2,
            8,
            "letters, digits",
        ),
        (
            "a name that is too long",
            &with(&format!("name = \"{}\"\nports = [1]\nallow = [\"::/0\"]\n", "a".repeat(64))),
            2,
            8,
            "at most 63 bytes; this one has 64",
        ),
        (
            "a name twice",
            &format!("{SERVICE}[[service]]\nname = \"a\"\nports = [1]\nallow = [\"::/0\"]\n"),
            6,
            8,
            "has the name \"a\" already (line 2)",
        ),
        ("empty protocols", &format!("{SERVICE}protocols = []\n"), 5, 13, "the list is empty"),
        (
            "an unknown protocol",
            &format!("{SERVICE}protocols = [\"sctp\"]\n"),
            5,
            14,
            "\"sctp\" is not known (write one of \"tcp\", \"udp\")",
        ),
        ("an unknown mode", &format!("{SERVICE}mode = \"Enforced\"\n"), 5, 8, "did you mean \"enforce\"?"),
        ("unknown limits", &format!("{SERVICE}limits = \"x\"\n"), 5, 10, "add a table [limits.x]"),
        (
            "misspelt limits",
            &format!("{SERVICE}limits = \"cleint\"\n[limits.client]\nmax_connections = 1\n"),
            5,
            10,
            "did you mean \"client\"?",
        ),
    ]);
}

#[test]
fn ports() {
    let with =
        |ports: &str| format!("[[service]]\nname = \"a\"\nallow = [\"10.0.0.0/8\"]\nports = [{ports}]\n");
    let cases = [
        ("0", "0", 10, "port 0: there is no such port (ports are the numbers from 1 to 65535)"),
        ("65536", "8000, 65536", 16, "port 65536: there is no such port"),
        ("negative", "-1", 10, "-1 is not a port"),
        ("range from 0", "\"0-10\"", 10, "port 0"),
        ("range past the end", "\"8000-70000\"", 10, "port 70000"),
        ("reversed", "\"8103-8100\"", 10, "write \"8100-8103\""),
        ("empty text", "\"\"", 10, "not a port or a range"),
        ("half a range", "\"8000-\"", 10, "not a port or a range"),
        ("three numbers", "\"1-2-3\"", 10, "not a port or a range"),
        ("a sign", "\"+5\"", 10, "not a port or a range"),
        ("a name", "\"http\"", 10, "write 8000 or \"8100-8103\""),
        ("too large to count", "99999999999999999999999", 10, "is not a port"),
    ];
    for (name, ports, column, expected) in cases {
        check(&[(name, &with(ports), 4, column, expected)]);
    }
    let other = |ports: &str| {
        format!("{SERVICE}[[service]]\nname = \"b\"\nallow = [\"10.0.0.0/8\"]\nports = [{ports}]\n")
    };
    check(&[
        (
            "a port of another service",
            &other("1, 8000"),
            8,
            13,
            "port 8000 (tcp) belongs to service \"a\" already (line 3)",
        ),
        ("a range over it", &other("9, \"7999-8001\""), 8, 13, "port 8000 (tcp)"),
    ]);
    let udp = format!("{}protocols = [\"udp\"]\n", other("8000"));
    assert!(parse(&udp, "policy.toml").is_ok(), "the same port of another protocol is free");
    let both = format!("{SERVICE}{}", "protocols = [\"tcp\", \"udp\"]\n");
    let both = format!(
        "{both}[[service]]\nname = \"b\"\nallow = [\"10.0.0.0/8\"]\nports = [\"7000-9000\"]\nprotocols = [\"udp\"]\n"
    );
    check(&[("of one of two protocols", &both, 9, 10, "port 8000 (udp) belongs to service \"a\"")]);
}

#[test]
fn prefixes() {
    check_after_service(&[
        (
            "host bits",
            "deny = [\"10.0.5.1/24\"]\n",
            5,
            9,
            "10.0.5.1/24: host bits set (write 10.0.5.0/24 for the network, or 10.0.5.1/32",
        ),
        ("no CIDR", "deny = [\"10.0.0/8\"]\n", 5, 9, "write 10.0.0.0/8"),
        ("too long", "deny = [\"10.0.0.0/33\"]\n", 5, 9, "a number from 0 to 32"),
        ("mapped", "deny = [\"::ffff:10.0.0.0/104\"]\n", 5, 9, "write 10.0.0.0/8"),
        ("in allow and deny", "deny = [\"10.0.0.0/8\"]\n", 5, 9, "stands in allow (line 4) and in deny"),
        (
            "the second line of a list",
            "deny = [\n  \"10.1.0.0/16\",\n  \"x\",\n]\n",
            7,
            3,
            "not an IP address",
        ),
        (
            "a denied trusted one",
            "deny = [\"10.1.2.0/24\"]\n[trusted]\nprefixes = [\"10.1.0.0/16\"]\n",
            5,
            9,
            "within the trusted prefix 10.1.0.0/16 (line 7)",
        ),
        ("never", "[autoblock]\nnever = [\"10.0.5.1/24\"]\n", 6, 10, "host bits set"),
        (
            "trusted",
            "[trusted]\nprefixes = [\"any\"]\n",
            6,
            13,
            "write \"0.0.0.0/0\" (IPv4) and \"::/0\" (IPv6)",
        ),
    ]);
}

#[test]
fn sources() {
    let with = |sources: &str| format!("{SERVICE}{sources}[limits.x]\nmax_connections = 1\n");
    let entry = |prefix: &str| format!("[[service.sources]]\nprefix = \"{prefix}\"\nlimits = \"x\"\n");
    check(&[
        (
            "nobody is allowed there",
            &with(&entry("11.0.0.0/8")),
            6,
            10,
            "is not allowed, so there is nobody to limit",
        ),
        (
            "twice",
            &with(&format!("{}{}", entry("10.1.0.0/16"), entry("10.1.0.0/16"))),
            9,
            10,
            "has an entry in sources already (line 6)",
        ),
        ("no limits", &with("[[service.sources]]\nprefix = \"10.1.0.0/16\"\n"), 5, 1, "has no limits"),
        ("no prefix", &with("[[service.sources]]\nlimits = \"x\"\n"), 5, 1, "has no prefix"),
        (
            "unknown limits",
            &with(&entry("10.1.0.0/16").replace("\"x\"", "\"y\"")),
            7,
            10,
            "there are no limits \"y\"",
        ),
    ]);
    for right in ["10.1.0.0/16", "10.0.0.0/8", "8.0.0.0/6"] {
        assert!(parse(&with(&entry(right)), "policy.toml").is_ok(), "{right} reaches somebody");
    }
}
