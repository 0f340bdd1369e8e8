//! How a command fails: one sentence on stderr, and an exit status.

use std::process::ExitCode;

use crate::config;
use crate::control::ClientError;
use crate::plain::plain_lines;

/// Not found, as [`super::EXAMPLES`] promises it.
const NOT_FOUND: u8 = 3;

/// Prints why a command failed.
pub(super) fn report(error: &anyhow::Error) -> ExitCode {
    match (error.downcast_ref::<config::Report>(), error.downcast_ref::<ClientError>()) {
        // A report on a policy has its own form, with the places in the file.
        (Some(report), _) => eprintln!("{}", plain_lines(&report.to_string())),
        (_, Some(ClientError::BadPolicy(report))) => eprintln!("{}", plain_lines(&report.to_string())),
        _ => eprintln!("guard: {}", plain_lines(&format!("{error:#}"))),
    }
    match error.downcast_ref() {
        Some(ClientError::NotFound(_)) => ExitCode::from(NOT_FOUND),
        _ => ExitCode::FAILURE,
    }
}
