//! What policies that are right say.

use std::time::Duration;

use super::{SERVICE, good};
use crate::config::*;

fn net(text: &str) -> Prefix {
    Prefix { net: text.parse().unwrap(), line: None }
}

#[test]
fn every_default() {
    let expected = Policy {
        attach: Attach {
            interfaces: vec!["default-route".into()],
            mode: AttachMode::Auto,
            on_exit: OnExit::Keep,
            allow_missing: false,
        },
        services: vec![Service {
            name: "a".into(),
            ports: vec![8000..=8000],
            protocols: vec![Protocol::Tcp],
            mode: ServiceMode::Enforce,
            allow: vec![net("10.0.0.0/8")],
            deny: Vec::new(),
            destinations: Vec::new(),
            limits: None,
            sources: Vec::new(),
        }],
        limits: Default::default(),
        source: SourceGrouping { ipv4_prefix: 32, ipv6_prefix: 64 },
        trusted: Vec::new(),
        autoblock: Autoblock {
            enabled: true,
            connections: None,
            refused_per_minute: 6000,
            limited_per_minute: 6000,
            duration: Duration::from_secs(600),
            max_duration: Duration::from_secs(86400),
            forget_after: Duration::from_secs(86400),
            scope: BlockScope::Services,
            kill: true,
            never: Vec::new(),
        },
        capacity: Capacity { blocks: 1_048_576, sources: 262_144, connections: 131_072 },
        metrics: Metrics { listen: "127.0.0.1:9455".parse().unwrap(), top_sources: 0 },
        log: Log { level: LogLevel::Info, format: LogFormat::Text },
    };
    assert_eq!(good(SERVICE).policy, expected);
    let empty = format!(
        "{SERVICE}[attach]\n[source]\n[trusted]\n[autoblock]\n[capacity]\n[metrics]\n[log]\n[limits]\n"
    );
    assert_eq!(good(&empty).policy, expected);
}

#[test]
fn every_key() {
    let text = r#"
[attach]
interfaces = ["eth0", "ens*", "default-route"]
mode = "generic"
on_exit = "detach"
allow_missing = true
[[service]]
name = "vllm-1.A_b"
ports = [8101, "8100", 9000, "8102-8103", "8103 - 8110", "8000-8000"]
protocols = ["udp", "tcp", "udp"]
mode = "monitor"
allow = ["192.168.1.0/24", "10.0.0.7", "fd00:1::/64"]
deny  = ["192.168.1.128/25"]
limits = "client"
[[service.sources]]
prefix = "fd00:1::7"
limits = "a.b"
[limits.client]
packets_per_second = 2_000
packet_burst = 4000
bytes_per_second = "50MiB"
byte_burst = "100 MB"
connections_per_second = 10
max_connections = 64
[limits."a.b"]
packets_per_second = 0xFFFF
bytes_per_second = 2048
[source]
ipv4_prefix = 24
ipv6_prefix = 56
[trusted]
prefixes = ["10.0.0.5/32"]
[autoblock]
enabled = false
connections = 65
refused_per_minute = 2
limited_per_minute = 3
duration = "2 days"
forget_after = "1h 30m"
scope = "host"
kill = false
never = ["10.9.0.0/16"]
[capacity]
blocks = 1024
sources = 16_777_216
connections = 0x800
[metrics]
listen = "[::1]:9000"
[log]
level = "trace"
format = "json"
"#;
    let policy = good(text).policy;
    assert_eq!(policy.attach.interfaces, ["eth0", "ens*", "default-route"]);
    assert_eq!((policy.attach.mode, policy.attach.on_exit), (AttachMode::Generic, OnExit::Detach));
    assert!(policy.attach.allow_missing);
    let service = &policy.services[0];
    assert_eq!(service.name, "vllm-1.A_b");
    assert_eq!(service.ports, [8000..=8000, 8100..=8110, 9000..=9000]);
    assert_eq!(service.protocols, [Protocol::Tcp, Protocol::Udp]);
    assert_eq!(service.mode, ServiceMode::Monitor);
    assert_eq!(service.allow, [net("192.168.1.0/24"), net("10.0.0.7/32"), net("fd00:1::/64")]);
    assert_eq!(service.deny, [net("192.168.1.128/25")]);
    assert_eq!((service.allow[0].line, service.deny[0].line), (Some(12), Some(13)));
    assert_eq!(service.limits.as_deref(), Some("client"));
    assert_eq!(service.sources, [SourceLimits { prefix: net("fd00:1::7/128"), limits: "a.b".into() }]);
    assert_eq!(service.sources[0].prefix.line, Some(16));
    let client = Limits {
        packets: Some(Rate { per_second: 2000, burst: 4000 }),
        bytes: Some(Rate { per_second: 50 << 20, burst: 100_000_000 }),
        connections: Some(Rate { per_second: 10, burst: 10 }),
        max_connections: Some(64),
    };
    assert_eq!(policy.limits["client"], client, "a burst that is left out is one second's worth");
    let other = Limits {
        packets: Some(Rate { per_second: 65535, burst: 65535 }),
        bytes: Some(Rate { per_second: 2048, burst: 65536 }),
        ..Limits::default()
    };
    assert_eq!(policy.limits["a.b"], other, "a burst of bytes is never less than a packet");
    assert_eq!(policy.source, SourceGrouping { ipv4_prefix: 24, ipv6_prefix: 56 });
    assert_eq!(policy.trusted, [net("10.0.0.5/32")]);
    let autoblock = Autoblock {
        enabled: false,
        connections: Some(65),
        refused_per_minute: 2,
        limited_per_minute: 3,
        duration: Duration::from_secs(2 * 86400),
        // Left out, and the default would be shorter than the first block.
        max_duration: Duration::from_secs(2 * 86400),
        forget_after: Duration::from_secs(5400),
        scope: BlockScope::Host,
        kill: false,
        never: vec![net("10.9.0.0/16")],
    };
    assert_eq!(policy.autoblock, autoblock);
    assert_eq!(policy.capacity, Capacity { blocks: 1024, sources: 1 << 24, connections: 2048 });
    assert_eq!(policy.metrics.listen.to_string(), "[::1]:9000");
    assert_eq!(policy.log, Log { level: LogLevel::Trace, format: LogFormat::Json });
}

#[test]
fn lines_of_windows_and_a_byte_order_mark() {
    let text = format!("\u{feff}{SERVICE}").replace('\n', "\r\n");
    let Checked { policy, warnings } = good(&text);
    assert_eq!(policy, good(SERVICE).policy);
    assert_eq!(policy.services[0].allow[0].line, Some(4));
    assert!(warnings[0].render(&text, false).contains(":1:1\n"), "{}", warnings[0].render(&text, false));
}
