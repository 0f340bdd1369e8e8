//! The limits, and the tables that stand for themselves.

use super::{check, check_after_service};
use crate::config::tests::SERVICE;

#[test]
fn limits() {
    let cases = [
        ("rate 0", "packets_per_second = 0\n", 7, 22, "leave packets_per_second out for no limit"),
        ("negative rate", "packets_per_second = -1\n", 7, 22, "-1 is not a number"),
        (
            "a rate in words",
            "packets_per_second = \"2k\"\n",
            7,
            22,
            "expected a number such as 2000, found a string",
        ),
        (
            "packets too fast",
            "packets_per_second = 10000001\n",
            7,
            22,
            "10000001 is more than 10000000 a second",
        ),
        ("connections too fast", "connections_per_second = 10000001\n", 7, 26, "more than 10000000 a second"),
        ("bytes too fast", "bytes_per_second = \"101GiB\"\n", 7, 20, "101GiB is more than 100GiB a second"),
        ("bytes too slow", "bytes_per_second = 1023\n", 7, 20, "1023B is less than 1KiB a second"),
        (
            "burst 0",
            "packets_per_second = 2000\npacket_burst = 0\n",
            8,
            16,
            "a burst of 0 would let nothing through",
        ),
        ("burst alone", "connection_burst = 20\n", 7, 20, "a burst without connections_per_second"),
        (
            "a byte burst below a packet",
            "bytes_per_second = \"1MB\"\nbyte_burst = 65535\n",
            8,
            14,
            "smaller than one packet can be: up to 64KiB",
        ),
        (
            "a burst of more than a day",
            "packets_per_second = 1000\npacket_burst = 86400001\n",
            8,
            16,
            "at this rate it can be 86400000 at most",
        ),
        ("connections 0", "max_connections = 0\n", 7, 19, "leave max_connections out for no limit"),
        ("too many connections", "max_connections = 4294967296\n", 7, 19, "more connections than can exist"),
        (
            "no unit of bytes",
            "bytes_per_second = \"50Mbit\"\n",
            7,
            20,
            "\"Mbit\" is no unit of bytes (write bytes as \"50MiB\"",
        ),
        ("half bytes", "bytes_per_second = \"1.5GiB\"\n", 7, 20, "a whole number is needed"),
        ("no bytes", "bytes_per_second = \"MiB\"\n", 7, 20, "not an amount of bytes"),
        ("too many bytes", "bytes_per_second = \"99999999TiB\"\n", 7, 20, "more than guard can count"),
        ("unknown key", "packets_per_secnd = 5\n", 7, 1, "did you mean \"packets_per_second\"?"),
    ];
    for (name, lines, line, column, expected) in cases {
        let text = format!("{SERVICE}limits = \"client\"\n[limits.client]\n{lines}");
        check(&[(name, &text, line, column, expected)]);
    }
    check_after_service(&[("a bad name", "[limits.\"a b\"]\n", 5, 9, "letters, digits")]);
}

#[test]
fn counts() {
    let services: String = (1..=256)
        .map(|index| format!("[[service]]\nname = \"s{index}\"\nports = [{index}]\nallow = [\"::/0\"]\n"))
        .collect();
    let limits: String =
        (1..=256).map(|index| format!("[limits.l{index:03}]\nmax_connections = 1\n")).collect();
    check(&[
        ("services", &services, 255 * 4 + 1, 1, "256 services are more than guard can hold: 255"),
        (
            "limits",
            &format!("{SERVICE}{limits}"),
            4 + 255 * 2 + 1,
            9,
            "256 different limits are more than guard can hold: 255",
        ),
    ]);
}

#[test]
fn sections() {
    check_after_service(&[
        ("no interface", "[attach]\ninterfaces = []\n", 6, 14, "write [\"default-route\"]"),
        (
            "a long name",
            "[attach]\ninterfaces = [\"abcdefghijklmnop\"]\n",
            6,
            15,
            "at most 15 bytes; this one has 16",
        ),
        ("an empty name", "[attach]\ninterfaces = [\"\"]\n", 6, 15, "cannot be empty"),
        (
            "a name with a slash",
            "[attach]\ninterfaces = [\"eth/0\"]\n",
            6,
            15,
            "no interface can have this name",
        ),
        ("a bad pattern", "[attach]\ninterfaces = [\"eth[\"]\n", 6, 15, "not a pattern"),
        (
            "attach mode",
            "[attach]\ninterfaces = [\"eth0\"]\nmode = \"fast\"\n",
            7,
            8,
            "write one of \"auto\", \"native\", \"generic\"",
        ),
        (
            "on exit",
            "[attach]\ninterfaces = [\"eth0\"]\non_exit = \"keeps\"\n",
            7,
            11,
            "did you mean \"keep\"?",
        ),
        ("IPv4 too short", "[source]\nipv4_prefix = 7\n", 6, 15, "7 is not a number from 8 to 32"),
        ("IPv4 too long", "[source]\nipv4_prefix = 33\n", 6, 15, "33 is not a number from 8 to 32"),
        ("IPv6 too short", "[source]\nipv6_prefix = 31\n", 6, 15, "31 is not a number from 32 to 128"),
        ("IPv6 too long", "[source]\nipv6_prefix = 129\n", 6, 15, "129 is not a number from 32 to 128"),
        ("autoblock connections", "[autoblock]\nconnections = 0\n", 6, 15, "0 is not a number from 1"),
        ("refused", "[autoblock]\nrefused_per_minute = 0\n", 6, 22, "0 is not a number from 1"),
        (
            "limited",
            "[autoblock]\nlimited_per_minute = 4294967296\n",
            6,
            22,
            "is not a number from 1 to 4294967295",
        ),
        ("no duration", "[autoblock]\nduration = \"ten\"\n", 6, 12, "write a duration as \"90s\""),
        ("duration 0", "[autoblock]\nduration = \"0s\"\n", 6, 12, "must be longer than 0"),
        ("less than a second", "[autoblock]\nforget_after = \"1s 500ms\"\n", 6, 16, "whole seconds"),
        ("more than a year", "[autoblock]\nmax_duration = \"367d\"\n", 6, 16, "longer than a year"),
        (
            "max below first",
            "[autoblock]\nmax_duration = \"1h\"\nduration = \"2h\"\n",
            6,
            16,
            "1h is shorter than the first block, duration = \"2h\"",
        ),
        ("max below the default first", "[autoblock]\nmax_duration = \"5m\"\n", 6, 16, "duration = \"10m\""),
        ("scope", "[autoblock]\nscope = \"service\"\n", 6, 9, "did you mean \"services\"?"),
        ("no room", "[capacity]\nblocks = 1023\n", 6, 10, "1023 is not a number from 1024 to 16777216"),
        ("too much room", "[capacity]\nsources = 16777217\n", 6, 11, "is not a number from 1024 to 16777216"),
        ("room in words", "[capacity]\nconnections = \"1M\"\n", 6, 15, "found a string"),
        ("another table", "[capacity]\nblock = 5\n", 6, 1, "did you mean \"blocks\"?"),
        (
            "a host name to listen on",
            "[metrics]\nlisten = \"localhost:9455\"\n",
            6,
            10,
            "write an IP address and a port",
        ),
        (
            "no port to listen on",
            "[metrics]\nlisten = \"127.0.0.1\"\n",
            6,
            10,
            "write an IP address and a port",
        ),
        ("port 0 to listen on", "[metrics]\nlisten = \"127.0.0.1:0\"\n", 6, 10, "port 0"),
        ("log level", "[log]\nlevel = \"inf\"\n", 6, 9, "did you mean \"info\"?"),
        ("log format", "[log]\nformat = \"xml\"\n", 6, 10, "write one of \"text\", \"json\""),
    ]);
}

/// What the limits let in is no offence.
#[test]
fn autoblock_connections_within_a_limit() {
    let limits = "limits = \"x\"\n[limits.x]\nmax_connections = 200\n";
    let source =
        "[[service.sources]]\nprefix = \"10.1.0.0/16\"\nlimits = \"x\"\n[limits.x]\nmax_connections = 200\n";
    let at_200 = format!("{limits}[autoblock]\nconnections = 200\n");
    let of_source = format!("{source}[autoblock]\nconnections = 150\n");
    check_after_service(&[
        ("as many as the limit", &at_200, 9, 15, "the limits \"x\" let have 200 connections (line 7)"),
        ("less than a source may", &of_source, 11, 15, "add 10.1.0.0/16 to never"),
    ]);
    for right in [
        format!("{limits}[autoblock]\nconnections = 201\n"),
        format!("{limits}[autoblock]\nenabled = false\nconnections = 1\n"),
        format!("{source}[autoblock]\nconnections = 1\nnever = [\"10.1.0.0/16\"]\n"),
        "[limits.unused]\nmax_connections = 9\n[autoblock]\nconnections = 1\n".to_owned(),
        "[autoblock]\nconnections = 1\n".to_owned(),
    ] {
        crate::config::tests::good(&format!("{SERVICE}{right}"));
    }
}
