//! How a command fails: one sentence on stderr, and an exit status.

use std::process::ExitCode;

use crate::config;

/// Prints why a command failed.
pub(super) fn report(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<config::Report>() {
        // A report on a policy has its own form, with the places in the file.
        Some(report) => eprintln!("{report}"),
        None => eprintln!("guard: {error:#}"),
    }
    ExitCode::FAILURE
}
