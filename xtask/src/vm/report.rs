//! What the console says of a run, line by line: see `init.sh`.

use std::collections::VecDeque;

use anyhow::{Result, bail, ensure};

const MARK: &str = "guard-vm: ";
/// Made by `init.sh` itself.
const SET_UP: &str = "set-up";
/// Lines to show of a failure.
const SHOWN: usize = 60;

/// What was said so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    kernel: Option<String>,
    ended: Vec<(String, String)>,
    done: bool,
    /// The last lines of the step that runs, or of the one that failed first.
    recent: VecDeque<String>,
}

/// What a line of the report says of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    Began,
    Ended { step: String, passed: bool },
}

impl Report {
    /// Takes a line of the console.
    pub(crate) fn read(&mut self, line: &str) -> Option<News> {
        let Some(marked) = line.trim_end().strip_prefix(MARK) else {
            self.keep(line);
            return None;
        };
        let words: Vec<_> = marked.split(' ').collect();
        match words[..] {
            ["kernel", release] => self.kernel = Some(release.into()),
            ["begin", _] => {
                if !self.has_failed() {
                    self.recent.clear();
                }
                return Some(News::Began);
            }
            ["end", step, status] => {
                self.ended.push((step.into(), status.into()));
                return Some(News::Ended { step: step.into(), passed: status == "0" });
            }
            ["done"] => self.done = true,
            _ => {}
        }
        None
    }

    fn keep(&mut self, line: &str) {
        if self.has_failed() {
            return;
        }
        if self.recent.len() == SHOWN {
            self.recent.pop_front();
        }
        self.recent.push_back(line.trim_end().to_owned());
    }

    fn has_failed(&self) -> bool {
        self.ended.iter().any(|(_, status)| status != "0")
    }

    /// The words of the step that failed, or the last ones.
    pub(crate) fn said(&self) -> String {
        self.recent.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// Whether the right kernel ran, and all steps on it and to their end.
    pub(crate) fn judge(&self, release: &str, steps: &[&str]) -> Result<()> {
        let Some(kernel) = &self.kernel else { bail!("The kernel did not start.") };
        ensure!(kernel == release, "The kernel that ran is {kernel}, not {release}.");
        for step in std::iter::once(&SET_UP).chain(steps) {
            match self.ended.iter().find(|(name, _)| name == step) {
                Some((_, status)) if status == "0" => {}
                Some((_, status)) => bail!("{step} failed with status {status}."),
                None => bail!("The machine ended before {step} did."),
            }
        }
        ensure!(self.done, "The machine ended before its time.");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: [&str; 8] = [
        "guard-vm: kernel 6.1.0",
        "guard-vm: begin set-up",
        "guard-vm: end set-up 0",
        "noise: guard-vm: end frames 7",
        "guard-vm: begin frames",
        "test result: ok",
        "guard-vm: end frames 0\r",
        "guard-vm: done",
    ];

    fn judge(lines: &[&str], release: &str, steps: &[&str]) -> Result<(), String> {
        let mut report = Report::default();
        for line in lines {
            report.read(line);
        }
        report.judge(release, steps).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_report_passes_and_each_gap_fails() {
        assert_eq!(judge(&WHOLE, "6.1.0", &["frames"]), Ok(()));
        for gap in [0, 2, 6, 7] {
            let mut lines = WHOLE.to_vec();
            lines.remove(gap);
            assert!(judge(&lines, "6.1.0", &["frames"]).is_err(), "without line {gap}");
        }
    }

    #[test]
    fn the_words_of_the_step_that_failed_first_are_kept() {
        let mut report = Report::default();
        for line in
            ["guard-vm: begin a", "one", "guard-vm: end a 0", "guard-vm: begin b", "two", "guard-vm: end b 1"]
        {
            report.read(line);
        }
        for line in ["guard-vm: begin c", "three", "guard-vm: end c 1"] {
            report.read(line);
        }
        assert_eq!(report.said(), "two");
    }

    #[test]
    fn what_is_not_as_expected_is_named() {
        let cases: [(&[&str], &str); 3] = [
            (&["frames", "limiter"], "The machine ended before limiter did."),
            (&["panics"], "panics failed with status 101."),
            (&[], "The kernel that ran is 6.1.0, not 6.2.0."),
        ];
        let mut lines = WHOLE.to_vec();
        lines.push("guard-vm: end panics 101");
        for (steps, expected) in cases {
            let release = if steps.is_empty() { "6.2.0" } else { "6.1.0" };
            assert_eq!(judge(&lines, release, steps), Err(expected.to_owned()));
        }
    }
}
