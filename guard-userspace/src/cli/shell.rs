//! What shells and man(1) know of the commands.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::output::print;
use super::{Cli, man_page};

/// Print the completions of a shell
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  guard completions bash > /etc/bash_completion.d/guard
  guard completions zsh > /usr/local/share/zsh/site-functions/_guard
  guard completions fish > ~/.config/fish/completions/guard.fish")]
pub(super) struct Completions {
    shell: Shell,
}

impl Completions {
    pub(super) fn execute(self) -> Result<ExitCode> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "guard", &mut text);
        print(&String::from_utf8(text).context("the completions are no text")?)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Print the manual page
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  guard man | man -l -
  guard man block | man -l -
  guard man > /usr/local/share/man/man8/guard.8")]
pub(super) struct Man {
    /// Of this command
    command: Option<String>,
}

impl Man {
    pub(super) fn execute(self) -> Result<ExitCode> {
        let mut all = Cli::command();
        all.build();
        let command = match &self.command {
            None => &all,
            Some(name) => match all.find_subcommand(name) {
                Some(command) => command,
                None => {
                    eprintln!("guard: there is no command {name:?}: see guard help");
                    return Ok(ExitCode::from(2));
                }
            },
        };
        let mut text = Vec::new();
        man_page::render(command, &mut text).context("cannot write the page")?;
        print(&String::from_utf8(text).context("the page is no text")?)?;
        Ok(ExitCode::SUCCESS)
    }
}
