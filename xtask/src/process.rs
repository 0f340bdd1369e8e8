//! Running other programs: seen by the user, or only for their answer.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Says what happens next, on stderr, like cargo does.
pub(crate) fn announce(message: &str) {
    eprintln!("==> {message}");
}

/// Runs a program with its output shown; anything but exit 0 is an error that names the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command.status().with_context(|| format!("Could not start `{shown}`."))?;
    if status.success() {
        return Ok(());
    }
    bail!("`{shown}` failed: {status}. Its own output is above.")
}

/// Runs a program for what it prints on stdout.
pub(crate) fn answer(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("Could not start `{shown}`."))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed: {}: {}", output.status, said.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` did not print text."))
}

/// Where a program lies, in PATH or where administrators' tools are kept.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let administrators = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(administrators)
        .map(|directory| directory.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_program_is_named_with_its_status() {
        let error = run(Command::new("sh").args(["-c", "exit 7"])).unwrap_err().to_string();
        assert!(error.contains("`sh -c exit 7` failed") && error.contains('7'), "{error}");
    }

    #[test]
    fn an_answer_is_stdout_and_a_failure_carries_stderr() {
        assert_eq!(answer(Command::new("sh").args(["-c", "echo yes; echo no >&2"])).unwrap(), "yes\n");
        let error = answer(Command::new("sh").args(["-c", "echo why >&2; exit 1"])).unwrap_err();
        assert!(error.to_string().ends_with("why"), "{error}");
    }

    #[test]
    fn programs_are_found_by_name_only_when_they_can_run() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-of-guard"), None);
        assert!(!is_executable(Path::new("/etc/passwd")));
    }
}
