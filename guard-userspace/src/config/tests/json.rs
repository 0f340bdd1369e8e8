//! The policy as scripts read it.

use serde_json::json;

use super::good;

#[test]
fn json_has_the_tables_and_keys_of_the_file() {
    let text = r#"
[attach]
interfaces = ["eth0"]
[[service]]
name = "vllm"
ports = [8000, "8100-8103"]
allow = ["10.0.0.0/8", "fd00:1::7"]
limits = "client"
sources = [{ prefix = "10.0.5.0/24", limits = "client" }]
[limits.client]
bytes_per_second = "50MiB"
max_connections = 64
[trusted]
prefixes = ["10.0.0.5"]
"#;
    let expected = json!({
        "attach": { "interfaces": ["eth0"], "mode": "auto", "on_exit": "keep", "allow_missing": false },
        "service": [{
            "name": "vllm",
            "ports": [8000, "8100-8103"],
            "protocols": ["tcp"],
            "mode": "enforce",
            "allow": ["10.0.0.0/8", "fd00:1::7/128"],
            "deny": [],
            "destinations": [],
            "limits": "client",
            "sources": [{ "prefix": "10.0.5.0/24", "limits": "client" }],
        }],
        "limits": {
            "client": { "bytes_per_second": 52428800, "byte_burst": 52428800, "max_connections": 64 },
        },
        "source": { "ipv4_prefix": 32, "ipv6_prefix": 64 },
        "trusted": { "prefixes": ["10.0.0.5/32"] },
        "autoblock": {
            "enabled": true,
            "refused_per_minute": 6000,
            "limited_per_minute": 6000,
            "duration": "10m",
            "max_duration": "24h",
            "forget_after": "24h",
            "scope": "services",
            "kill": true,
            "never": [],
        },
        "capacity": { "blocks": 1048576, "sources": 262144, "connections": 131072 },
        "metrics": { "listen": "127.0.0.1:9455", "top_sources": 0 },
        "log": { "level": "info", "format": "text" },
    });
    assert_eq!(serde_json::to_value(good(text).policy).unwrap(), expected);
}

#[test]
fn diagnostics_are_json_too() {
    let warnings = good(super::SERVICE).warnings;
    let json = serde_json::to_value(&warnings).unwrap();
    assert_eq!(json[0]["severity"], "warning");
    assert_eq!(
        (&json[0]["file"], &json[0]["line"], &json[0]["column"]),
        (&json!("policy.toml"), &json!(1), &json!(1))
    );
    assert_eq!(json[0].as_object().unwrap().len(), 6, "severity, message, file, line, column, help");
}
