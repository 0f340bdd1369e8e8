//! How a command fails: one sentence on stderr, and an exit status.

use std::process::ExitCode;

use crate::config;
use crate::control::ClientError;

/// Not found, as [`super::EXAMPLES`] promises it.
const NOT_FOUND: u8 = 3;

/// Prints why a command failed.
pub(super) fn report(error: &anyhow::Error) -> ExitCode {
    match (error.downcast_ref::<config::Report>(), error.downcast_ref::<ClientError>()) {
        // A report on a policy has its own form, with the places in the file.
        (Some(report), _) => eprintln!("{report}"),
        (_, Some(ClientError::BadPolicy(report))) => eprintln!("{report}"),
        _ => eprintln!("guard: {error:#}"),
    }
    match error.downcast_ref() {
        Some(ClientError::NotFound(_)) => ExitCode::from(NOT_FOUND),
        _ => ExitCode::FAILURE,
    }
}
