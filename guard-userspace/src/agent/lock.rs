//! One agent for one control socket.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};

/// Another agent has the lock.
#[derive(Debug, thiserror::Error)]
#[error(
    "another guard runs with the control socket {}: stop it first, or give this one paths of its own with GUARD_SOCKET and GUARD_PIN_PATH",
    .0.display()
)]
pub(super) struct Taken(PathBuf);

/// Held for as long as the agent runs; the kernel lets go of it however the agent ends.
///
/// # Errors
/// [`Taken`], or why the lock cannot be had.
pub(super) fn acquire(socket: &Path) -> Result<Flock<File>> {
    // One that is there is no error.
    if let Some(directory) = socket.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(directory).with_context(|| {
            format!("cannot create the directory of the control socket {}", socket.display())
        })?;
    }
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == nix::errno::Errno::EWOULDBLOCK {
            return Taken(socket.into()).into();
        }
        anyhow!("cannot lock {}: {errno}", path.display())
    })
}
