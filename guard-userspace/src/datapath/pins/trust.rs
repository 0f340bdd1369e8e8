//! Whether the pins lie where no other user can have put or can change them.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::geteuid;

use super::{Pins, is_bpffs};
use crate::datapath::Error;

const WRITABLE_BY_OTHERS: u32 = 0o022;
/// In such a directory everyone may make entries, and nobody may remove or rename those of others.
const STICKY: u32 = 0o1000;

impl Pins {
    /// Refuses pins that another user than root and this one has made or could change, up to the file system that they are on.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn check_owner(&self) -> Result<(), Error> {
        let own = geteuid().as_raw();
        let mut device = None;
        for path in self.root.ancestors() {
            let data = match fs::symlink_metadata(path) {
                Ok(data) => data,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(source) => {
                    return Err(Error::File { action: "cannot look at", path: path.into(), source });
                }
            };
            if *device.get_or_insert(data.dev()) != data.dev() {
                break;
            }
            let is_root = path == self.root;
            if let Some(why) = objection(data.uid(), data.mode(), data.is_dir(), own, is_root) {
                return Err(Error::PinsNotOurs { path: path.into(), why });
            }
        }
        Ok(())
    }

    /// # Errors
    /// When the pins are not on a BPF file system, so nothing that lies there can be of guard.
    pub(super) fn require_bpffs(&self) -> Result<(), Error> {
        match is_bpffs(&self.root) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::NotBpfFs(self.root.clone())),
            Err(source) => Err(Error::File { action: "cannot look at", path: self.root.clone(), source }),
        }
    }
}

/// What speaks against a directory on the way to the pins.
fn objection(uid: u32, mode: u32, is_directory: bool, own: u32, is_root: bool) -> Option<String> {
    if !is_directory {
        return Some("it is no directory".into());
    }
    if uid != 0 && uid != own {
        return Some(format!("it belongs to the user {uid}"));
    }
    let is_sticky = mode & STICKY != 0 && !is_root;
    (mode & WRITABLE_BY_OTHERS != 0 && !is_sticky).then(|| "other users can write to it".into())
}

/// Whether a name in the directory of the pins is one that guard gives, and what lies in that directory may be removed.
pub(super) fn is_name_of_guard(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let is_kept = |prefix: &str| name.strip_prefix(prefix).is_some_and(is_plain);
    ["links", "tracker", super::LOCK].contains(&name)
        || ["abi-", "new-", "netns-", "asked-"].into_iter().any(is_kept)
}

/// Maps, programs and links have names of such characters.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_guard_may_have_made_the_way_to_the_pins() {
        let cases = [
            ("root's", (0, 0o700, true, 0, true), true),
            ("of an older build", (0, 0o755, true, 0, true), true),
            ("of the user that guard runs as", (7, 0o700, true, 7, true), true),
            ("of another user", (1000, 0o700, true, 0, true), false),
            ("open to all", (0, 0o777, true, 0, true), false),
            ("open to all, sticky", (0, 0o1777, true, 0, true), false),
            ("a file system that is open to all, sticky", (0, 0o1777, true, 0, false), true),
            ("a file system that is open to all", (0, 0o777, true, 0, false), false),
            ("a link to elsewhere", (0, 0o777, false, 0, true), false),
        ];
        for (name, (uid, mode, is_directory, own, is_root), is_fine) in cases {
            assert_eq!(objection(uid, mode, is_directory, own, is_root).is_none(), is_fine, "{name}");
        }
    }

    #[test]
    fn names_of_guard_are_known() {
        for (name, expected) in [
            ("links", true),
            ("lock", true),
            ("abi-6-1", true),
            ("new-6-2", true),
            ("asked-3-00ff", true),
            ("other", false),
            ("abi-", false),
            ("abi-../x", false),
            ("cilium", false),
        ] {
            assert_eq!(is_name_of_guard(Path::new(name)), expected && !name.contains('/'), "{name}");
        }
    }
}
