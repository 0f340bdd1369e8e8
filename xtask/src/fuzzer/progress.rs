//! What libFuzzer says, without most of it.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often a line of progress is shown.
const PERIOD: Duration = Duration::from_secs(5);

/// Runs a fuzzer; its words are shown as they are, its progress now and then.
pub(super) fn follow(command: &mut Command, name: &str) -> Result<ExitStatus> {
    let failed = || format!("Could not run the fuzzer of {name}.");
    let mut child = command.stderr(Stdio::piped()).spawn().with_context(failed)?;
    let mut shown = Instant::now();
    for line in child.stderr.take().map(BufReader::new).into_iter().flat_map(|lines| lines.split(b'\n')) {
        let line = line.with_context(failed)?;
        let line = String::from_utf8_lossy(&line);
        match Line::of(&line) {
            Line::Progress if shown.elapsed() < PERIOD => {}
            Line::Progress => {
                eprintln!("{name} {line}");
                shown = Instant::now();
            }
            Line::Noise => {}
            Line::Other => eprintln!("{line}"),
        }
    }
    child.wait().with_context(failed)
}

/// Words for a dictionary, many at the end, and the sanitizer that there is not.
const NOISE: [&str; 3] = ["######", "\"", "WARNING: Failed to find function \"__sanitizer"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// Runs, code that was reached, inputs that are kept, runs a second.
    Progress,
    /// Not worth a line.
    Noise,
    Other,
}

impl Line {
    fn of(line: &str) -> Self {
        let digit = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
        if line.strip_prefix('#').is_some_and(digit) {
            Self::Progress
        } else if NOISE.iter().any(|noise| line.starts_with(noise)) {
            Self::Noise
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_is_never_held_back() {
        let cases = [
            ("#5317\tREDUCE cov: 4921 ft: 18200 corp: 1222/1522Kb", Line::Progress),
            ("###### Recommended dictionary. ######", Line::Noise),
            ("\"\\000\\000\" # Uses: 15", Line::Noise),
            ("WARNING: Failed to find function \"__sanitizer_print_stack_trace\".", Line::Noise),
            ("thread '<unnamed>' panicked at tests/proof/src/property/rules.rs:38:5:", Line::Other),
            ("Test unit written to target/fuzz/crashes/decide/crash-0", Line::Other),
            ("", Line::Other),
        ];
        for (line, expected) in cases {
            assert_eq!(Line::of(line), expected, "{line}");
        }
    }
}
