mod docs;
mod errors;
mod flags;
mod json;
mod random;
mod report;
mod scale;
mod values;
mod warnings;

use super::{Checked, parse};

/// A service without anything doubtful; four lines.
const SERVICE: &str = "[[service]]\nname = \"a\"\nports = [8000]\nallow = [\"10.0.0.0/8\"]\n";

/// Interfaces, so that nothing warns of the default; two lines.
const ATTACH: &str = "[attach]\ninterfaces = [\"eth0\"]\n";

fn good(text: &str) -> Checked {
    match parse(text, "policy.toml") {
        Ok(checked) => checked,
        Err(report) => panic!("{report}\n{text}"),
    }
}
