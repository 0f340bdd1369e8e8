//! Running the few things that need root, as root.

use std::ffi::OsStr;
use std::process::Command;
use std::sync::Once;

use anyhow::{Result, bail};

use crate::process;

/// Whether this process has the rights of root already.
pub(crate) fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").ok().and_then(|status| effective_user(&status)) == Some(0)
}

/// A command that runs as root: as it is for root, through sudo for others, which is said once.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    let prefix = prefix(&[])?;
    let Some((first, rest)) = prefix.split_first() else { return Ok(Command::new(program)) };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    Ok(command)
}

/// The words to put before a program so that it runs as root with these variables set.
///
/// Empty for root, whose children inherit the variables. `sudo env NAME=VALUE` rather than
/// `sudo -E`, which many sudoers files refuse.
pub(crate) fn prefix(variables: &[(&str, &str)]) -> Result<Vec<String>> {
    if is_root() {
        return Ok(Vec::new());
    }
    if process::find_program("sudo").is_none() {
        bail!("This step needs root, and there is no sudo here: run the same command as root.");
    }
    static SAID: Once = Once::new();
    SAID.call_once(|| process::announce("Not root: what needs root runs through sudo"));
    Ok(sudo_with(variables))
}

fn sudo_with(variables: &[(&str, &str)]) -> Vec<String> {
    let mut words = vec!["sudo".to_owned()];
    if !variables.is_empty() {
        words.push("env".to_owned());
        words.extend(variables.iter().map(|(name, value)| format!("{name}={value}")));
    }
    words
}

/// The second figure of the `Uid:` line: real, effective, saved, file system.
fn effective_user(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_user_decides() {
        assert_eq!(effective_user("Name:\tx\nUid:\t1000\t0\t1000\t1000\n"), Some(0));
        assert_eq!(effective_user("Uid:\t0\t1000\t0\t0\n"), Some(1000));
        assert_eq!(effective_user("Name:\tx\n"), None);
    }

    #[test]
    fn sudo_passes_variables_on_its_command_line() {
        assert_eq!(sudo_with(&[]), ["sudo"]);
        assert_eq!(sudo_with(&[("GUARD_BIN", "/a b/guard")]), ["sudo", "env", "GUARD_BIN=/a b/guard"]);
    }
}
