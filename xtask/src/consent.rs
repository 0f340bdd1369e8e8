//! Asking before the system is changed.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Result, bail};

use crate::process;

/// Whether system packages and toolchains may be installed without a question.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Consent {
    /// Install what is missing without asking (without a terminal nothing is asked anyway)
    #[arg(long, short)]
    yes: bool,
}

impl Consent {
    /// Says what would be installed, and asks where there is somebody to ask.
    pub(crate) fn ask(self, what: &str) -> Result<()> {
        if self.yes || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            process::announce(&format!("Installing {what}"));
            return Ok(());
        }
        eprint!("==> Install {what}? [Y/n] ");
        io::stderr().flush()?;
        let mut reply = String::new();
        let length = io::stdin().lock().read_line(&mut reply)?;
        if length > 0 && agrees(&reply) {
            return Ok(());
        }
        bail!("Nothing was installed. Install {what} yourself, then run this again.")
    }
}

fn agrees(reply: &str) -> bool {
    matches!(reply.trim().to_ascii_lowercase().as_str(), "" | "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enter_and_yes_agree_and_everything_else_refuses() {
        for reply in ["\n", "y\n", "Y", "yes\n", " YES \n"] {
            assert!(agrees(reply), "{reply:?}");
        }
        for reply in ["n\n", "no", "ja", "q"] {
            assert!(!agrees(reply), "{reply:?}");
        }
    }
}
