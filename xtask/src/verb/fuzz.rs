//! `cargo xtask fuzz`: looks for what breaks a property.

use std::path::PathBuf;

use anyhow::Result;

use crate::consent::Consent;
use crate::fuzzer::{Fuzzer, Target};
use crate::workspace::Workspace;
use crate::{bpf, packages, toolchain};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask fuzz                        every target, ten minutes each
  cargo xtask fuzz decide --time 2h       one target, longer
  cargo xtask fuzz --time 1h --minimise   ... and put what was found into the committed corpus
  cargo xtask fuzz policy --replay FILE   one input, such as one that broke a property

The committed corpus is tests/fuzz/corpus, which `cargo xtask test` replays. What is found lies in target/fuzz.")]
pub(crate) struct Fuzz {
    /// What to fuzz [default: every target, one after the other]
    target: Option<Target>,
    /// How long, for each target: 90s, 10m, 2h
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = seconds)]
    time: u64,
    /// Afterwards, keep in the committed corpus the smallest inputs that reach all the code that is reached
    #[arg(long)]
    minimise: bool,
    /// Run this input alone, once
    #[arg(long, value_name = "FILE", requires = "target", conflicts_with_all = ["time", "minimise"])]
    replay: Option<PathBuf>,
    #[command(flatten)]
    consent: Consent,
}

impl Fuzz {
    pub(crate) fn execute(self) -> Result<()> {
        let workspace = Workspace::find()?;
        packages::ensure(&packages::FUZZ_TOOLS, "Fuzzing needs", self.consent)?;
        // The targets use guard's library, which embeds the eBPF program.
        let toolchain = toolchain::ensure(&workspace, self.consent)?;
        bpf::build(&workspace, &toolchain)?;
        for target in Target::ALL {
            if self.target.is_some_and(|only| only != target) {
                continue;
            }
            let fuzzer = Fuzzer::build(&workspace, target)?;
            if let Some(input) = &self.replay {
                return fuzzer.replay(input);
            }
            fuzzer.run(self.time)?;
            if self.minimise {
                fuzzer.minimise()?;
            }
        }
        Ok(())
    }
}

/// Reads `90s`, `10m` or `2h`.
fn seconds(text: &str) -> Result<u64, String> {
    let units = [('s', 1), ('m', 60), ('h', 3600)];
    let amount = units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(*unit)?, *seconds)));
    amount
        .and_then(|(number, unit)| number.parse::<u64>().ok()?.checked_mul(unit))
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| "write a time as 90s, 10m or 2h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_numbers_with_a_unit() {
        let cases = [
            ("90s", Some(90)),
            ("10m", Some(600)),
            ("2h", Some(7200)),
            ("0s", None),
            ("10", None),
            ("m", None),
            ("-1m", None),
            ("1.5h", None),
            ("9999999999999999999h", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(seconds(text).ok(), expected, "{text:?}");
        }
    }
}
