//! Policies that are wrong in one way each: one error, with its place and what to do.

mod sections;
mod services;

use super::{SERVICE, parse};

/// What is wrong, the policy, line, column, and what message and help say.
type Case<'a> = (&'a str, &'a str, u32, u32, &'a str);

fn check(cases: &[Case<'_>]) {
    for (name, text, line, column, expected) in cases {
        let Err(report) = parse(text, "policy.toml") else { panic!("{name}: taken as right\n{text}") };
        let errors = report.errors();
        let [error] = errors.as_slice() else { panic!("{name}: {} errors\n{report}", errors.len()) };
        let said = error.to_string();
        assert!(said.contains(expected), "{name}: {said}");
        assert_eq!((error.line, error.column), (Some(*line), Some(*column)), "{name}: {said}");
        // The excerpt counts lines and columns by itself.
        let shown = report.to_string();
        assert!(shown.contains(&format!("--> policy.toml:{line}:{column}\n")), "{name}: {shown}");
    }
}

/// Cases that stand in the fifth line, after a right service.
fn check_after_service(cases: &[(&str, &str, u32, u32, &str)]) {
    for (name, text, line, column, expected) in cases {
        check(&[(name, &format!("{SERVICE}{text}"), *line, *column, expected)]);
    }
}

#[test]
fn syntax() {
    check(&[
        ("no value", "[attach]\nmode =\n", 2, 7, "string values must be quoted"),
        ("an address without quotes", "a = [10.0.0.0/8]\n", 1, 10, "put it in quotes: \"10.0.0.0/8\""),
        ("a word without quotes", "[log]\nlevel = info\n", 2, 9, "put it in quotes: \"info\""),
        ("an open string", "[log]\nlevel = \"info", 2, 14, "invalid basic string"),
        ("an open header", "[log\nlevel = \"info\"\n", 1, 5, "unclosed table"),
        ("a key twice", "[log]\nlevel = \"info\"\nlevel = \"warn\"\n", 3, 1, "duplicate key"),
        ("a table twice", "[log]\n[log]\n", 2, 2, "duplicate key"),
    ]);
}

#[test]
fn a_policy_in_another_language() {
    let yaml = "# guard\n\nattach:\n  interfaces: [eth0]\nservice:\n  - name: vllm\n    ports: [8000]\n    allow:\n    - 10.0.0.0/8\n";
    check(&[
        ("YAML", yaml, 3, 1, "this is YAML, and a policy is TOML"),
        ("YAML with a marker", "---\nattach: {}\n", 1, 1, "this is YAML"),
        ("a list of YAML", "- name: vllm\n  ports: [1]\n", 1, 1, "this is YAML"),
        ("JSON", "{\n  \"attach\": {\"interfaces\": [\"eth0\"]}\n}\n", 1, 1, "this is JSON"),
        ("TOML with a colon", "mode: = 1\n", 1, 5, ""),
    ]);
}

#[test]
fn keys() {
    check(&[
        ("nothing at all", "", 1, 1, "add a [[service]]"),
        ("no service", "[log]\nlevel = \"info\"\n", 1, 1, "add a [[service]]"),
        ("an empty list of services", "service = []\n", 1, 11, "add a [[service]]"),
        (
            "one table instead of several",
            "[service]\nname = \"a\"\n",
            1,
            1,
            "write [[service]] instead of [service]",
        ),
        ("a wrong name for services", "[[services]]\nname = \"a\"\n", 1, 3, "did you mean \"service\"?"),
    ]);
    check_after_service(&[
        ("unknown table", "[atach]\n", 5, 2, "did you mean \"attach\"?"),
        ("unknown key", "alow = []\n", 5, 1, "unknown key \"alow\" in [[service]] (did you mean \"allow\"?)"),
        ("a shorter form", "[trusted]\nprefix = []\n", 6, 1, "did you mean \"prefixes\"?"),
        ("a key of another table", "listen = 1\n", 5, 1, "\"listen\" belongs into [metrics]"),
        ("a key of no table", "zzzzzz = 1\n", 5, 1, "[[service]] knows name, ports, protocols"),
        ("an escape in a key", "\"\\u001b[2J\" = 1\n", 5, 1, "unknown key \"\\u{1b}[2J\""),
        ("a key of other letters", "\"äöü\" = 1 # ü\n[log]\n", 5, 1, "unknown key \"äöü\""),
        (
            "columns are characters",
            "[attach]\ninterfaces = [\"äöü\", \"/\"]\n",
            6,
            22,
            "no interface can have",
        ),
    ]);
}

#[test]
fn types() {
    check_after_service(&[
        ("attach", "attach = 1\n", 5, 1, "unknown key"),
        (
            "interfaces",
            "[attach]\ninterfaces = \"eth0\"\n",
            6,
            14,
            "expected an array of names such as [\"eth0\"], found a string",
        ),
        ("interface", "[attach]\ninterfaces = [1]\n", 6, 15, "found an integer"),
        (
            "mode",
            "[attach]\nmode = true\n",
            6,
            8,
            "expected one of \"auto\", \"native\", \"generic\", found a boolean",
        ),
        ("deny", "deny = \"10.0.0.0/8\"\n", 5, 8, "expected an array of prefixes"),
        ("a prefix", "deny = [8]\n", 5, 9, "expected a prefix such as \"10.0.0.0/8\", found an integer"),
        ("protocols", "protocols = \"tcp\"\n", 5, 13, "expected an array such as [\"tcp\"]"),
        ("service mode", "mode = 1.5\n", 5, 8, "found a float"),
        ("sources", "sources = [1]\n", 5, 12, "found an integer"),
        (
            "sources as a table",
            "[service.sources]\nprefix = \"10.0.0.0/8\"\n",
            5,
            1,
            "[[service.sources]] instead of [service.sources]",
        ),
        ("limits", "[limits]\nclient = 5\n", 6, 10, "expected a table of limits, found an integer"),
        ("limits without a name", "[limits]\npacket_burst = 5\n", 6, 1, "under a header [limits.NAME]"),
        ("kill", "[autoblock]\nkill = \"yes\"\n", 6, 8, "expected true or false, found a string"),
        (
            "duration",
            "[autoblock]\nduration = 600\n",
            6,
            12,
            "expected a duration such as \"10m\", found an integer",
        ),
        ("a table that is an array", "[[log]]\n", 5, 1, "expected a table [log], found an array"),
        ("a date", "limits = 2020-01-01\n", 5, 10, "found a date"),
    ]);
    let ports = "[[service]]\nname = \"a\"\nallow = [\"10.0.0.0/8\"]\nports = ";
    check(&[
        ("a single port", &format!("{ports}8000\n"), 4, 9, "expected an array of ports such as [8000"),
        ("a port that is an array", &format!("{ports}[[8000]]\n"), 4, 10, "found an array"),
    ]);
}
