//! Noticing that a file is another one.

use std::fs::metadata;
use std::os::unix::fs::MetadataExt;
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
    /// None while there is no file: editors and tools that replace it may leave a gap.
    fn of(path: &Path) -> Option<Self> {
        let metadata = metadata(path).ok()?;
        Some(Self {
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
    last: Option<Fingerprint>,
}

impl WatchedFile {
    pub(super) fn new(path: &Path) -> Self {
        let now = Fingerprint::of(path);
        Self { path: path.into(), known: now, last: now }
    }

    /// Whether the file is another one than at the last answer of yes. It is so only once it was the same at two looks in a row: a
    /// file that is being written is not read.
    pub(super) fn has_changed(&mut self) -> bool {
        let now = Fingerprint::of(&self.path);
        let settled = now == self.last;
        self.last = now;
        let changed = settled && now.is_some() && now != self.known;
        if changed {
            self.known = now;
        }
        changed
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
        assert!(!watched.has_changed());
        fs::write(&path, "longer").unwrap();
        assert!(!watched.has_changed(), "it may still be written");
        assert!(watched.has_changed());
        assert!(!watched.has_changed(), "only once");
        fs::remove_file(&path).unwrap();
        assert!(!watched.has_changed() && !watched.has_changed(), "a file that is gone is not a new policy");
        fs::write(&path, "again").unwrap();
        assert!(!watched.has_changed());
        assert!(watched.has_changed(), "replaced");
    }
}
