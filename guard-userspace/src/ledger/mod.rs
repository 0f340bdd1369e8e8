//! What outlives a boot: blocks, and what was done, by whom, and why. SQLite in one file.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `schema` | the tables, and the steps from one version of them to the next |
//! | `blocks` | the blocks |
//! | `events` | the audit log, bounded in number and age |
//! | `offenders` | sources that were blocked automatically, and how often |
//! | `clock` | what the times are by |
//! | `change` | what is written, as one transaction |
//!
//! The agent and a command that finds no agent may use the file at the same time: each waits for the other for a moment. Writes are on
//! the disk when they return (`synchronous = FULL`): they are rare, and a block that is told to be kept is kept.

mod blocks;
mod change;
mod clock;
mod events;
mod offenders;
mod schema;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

pub use change::Change;
pub use events::{Action, Event, EventQuery};

use crate::blocks::{Clock, is_synchronized, now};

/// How long one waits for another that writes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes to which the log beside the file is cut back after a large change.
const JOURNAL: u32 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("cannot open the ledger {path}: {source}; choose another place with GUARD_STATE")]
    Open { path: PathBuf, source: io::Error },
    #[error(
        "cannot look at the ledger {path}: {source}; guard writes to the file that it has open, and looks again"
    )]
    Look { path: PathBuf, source: io::Error },
    #[error("the ledger: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error(
        "the ledger {path} is of a newer guard (version {found}, this build knows {known}): use that build"
    )]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("the ledger holds what it cannot: {0}")]
    Content(String),
}

/// The open file.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
    path: PathBuf,
    /// Device and number of the file.
    file: (u64, u64),
    /// Where a file that could not be read was put.
    moved_aside: Option<PathBuf>,
    /// Whether the time of day can be believed.
    is_synchronized: fn() -> bool,
}

impl Ledger {
    /// Opens the file, makes it if there is none, and brings it to this build's version. One that is no ledger, or a broken one, is moved
    /// aside: guard goes on without what was in it.
    ///
    /// # Errors
    /// When the file cannot be read or made, or is of a newer build.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError::Open { path: path.into(), source };
        // One that is there is no error.
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o750).create(directory).map_err(failed)?;
        }
        match Self::try_open(path) {
            Err(error) if error.is_broken() => {
                let aside = move_aside(path).map_err(failed)?;
                Ok(Self { moved_aside: Some(aside), ..Self::try_open(path)? })
            }
            opened => opened,
        }
    }

    fn try_open(path: &Path) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError::Open { path: path.into(), source };
        // SQLite would make the file for everybody to read.
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(path);
        let file = identity(&file.and_then(|file| file.metadata()).map_err(failed)?);
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(PATIENCE)?;
        // Readers do not wait for a writer.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "journal_size_limit", JOURNAL)?;
        let state: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if state != "ok" {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
                Some(state),
            )
            .into());
        }
        schema::prepare(&mut connection, path)?;
        Ok(Self { connection, path: path.into(), file, moved_aside: None, is_synchronized })
    }

    /// Where a file that could not be read was put when this one was opened.
    pub fn moved_aside(&self) -> Option<&Path> {
        self.moved_aside.as_deref()
    }

    /// Whether the file is still the one at its path: another program may have removed it.
    ///
    /// # Errors
    /// When the path cannot be looked at. Then the open file may well be the right one.
    pub fn is_in_place(&self) -> Result<bool, LedgerError> {
        match fs::metadata(&self.path) {
            Ok(file) => Ok(identity(&file) == self.file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(LedgerError::Look { path: self.path.clone(), source }),
        }
    }

    /// Whether the times in the file are of another boot, or of before the time of day was set or synchronized.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn is_off(&self, clock: &Clock) -> Result<bool, LedgerError> {
        clock::is_off(&self.connection, clock, (self.is_synchronized)())
    }

    /// Whether the file goes by the last time that it knew, since the time of day of this boot is not synchronized yet.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn is_in_doubt(&self, clock: &Clock) -> Result<bool, LedgerError> {
        clock::is_in_doubt(&self.connection, clock)
    }
}

fn identity(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Puts a file aside, with its log: who wants to rescue something needs both. Returns where it is now.
fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = path.with_extension(format!("broken-{}", now()));
    fs::rename(path, &aside)?;
    for companion in ["-wal", "-shm"] {
        let with = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(companion);
            PathBuf::from(name)
        };
        match fs::rename(with(path), with(&aside)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(aside)
}

impl LedgerError {
    /// Whether the file is no ledger, or one that cannot be read any longer.
    pub fn is_broken(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
    }

    /// Whether the same file may well be of use again: there is no room, or somebody else writes.
    pub fn may_pass(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
    }

    fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code(),
            Self::Open { .. } | Self::Look { .. } | Self::Newer { .. } | Self::Content(_) => None,
        }
    }
}
