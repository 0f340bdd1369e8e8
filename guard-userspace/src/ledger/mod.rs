//! What outlives a boot: blocks, and what was done, by whom, and why. SQLite in one file.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `schema` | the tables, and the steps from one version of them to the next |
//! | `blocks` | the blocks |
//! | `events` | the audit log, bounded in number and age |
//!
//! The agent and a command that finds no agent may use the file at the same time: each waits for the other for a moment. Writes are on
//! the disk when they return (`synchronous = FULL`): they are rare, and a block that is told to be kept is kept.

mod blocks;
mod events;
mod schema;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

pub use events::{Action, Event, EventQuery};

/// How long one waits for another that writes.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("cannot open the ledger {path}: {source}; choose another place with GUARD_STATE")]
    Open { path: PathBuf, source: io::Error },
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
    /// Where a file that could not be read was put.
    moved_aside: Option<PathBuf>,
}

impl Ledger {
    /// Opens the file, makes it if there is none, and brings it to this build's version. One that is no ledger, or a broken one, is moved
    /// aside: guard goes on without what was in it.
    ///
    /// # Errors
    /// When the file cannot be read or made, or is of a newer build.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError::Open { path: path.into(), source };
        if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
            DirBuilder::new().recursive(true).mode(0o750).create(directory).map_err(failed)?;
        }
        // SQLite would make the file for everybody to read.
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(path);
        drop(file.map_err(failed)?);
        match Self::try_open(path) {
            Err(LedgerError::Sqlite(error)) if is_broken(&error) => {
                let aside = path.with_extension(format!("broken-{}", std::process::id()));
                fs::rename(path, &aside).map_err(failed)?;
                for companion in ["-wal", "-shm"] {
                    let mut name = path.as_os_str().to_owned();
                    name.push(companion);
                    // They belong to the file that was moved, and need not be there.
                    let _ = fs::remove_file(name);
                }
                Ok(Self { moved_aside: Some(aside), ..Self::try_open(path)? })
            }
            opened => opened,
        }
    }

    fn try_open(path: &Path) -> Result<Self, LedgerError> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(PATIENCE)?;
        // Readers do not wait for a writer.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let state: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if state != "ok" {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
                Some(state),
            )
            .into());
        }
        schema::prepare(&mut connection, path)?;
        Ok(Self { connection, moved_aside: None })
    }

    /// Where a file that could not be read was put when this one was opened.
    pub fn moved_aside(&self) -> Option<&Path> {
        self.moved_aside.as_deref()
    }
}

fn is_broken(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}
