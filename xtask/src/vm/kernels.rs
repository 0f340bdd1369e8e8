//! Debian's kernels, from packages that are unpacked and not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// A kernel that guard is tried on.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What it is called on the command line.
    pub(crate) name: &'static str,
    /// What its package's version begins with; the newest of those is taken.
    prefix: &'static str,
    /// Whether guard runs on it, or says that it does not.
    pub(crate) supported: bool,
}

pub(crate) const KERNELS: [Kernel; 4] = [
    Kernel { name: "5.10", prefix: "5.10.", supported: false },
    Kernel { name: "6.1", prefix: "6.1.", supported: true },
    Kernel { name: "6.12", prefix: "6.12.", supported: true },
    Kernel { name: "newest", prefix: "", supported: true },
];

/// Debian's releases that have them, with the archive that this machine uses already.
const SUITES: [&str; 5] = ["bullseye", "bookworm", "bookworm-backports", "trixie-backports", "sid"];
/// What the names of a kernel's packages begin with; from 7.0 on the kernel and its modules have packages of their own.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];
const ARCHITECTURE: &str = "-cloud-amd64";

/// A kernel, unpacked.
pub(crate) struct Unpacked {
    pub(crate) image: PathBuf,
    /// With the modules of this kernel below.
    pub(crate) root: PathBuf,
    pub(crate) version: String,
}

/// apt with sources and lists of its own: those of the machine stay as they are.
pub(crate) struct Archive {
    directory: PathBuf,
}

impl Archive {
    /// Reads the lists of packages, anew if they are not there yet.
    pub(crate) fn open(directory: PathBuf) -> Result<Self> {
        let archive = Self { directory };
        let sources = archive.directory.join("sources.list");
        if sources.exists() && !archive.versions()?.is_empty() {
            return Ok(archive);
        }
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(archive.directory.join(part))
                .context("Could not make a directory for apt.")?;
        }
        let address = debian_archive().context(
            "Kernels come from Debian's archive, and apt on this machine is not set up for one: run this on Debian.",
        )?;
        let lines = SUITES.map(|suite| {
            format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {address} {suite} main\n")
        });
        fs::write(&sources, lines.concat()).context("Could not write apt's sources.")?;
        process::announce("Reading Debian's lists of kernels");
        process::run(archive.apt("apt-get").args(["--quiet=2", "update"]))?;
        Ok(archive)
    }

    /// Fetches and unpacks a kernel, unless that was done before.
    pub(crate) fn unpack(&self, kernel: &Kernel) -> Result<Unpacked> {
        let versions = self.versions()?;
        let fits = versions.iter().filter(|version| version.starts_with(kernel.prefix));
        let Some(version) = fits.max_by_key(|version| numbers(version)) else {
            bail!(
                "Debian's archive has no kernel {} any longer: take it out of xtask/src/vm/kernels.rs.",
                kernel.name
            );
        };
        let root = self.directory.join(version);
        if image_in(&root).is_none() {
            process::announce(&format!("Fetching Linux {version}"));
            let packages = self.directory.join("packages");
            fs::create_dir_all(&packages).context("Could not make a directory for packages.")?;
            for part in PARTS {
                self.fetch(&format!("{part}{version}{ARCHITECTURE}"), &packages, &root)?;
            }
        }
        let image =
            image_in(&root).with_context(|| format!("There is no kernel in the packages of {version}."))?;
        Ok(Unpacked { image, root, version: version.clone() })
    }

    /// Fetches and unpacks a package, if there is one of this name.
    fn fetch(&self, package: &str, packages: &Path, root: &Path) -> Result<()> {
        if !process::answer(self.apt("apt-cache").args(["pkgnames", package]))?
            .lines()
            .any(|name| name == package)
        {
            return Ok(());
        }
        process::run(self.apt("apt-get").args(["--quiet=2", "download", package]).current_dir(packages))?;
        let file = the_package(packages, package)?;
        process::run(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(root))?;
        fs::remove_file(&file).context("Could not remove a package that was unpacked.")
    }

    /// The versions that there are, without the word for the kind of machine.
    fn versions(&self) -> Result<Vec<String>> {
        let names = process::answer(self.apt("apt-cache").args(["pkgnames", "linux-image-"]))?;
        let version = |name: &str| {
            let version = name.strip_prefix("linux-image-")?.strip_suffix(ARCHITECTURE)?;
            version.starts_with(|first: char| first.is_ascii_digit()).then(|| version.to_owned())
        };
        Ok(names.lines().filter_map(version).collect())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (option, value) in [
            ("Dir::Etc::sourcelist", self.directory.join("sources.list")),
            ("Dir::Etc::sourceparts", PathBuf::from("-")),
            ("Dir::State::lists", self.directory.join("lists")),
            ("Dir::Cache", self.directory.join("cache")),
            // The directory may be one that apt's own user cannot enter.
            ("APT::Sandbox::User", PathBuf::from("root")),
        ] {
            command.arg("-o").arg(format!("{option}={}", value.display()));
        }
        command
    }
}

/// Where packages put a kernel.
fn image_in(root: &Path) -> Option<PathBuf> {
    let places = ["boot", "usr/lib/linux", "usr/lib/modules", "lib/modules"].map(|place| root.join(place));
    let mut directories: Vec<_> = places.into();
    while let Some(directory) = directories.pop() {
        for path in fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let is_image = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"));
            if is_image && path.is_file() {
                return Some(path);
            }
            // Modules lie deeper than any kernel does.
            if path.is_dir() && path.file_name().is_some_and(|name| name != "kernel") {
                directories.push(path);
            }
        }
    }
    None
}

/// The package that was just fetched; apt writes odd characters of its version as it likes.
fn the_package(directory: &Path, package: &str) -> Result<PathBuf> {
    let files = fs::read_dir(directory).context("Could not list the packages.")?;
    let is_it = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{package}_")))
    };
    let file = files.flatten().map(|entry| entry.path()).find(is_it);
    file.with_context(|| format!("apt-get did not fetch {package}."))
}

/// The address of the archive that this machine's apt uses: the one whose path is `/debian`.
fn debian_archive() -> Option<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(
        fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path()),
    );
    files.iter().filter_map(|file| fs::read_to_string(file).ok()).find_map(|text| archive_of(&text))
}

fn archive_of(sources: &str) -> Option<String> {
    let words =
        sources.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(str::split_whitespace);
    let mut addresses = words.filter(|word| word.contains("://"));
    addresses.find(|address| address.trim_end_matches('/').ends_with("/debian")).map(str::to_owned)
}

/// The numbers in a version, for an order.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|letter: char| !letter.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_number() {
        let mut versions = ["6.12.9+deb13", "6.12.10+deb13", "7.0.4+deb14", "6.1.0-50"];
        versions.sort_by_key(|version| numbers(version));
        assert_eq!(versions, ["6.1.0-50", "6.12.9+deb13", "6.12.10+deb13", "7.0.4+deb14"]);
    }

    #[test]
    fn the_archive_is_found_in_both_forms_of_sources() {
        let lines = "# deb http://old.example/debian x main\ndeb https://other.example/apt x main\n\
                     deb [arch=amd64] http://mirror.example/debian bookworm main\n";
        let deb822 = "Types: deb\nURIs: http://mirror.example/debian/\nSuites: bookworm\n";
        assert_eq!(archive_of(lines).as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(archive_of(deb822).as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(archive_of("URIs: http://mirror.example/debian-security\n"), None);
    }
}
