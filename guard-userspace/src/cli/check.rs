use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::Global;
use super::output::{print, print_json};
use super::policy_source::default_file;
use crate::config::{self, Origin};

/// Check a policy file and print it in full, with its defaults; needs no privileges
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  guard check                       check /etc/guard/guard.toml
  guard check ./guard.toml          check another file
  guard check ./guard.toml --json   for scripts

The JSON document has ok, errors, warnings and policy.

Exit status: 0 the policy is right (warnings go to stderr), 1 it is not.")]
pub(super) struct Check {
    /// Policy file [default: /etc/guard/guard.toml]
    #[arg(env = "GUARD_CONFIG", value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Check {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let file = self.file.unwrap_or_else(default_file);
        if global.json { check_json(&file) } else { check_text(&file) }
    }
}

fn check_text(file: &std::path::Path) -> Result<ExitCode> {
    let source = Origin::of_file(file).read()?;
    for warning in &source.checked.warnings {
        eprintln!("{}", warning.render(&source.text, false));
    }
    print(&source.checked.policy.to_toml())?;
    Ok(ExitCode::SUCCESS)
}

fn check_json(file: &std::path::Path) -> Result<ExitCode> {
    match Origin::of_file(file).read() {
        Ok(source) => {
            let config::Checked { policy, warnings } = source.checked;
            print_json(&json!({ "ok": true, "errors": [], "warnings": warnings, "policy": policy }))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let Some(report) = error.downcast_ref::<config::Report>() else { return Err(error) };
            let (errors, warnings) = (report.errors(), report.warnings());
            print_json(&json!({ "ok": false, "errors": errors, "warnings": warnings, "policy": null }))?;
            Ok(ExitCode::FAILURE)
        }
    }
}
