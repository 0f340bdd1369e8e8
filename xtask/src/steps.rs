//! A run of named steps, with the time that each took.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process;

/// What was run so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    name: &'static str,
    took: Duration,
    passed: bool,
}

impl Steps {
    /// Announces and runs one step; its failure names it.
    pub(crate) fn run<T>(&mut self, name: &'static str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        process::announce(&format!("[{name}]"));
        let start = Instant::now();
        let result = step();
        let took = start.elapsed();
        let passed = result.is_ok();
        let verdict = if passed { "done in" } else { "FAILED after" };
        process::announce(&format!("[{name}] {verdict} {:.1} s", took.as_secs_f64()));
        self.done.push(Step { name, took, passed });
        result.with_context(|| format!("The step `{name}` failed."))
    }
}

/// One line a step, then the total.
impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.done.iter().map(|step| step.name.len()).max().unwrap_or(0).max("total".len());
        for Step { name, took, passed } in &self.done {
            let verdict = if *passed { "ok" } else { "FAILED" };
            writeln!(f, "  {name:width$}  {:7.1} s  {verdict}", took.as_secs_f64())?;
        }
        let total: Duration = self.done.iter().map(|step| step.took).sum();
        writeln!(f, "  {:width$}  {:7.1} s", "total", total.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_failure_names_its_step_and_stays_in_the_table() {
        let mut steps = Steps::default();
        assert_eq!(steps.run("format", || Ok(7)).unwrap(), 7);
        let error = steps.run("lint", || Err::<(), _>(anyhow!("a warning"))).unwrap_err();
        assert_eq!(format!("{error:#}"), "The step `lint` failed.: a warning");
        let table = steps.to_string();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        assert!(lines[0].contains("format") && lines[0].ends_with("ok"), "{table}");
        assert!(lines[1].contains("lint") && lines[1].ends_with("FAILED"), "{table}");
        assert!(lines[2].contains("total"), "{table}");
    }
}
