//! The last policies that were live, kept beside the ledger: for a start whose file cannot be used, and for one in the midst of
//! `guard apply --confirm`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::blocks::Clock;
use crate::config::{Flags, Origin, Source};

/// A policy as the agent read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptPolicy {
    /// Its number in the kernel, in the boot of [`Kept::boot`].
    pub(super) generation: u64,
    /// The file that the text is of; none: the flags were all of it.
    pub(super) file: Option<PathBuf>,
    pub(super) text: String,
    /// Seconds since the epoch.
    pub(super) loaded_at: u64,
}

/// What is in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The policy file that the agent was started with, and the flags.
    pub(super) origin: Option<PathBuf>,
    pub(super) flags: Flags,
    /// What the kernel calls the boot.
    pub(super) boot: String,
    /// The one that lasts.
    pub(super) live: KeptPolicy,
    /// The one that awaits its confirmation.
    pub(super) pending: Option<KeptPolicy>,
}

/// Where it lies. `state` is the ledger.
pub(super) fn path(state: &Path) -> PathBuf {
    state.with_extension("policy.json")
}

/// The policy to start with when `origin` cannot be used: the last one that was live under the same file. None if there is none.
///
/// # Errors
/// When the copy is there, or may be, and cannot be read.
pub fn last_policy(state: &Path, origin: &Origin) -> Result<Option<Source>> {
    let Some(kept) = Kept::read(state)?.filter(|kept| kept.origin == origin.file) else { return Ok(None) };
    let unusable = "this build cannot use the copy of the last policy that was live";
    kept.live.source(&origin.flags).context(unusable).map(Some)
}

impl Kept {
    /// What is kept; none where nothing is.
    ///
    /// # Errors
    /// When the copy is there, or may be, and cannot be read.
    pub(super) fn read(state: &Path) -> Result<Option<Self>> {
        let path = path(state);
        let failed = || format!("cannot read the copy of the last policy that was live, {}", path.display());
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).with_context(failed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(failed),
        }
    }

    /// Whether the copy is there, or may be: a look that fails says nothing of it.
    pub(super) fn is_there(state: &Path) -> bool {
        path(state).try_exists().unwrap_or(true)
    }

    /// The policy of this boot that has a generation.
    pub(super) fn of_generation(&self, generation: u64) -> Option<&KeptPolicy> {
        let is_of_this_boot = self.boot == Clock::now().boot;
        let policies = std::iter::once(&self.live).chain(&self.pending);
        policies.into_iter().find(|policy| is_of_this_boot && policy.generation == generation)
    }

    /// Writes it by a rename, so that there is a whole file at any time. A policy says whom the host trusts: it is for the owner alone.
    ///
    /// # Errors
    /// With the file, and why not.
    pub(super) fn write(&self, state: &Path) -> Result<()> {
        let path = path(state);
        let next = path.with_extension("json-next");
        let text = serde_json::to_vec(self).context("cannot write the policy as JSON")?;
        replace(&path, &next, &text).with_context(|| {
            format!(
                "cannot keep a copy of the live policy in {}; choose another place with GUARD_STATE",
                path.display()
            )
        })
    }
}

impl KeptPolicy {
    /// Reads it again, under the flags of this start.
    ///
    /// # Errors
    /// When this build finds an error in it.
    pub(super) fn source(&self, flags: &Flags) -> Result<Source> {
        let origin = Origin { file: self.file.clone(), flags: flags.clone() };
        match &self.file {
            Some(file) => origin.parse(self.text.clone(), file),
            None => origin.read(),
        }
    }
}

fn replace(path: &Path, next: &Path, text: &[u8]) -> io::Result<()> {
    match fs::remove_file(next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(next)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(next, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const TEXT: &str = "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = [\"10.0.0.0/8\"]\n";

    fn kept(text: &str) -> Kept {
        let live = KeptPolicy {
            generation: 7,
            file: Some("/etc/guard/guard.toml".into()),
            text: text.into(),
            loaded_at: 0,
        };
        let pending = Some(KeptPolicy { generation: 8, ..live.clone() });
        let flags = Flags::default();
        let origin = Some("/etc/guard/guard.toml".into());
        Kept { origin, flags, boot: Clock::now().boot, live, pending }
    }

    #[test]
    fn the_last_policy_is_found_again_by_its_file_and_for_the_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("guard.db");
        let origin = Origin::of_file("/etc/guard/guard.toml");
        assert!(last_policy(&state, &origin).unwrap().is_none());
        for text in [TEXT, TEXT] {
            kept(text).write(&state).unwrap();
        }
        assert_eq!(fs::metadata(path(&state)).unwrap().permissions().mode() & 0o777, 0o600);
        let source = last_policy(&state, &origin).unwrap().unwrap();
        assert_eq!(source.checked.policy.services[0].name, "web");
        assert!(last_policy(&state, &Origin::of_file("/etc/other.toml")).unwrap().is_none());
        fs::write(path(&state), "broken").unwrap();
        let error = last_policy(&state, &origin).unwrap_err();
        assert!(format!("{error:#}").contains("guard.policy.json"), "it is not taken for absent: {error:#}");
    }

    #[test]
    fn a_policy_of_another_boot_has_another_generation() {
        let kept = kept(TEXT);
        assert_eq!(kept.of_generation(8), kept.pending.as_ref());
        assert_eq!(kept.of_generation(7), Some(&kept.live));
        assert_eq!(kept.of_generation(9), None);
        assert_eq!(Kept { boot: "another".into(), ..kept }.of_generation(8), None);
    }
}
