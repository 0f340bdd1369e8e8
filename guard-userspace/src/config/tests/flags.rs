//! Policies from the command line.

use super::{SERVICE, good};
use crate::config::*;
use crate::local_ports::LocalPorts;

fn flags(interfaces: &[&str], ports: &[&str], allow: &[&str]) -> Flags {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Flags { interfaces: owned(interfaces), ports: owned(ports), allow: owned(allow), ..Flags::default() }
}

#[test]
fn flags_alone_guard_a_port() {
    let given = flags(&["eth0"], &["8000", "8100-8103"], &["10.0.0.0/8", "fd00:1::7"]);
    let Checked { policy, warnings } = from_flags(&LocalPorts::default(), &given).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(policy.attach.interfaces, ["eth0"]);
    let [service] = policy.services.as_slice() else { panic!("{policy:?}") };
    assert_eq!(service.name, "default");
    assert_eq!(service.ports, [8000..=8000, 8100..=8103]);
    assert_eq!(service.mode, ServiceMode::Enforce);
    let allowed: Vec<String> = service.allow.iter().map(Prefix::to_string).collect();
    assert_eq!(allowed, ["10.0.0.0/8", "fd00:1::7/128"]);
    assert!(service.allow.iter().all(|prefix| prefix.line.is_none()));
    assert_eq!(good(&policy.to_toml()).policy, policy);

    let monitored = Flags { monitor: true, metrics: Some("[::1]:1".into()), ..given };
    let policy = from_flags(&LocalPorts::default(), &monitored).unwrap().policy;
    assert_eq!(policy.services[0].mode, ServiceMode::Monitor);
    assert_eq!(policy.metrics.listen.to_string(), "[::1]:1");
}

#[test]
fn messages_name_the_flag() {
    let cases = [
        (
            flags(&["e"], &["8000"], &["10.0.0/8"]),
            "--allow 10.0.0/8: not an IP address or a prefix (an IPv4 address has four numbers: write 10.0.0.0/8)",
        ),
        (flags(&["e"], &["8000"], &["10.0.5.1/24"]), "--allow 10.0.5.1/24: host bits set (write 10.0.5.0/24"),
        (flags(&["e"], &["0"], &["10.0.0.0/8"]), "--port 0: there is no such port"),
        (flags(&["e"], &["x"], &["10.0.0.0/8"]), "--port x: not a port or a range of ports"),
        (flags(&["e/"], &["1"], &["10.0.0.0/8"]), "--interface e/: no interface can have this name"),
        (
            flags(&["e"], &[], &["10.0.0.0/8"]),
            "--port is missing: nothing would be guarded (add --port 8000)",
        ),
        (flags(&["e"], &["1"], &[]), "--allow is missing"),
        (
            Flags { metrics: Some("x".into()), ..flags(&["e"], &["1"], &["::/0"]) },
            "--metrics x: not an address to listen on",
        ),
        (flags(&["e"], &["1"], &["\u{1b}[2J"]), "--allow \\u{1b}[2J: not an IP address"),
    ];
    for (given, expected) in cases {
        for report in [
            from_flags(&LocalPorts::default(), &given).unwrap_err(),
            apply_flags(&LocalPorts::default(), good(SERVICE), &given).unwrap_err(),
        ] {
            let errors = report.errors();
            let [error] = errors.as_slice() else { panic!("{report}") };
            assert!(error.to_string().starts_with("command line: "), "{error}");
            assert!(error.to_string().contains(expected), "{error} instead of {expected}");
            assert_eq!((error.line, error.column), (None, None));
            let shown =
                format!("error: {}", expected.replacen(" (", "\n  = help: ", 1).trim_end_matches(')'));
            assert!(error.render("", false).starts_with(&shown), "{report} instead of {shown}");
        }
    }
}

#[test]
fn what_is_doubtful_names_the_flag_too() {
    let warnings = from_flags(&LocalPorts::default(), &flags(&[], &["1"], &["10.0.0.0/8"])).unwrap().warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].message.starts_with("without --interface"), "{}", warnings[0]);
    let warnings = from_flags(&LocalPorts::default(), &flags(&["e"], &["1"], &["10.0.0.0/8", "10.1.0.0/16"]))
        .unwrap()
        .warnings;
    assert_eq!(warnings.len(), 1);
    let expected = "--allow 10.1.0.0/16: is allowed already, within 10.0.0.0/8 (--allow 10.0.0.0/8)";
    assert!(warnings[0].message.starts_with(expected), "{}", warnings[0]);
}

#[test]
fn flags_win_over_the_file() {
    let text = format!(
        "{SERVICE}[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"b\"\nports = [1]\nallow = [\"::/0\"]\n"
    );
    let checked = good(&text);
    let file = checked.policy.clone();
    assert_eq!(apply_flags(&LocalPorts::default(), checked.clone(), &Flags::default()).unwrap(), checked);
    let apply = |given: &Flags| apply_flags(&LocalPorts::default(), checked.clone(), given).unwrap().policy;

    let policy = apply(&flags(&["eth1", "eth2"], &[], &[]));
    assert_eq!(policy.attach.interfaces, ["eth1", "eth2"]);
    assert_eq!(policy.services, file.services);

    let policy = apply(&Flags { monitor: true, ..Flags::default() });
    assert!(policy.services.iter().all(|service| service.mode == ServiceMode::Monitor));

    let policy = apply(&Flags { allow_missing: true, ..Flags::default() });
    assert!(policy.attach.allow_missing && !file.attach.allow_missing);
    assert_eq!(Attach { allow_missing: false, ..policy.attach }, file.attach);
    let policy = apply(&Flags { metrics: Some("127.0.0.1:7".into()), ..Flags::default() });
    assert_eq!(policy.metrics.listen.port(), 7);

    let policy = apply(&flags(&[], &["9000"], &["10.0.0.0/8"]));
    let [service] = policy.services.as_slice() else { panic!("{policy:?}") };
    assert_eq!((service.name.as_str(), &service.ports[..]), ("default", &[9000..=9000][..]));
    assert_eq!(policy.attach, file.attach);
}

#[test]
fn warnings_of_the_file_and_of_the_flags_are_both_kept() {
    let mut file = good(SERVICE);
    file.warnings =
        from_flags(&LocalPorts::default(), &flags(&[], &["1"], &["10.0.0.0/8"])).unwrap().warnings;
    let given = flags(&[], &["9000"], &["10.0.0.0/8", "10.1.0.0/16"]);
    let warnings = apply_flags(&LocalPorts::default(), file.clone(), &given).unwrap().warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert_eq!(warnings[0], file.warnings[0]);
    assert!(warnings[1].message.starts_with("--allow 10.1.0.0/16"), "{}", warnings[1]);
}
