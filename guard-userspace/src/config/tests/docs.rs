//! What `docs/policy.md` and the packaged policy tell people is what the reader takes.

use super::{good, parse};
use crate::config::{Checked, Policy, from_flags};
use crate::local_ports::LocalPorts;

const DOCS: &str = include_str!("../../../../docs/policy.md");
const PACKAGED: &str = include_str!("../../../../packaging/guard.toml");

/// Every key of a policy that sets all of them.
fn keys() -> Vec<String> {
    let full = "[[service]]\nname = \"a\"\nports = [1]\nallow = [\"::/0\"]\nlimits = \"x\"\n\
        [[service.sources]]\nprefix = \"::/0\"\nlimits = \"x\"\n\
        [limits.x]\npackets_per_second = 1\nbytes_per_second = 1024\nconnections_per_second = 1\nmax_connections = 1\n\
        [autoblock]\nconnections = 2\n";
    let text = good(full).policy.to_toml();
    text.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key.to_owned()).collect()
}

#[test]
fn the_examples_of_the_docs_are_right() {
    let examples: Vec<&str> =
        DOCS.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!examples.is_empty());
    for example in examples {
        let doubtful = good(example).warnings.len();
        assert_eq!(doubtful, 1, "only that the interfaces are not named:\n{example}");
    }
    let shown = DOCS.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let wrong = "[[service]]\nname = \"a\"\nports = [1]\nallow = [\"10.0.5.1/24\"]\n";
    let report = parse(wrong, "guard.toml").unwrap_err();
    assert_eq!(report.errors()[0].render(wrong, false), shown.trim_end());
}

#[test]
fn the_docs_and_the_packaged_policy_name_every_key() {
    let keys = keys();
    assert!(keys.len() > 30, "{keys:?}");
    for key in keys {
        assert!(
            DOCS.contains(&format!("`{key}`")) || DOCS.contains(&format!(".{key}`")),
            "{key} is not in the docs"
        );
        assert!(PACKAGED.contains(&format!("{key} = ")), "{key} is not in the packaged policy");
    }
}

#[test]
fn the_packaged_policy_is_right_and_sets_defaults() {
    let Checked { policy, warnings } = good(PACKAGED);
    assert_eq!(warnings, []);
    let defaults = Policy::default();
    assert_eq!(policy.attach, defaults.attach);
    assert_eq!(policy.source, defaults.source);
    assert_eq!(policy.autoblock, defaults.autoblock);
    assert_eq!(policy.capacity, defaults.capacity);
    assert_eq!(policy.metrics, defaults.metrics);
    assert_eq!(policy.log, defaults.log);
    // What it proposes in comments is right as well.
    let commented = PACKAGED.replace("# [[service.", "[[service.").replace("# [limits", "[limits");
    let commented: String = commented
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| rest.split_once(" = ").is_some()).unwrap_or(line))
        .map(|line| line.replace("never = []", "never = [\"10.0.5.0/24\"]") + "\n")
        .collect();
    let Checked { policy, warnings } = good(&commented);
    assert_eq!(warnings, []);
    assert_eq!((policy.services[0].sources.len(), policy.limits.len()), (1, 2));
}

#[test]
fn the_packaged_limits_let_lawful_clients_pass() {
    let policy = good(PACKAGED).policy;
    let limits = &policy.limits["client"];
    let (packets, connections) = (limits.packets.unwrap(), limits.connections.unwrap());
    // Measured at the server: packets a second, and for how long.
    let clients = [
        ("a stream at 31 ms a token", 29, 3600.0),
        ("a stream at full speed", 246, 3600.0),
        ("eight parallel streams", 1_400, 3600.0),
        ("200 short requests without keep-alive", 6_400, 0.2),
        ("an upload of 4 MB", 8_100, 0.35),
    ];
    for (client, per_second, seconds) in clients {
        let sent = f64::from(per_second) * seconds;
        let allowed = packets.per_second as f64 * seconds + packets.burst as f64;
        assert!(sent <= allowed, "{client}: {sent} packets, {allowed} pass");
    }
    assert!(connections.burst >= 200, "200 requests without keep-alive are 200 connections in 0.2 s");
    assert_eq!(policy.autoblock.connections, None, "what the limits let in is no offence");
    let at_once = limits.max_connections.unwrap();
    assert!(at_once >= 1000 && connections.burst >= 1000, "a benchmark opens 1,000 connections at once");
}

#[test]
fn the_message_about_a_flag_is_as_the_docs_say() {
    let flags = crate::config::Flags {
        interfaces: vec!["eth0".into()],
        ports: vec!["8000".into()],
        allow: vec!["10.0.0/8".into()],
        ..Default::default()
    };
    let message = from_flags(&LocalPorts::default(), &flags).unwrap_err().errors()[0].message.clone();
    assert!(DOCS.contains(&format!("`{message}`")), "{message}");
}
