//! Noticing that a file is another one.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A file, by what changes when it is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: Option<SystemTime>,
}

impl Fingerprint {
    /// Of a file that can be read: it is opened, since who may look at a file may not always read it.
    fn of(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let metadata = file.metadata()?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: metadata.modified().ok(),
        })
    }
}

/// A file that is looked at, rather than one whose events are listened to: links that are turned to another file, as Kubernetes does,
/// and network file systems make no events.
pub(super) struct WatchedFile {
    path: PathBuf,
    known: Option<Fingerprint>,
    /// None where the file could not be read.
    last: Option<Fingerprint>,
}

impl WatchedFile {
    pub(super) fn new(path: &Path) -> Self {
        let now = Fingerprint::of(path).ok();
        Self { path: path.into(), known: now, last: now }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the last look could read it.
    pub(super) const fn is_readable(&self) -> bool {
        self.last.is_some()
    }

    /// Whether the file is another one than at the last answer of yes. It is so only once it was the same at two looks in a row: a
    /// file that is being written is not read.
    ///
    /// # Errors
    /// Why the file cannot be read, at two looks in a row: editors and tools that replace it may leave a gap.
    pub(super) fn has_changed(&mut self) -> io::Result<bool> {
        let looked = Fingerprint::of(&self.path);
        let now = looked.as_ref().ok().copied();
        let settled = now == self.last;
        self.last = now;
        match looked {
            Ok(_) if settled && now != self.known => {
                self.known = now;
                Ok(true)
            }
            Err(error) if settled => Err(error),
            Ok(_) | Err(_) => Ok(false),
        }
    }

    /// The file counts as another one, once it can be read.
    pub(super) fn forget(&mut self) {
        self.known = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_has_changed_once_it_has_settled() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("guard.toml");
        fs::write(&path, "a").unwrap();
        let mut watched = WatchedFile::new(&path);
        assert!(!watched.has_changed().unwrap());
        fs::write(&path, "longer").unwrap();
        assert!(!watched.has_changed().unwrap(), "it may still be written");
        assert!(watched.has_changed().unwrap());
        assert!(!watched.has_changed().unwrap(), "only once");
        fs::remove_file(&path).unwrap();
        assert!(!watched.has_changed().unwrap(), "it may be replaced");
        assert_eq!(watched.has_changed().unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(&path, "again").unwrap();
        assert!(!watched.has_changed().unwrap());
        assert!(watched.has_changed().unwrap(), "replaced");
        watched.forget();
        assert!(watched.has_changed().unwrap(), "the same one, once more");
    }
}
