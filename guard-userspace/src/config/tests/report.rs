//! How all that is wrong with a policy is shown.

use super::{SERVICE, parse};
use crate::config::refuse_interface;

#[test]
fn all_errors_are_found_at_once_in_the_order_of_the_file() {
    let text = "[attach]\ninterfaces = [\"\"]\n[[service]]\nname = \"a b\"\nports = [0, 70000]\nallow = [\"10.0.5.1/24\", \"x\"]\nlimits = \"y\"\n";
    let report = parse(text, "policy.toml").unwrap_err();
    let lines: Vec<u32> = report.errors().iter().filter_map(|error| error.line).collect();
    assert_eq!(lines, [2, 4, 5, 5, 6, 6, 7], "{report}");
    assert!(report.to_string().ends_with("\n\n7 errors"), "{report}");
}

#[test]
fn a_report_shows_errors_before_warnings_and_not_without_end() {
    let denied: Vec<String> = (0..40).map(|index| format!("\"11.0.{index}.0/24\", \"x\"")).collect();
    let text = format!("{SERVICE}deny = [{}]\n", denied.join(", "));
    let report = parse(&text, "policy.toml").unwrap_err();
    assert_eq!((report.errors().len(), report.warnings().len()), (40, 12), "{report}");
    let shown = report.to_string();
    assert_eq!(shown.matches("error: ").count(), 20, "{shown}");
    assert!(shown.ends_with("\n\n40 errors, 12 warnings; 32 more are not shown"), "{shown}");
}

#[test]
fn an_excerpt_shows_the_line_with_a_caret() {
    let text = format!("{SERVICE}deny = [\"10.0.5.1/24\"]\n");
    let report = parse(&text, "/etc/guard/guard.toml").unwrap_err();
    let expected = "\
error: 10.0.5.1/24: host bits set
 --> /etc/guard/guard.toml:5:9
  |
5 | deny = [\"10.0.5.1/24\"]
  |         ^^^^^^^^^^^^^
  |
  = help: write 10.0.5.0/24 for the network, or 10.0.5.1/32 for the one address";
    let excerpt = report.errors()[0].render(&text, false);
    assert_eq!(excerpt, expected);
    let colored = report.render(true);
    assert!(colored.contains("\x1b["), "{colored}");
    let elsewhere = report.errors()[0].render("", false);
    let expected = "\
error: 10.0.5.1/24: host bits set
 --> /etc/guard/guard.toml:5:9
  = help: write 10.0.5.0/24 for the network, or 10.0.5.1/32 for the one address";
    assert_eq!(elsewhere, expected, "without the text of the file");
}

#[test]
fn an_interface_that_the_host_lacks_has_its_place() {
    let text = format!("# ü\n{SERVICE}[attach]\ninterfaces = [\"eth0\", \"ü\", \"eth7\"]\n");
    let report =
        refuse_interface(&text, "policy.toml", "eth7", "there is no interface \"eth7\"").unwrap_err();
    let shown = report.to_string();
    assert!(shown.contains("--> policy.toml:7:28\n"), "{shown}");
    assert_eq!(report.errors().len(), 1, "{shown}");
}
