//! The policy file of the agent: whether it has changed, and whether it can be read.

use std::io::{self, ErrorKind};
use std::path::Path;

use super::Engine;
use super::problems::Topic;
use super::watched_file::WatchedFile;

/// How many looks until a policy is read again that could not be made live though it is right; each time twice as many, up to the second.
const LOOKS_TO_NEXT_TRY: (u64, u64) = (10, 300);

pub(super) struct PolicyFile {
    file: WatchedFile,
    /// Whether its change is a reload.
    watch: bool,
    /// Looks from one try to the next, and until the next.
    pause: u64,
    left: Option<u64>,
}

impl PolicyFile {
    pub(super) fn new(file: &Path, watch: bool) -> Self {
        Self { file: WatchedFile::new(file), watch, pause: LOOKS_TO_NEXT_TRY.0, left: None }
    }

    /// The file counts as changed: the agent does not guard by what is in it.
    pub(super) fn forget(&mut self) {
        self.file.forget();
    }

    /// Whether the file is to be read; that it cannot be is a problem.
    pub(super) fn look(&mut self, engine: &Engine) -> bool {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.left = None;
                self.file.forget();
            }
        }
        match self.file.has_changed() {
            Ok(changed) => {
                if self.file.is_readable() {
                    engine.problems.clear(Topic::PolicyFile);
                }
                changed && self.watch
            }
            Err(error) => {
                engine.problems.set(Topic::PolicyFile, unreadable(self.file.path(), &error));
                false
            }
        }
    }

    pub(super) fn note_try(&mut self, is_to_be_repeated: bool) {
        if is_to_be_repeated {
            self.left = Some(self.pause);
            self.pause = (2 * self.pause).min(LOOKS_TO_NEXT_TRY.1);
        } else {
            self.pause = LOOKS_TO_NEXT_TRY.0;
        }
    }
}

/// That the policy cannot be read, and what to do.
pub(super) fn unreadable(file: &Path, error: &io::Error) -> String {
    let advice = if error.kind() == ErrorKind::NotFound {
        "put it back".into()
    } else if error.kind() == ErrorKind::PermissionDenied {
        format!(
            "the agent (user {}) has given up the right to read what others own: make the file and its directories readable for that user, or keep \
             it in /etc/guard",
            nix::unistd::geteuid()
        )
    } else {
        "mend what hinders it".into()
    };
    format!(
        "cannot read the policy {} any more: {error}; the live policy goes on, and it stays until the file can be read; {advice}",
        file.display()
    )
}
