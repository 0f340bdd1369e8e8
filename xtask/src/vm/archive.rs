//! Debian's archive, through an apt of its own: the mirror and the proxy are those of this machine, the suites and the lists are
//! not, so nothing that the machine's apt knows is changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// Names the archive where the machine's apt has none of Debian's.
pub(crate) const MIRROR: &str = "GUARD_VM_MIRROR";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Depends on the newest kernel of its suite that is made for virtual machines: small, with virtual devices, as Debian configures all.
const NEWEST_OF_SUITE: &str = "linux-image-cloud-amd64";

/// A kernel in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// What `uname -r` says on it.
    pub(crate) release: String,
    suite: &'static str,
    /// The packages that hold its image and its modules.
    packages: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Archive {
    mirror: String,
    /// Holds a directory for each suite.
    directory: PathBuf,
}

impl Archive {
    /// `directory` keeps the lists.
    pub(crate) fn open(directory: PathBuf) -> Result<Self> {
        if !Path::new(KEYRING).is_file() {
            bail!("{KEYRING} is missing: install debian-archive-keyring.");
        }
        let mirror = match std::env::var(MIRROR) {
            Ok(mirror) => mirror,
            Err(_) => mirror_of_machine()?,
        };
        Ok(Self { mirror, directory })
    }

    /// The newest kernel of a suite.
    pub(crate) fn newest(&self, suite: &'static str) -> Result<Found> {
        self.configure(suite)?;
        process::answer(self.apt("apt-get", suite).args(["--quiet", "update"]))
            .with_context(|| format!("The suite {suite} of Debian's archive cannot be read."))?;
        let depends = |package: &str| -> Result<Vec<String>> {
            let mut show = self.apt("apt-cache", suite);
            Ok(dependencies(&process::answer(show.args(["show", "--no-all-versions", package]))?))
        };
        let image = depends(NEWEST_OF_SUITE)?.into_iter().find(|name| release(name, "image").is_some());
        let image = image.with_context(|| format!("{NEWEST_OF_SUITE} of {suite} names no kernel."))?;
        let release = release(&image, "image").unwrap_or_default().to_owned();
        let mut packages = depends(&image)?;
        packages.retain(|name| holds_part_of(name, &release));
        packages.push(image);
        Ok(Found { release, suite, packages })
    }

    /// Downloads the packages of a kernel that was found, and unpacks them into a directory.
    pub(crate) fn unpack(&self, found: &Found, into: &Path) -> Result<()> {
        let packages = into.join("packages");
        fs::create_dir_all(&packages).with_context(|| format!("Could not create {}.", packages.display()))?;
        let mut download = self.apt("apt-get", found.suite);
        process::answer(download.args(["--quiet", "download"]).args(&found.packages).current_dir(&packages))?;
        for package in packages.read_dir().context("Could not list the packages.")? {
            process::answer(Command::new("dpkg-deb").arg("--extract").arg(package?.path()).arg(into))?;
        }
        Ok(())
    }

    /// Writes the configuration of the apt of our own.
    fn configure(&self, suite: &str) -> Result<()> {
        let home = self.directory.join(suite);
        let text = home.to_str().context("The path of the target directory is not text.")?;
        fs::create_dir_all(home.join("lists/partial"))
            .and_then(|()| fs::write(home.join("debian.sources"), source(&self.mirror, suite)))
            .and_then(|()| fs::write(home.join("apt.conf"), configuration(text)))
            .with_context(|| format!("Could not write to {text}."))
    }

    fn apt(&self, program: &str, suite: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("--config-file").arg(self.directory.join(suite).join("apt.conf")).env("LC_ALL", "C");
        command
    }
}

/// The archive that this machine's own packages come from.
fn mirror_of_machine() -> Result<String> {
    let targets = |option: &[&str]| {
        let format = ["--format", "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)", "Created-By: Packages"];
        process::answer(Command::new("apt-get").arg("indextargets").args(option).args(format))
    };
    if let Some(mirror) = by_origin(&targets(&[])?) {
        return Ok(mirror.to_owned());
    }
    // Where there are no lists yet nobody knows what an archive says of itself.
    let Some(mirror) = by_path(&targets(&["--no-release-info"])?).map(str::to_owned) else {
        bail!("apt knows no archive of Debian here: set {MIRROR} to the URI of a mirror.");
    };
    Ok(mirror)
}

fn by_origin(targets: &str) -> Option<&str> {
    targets.lines().find_map(|target| target.strip_prefix("Debian|Debian|main|"))
}

/// Mirrors keep it below `/debian`.
fn by_path(targets: &str) -> Option<&str> {
    let main = targets.lines().filter_map(|target| Some(target.split_once("|main|")?.1));
    main.into_iter().find(|mirror| mirror.trim_end_matches('/').ends_with("/debian"))
}

fn source(mirror: &str, suite: &str) -> String {
    format!(
        "Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nArchitectures: amd64\nTargets: Packages\nSigned-By: {KEYRING}\n"
    )
}

/// Read after the machine's own, whose proxy stays. The hooks that it cleans up and informs others with are not for these lists.
fn configuration(directory: &str) -> String {
    format!(
        r#"#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Update::Error-Mode "any";
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::Etc::SourceList "{directory}/debian.sources";
Dir::Etc::SourceParts "-";
Dir::State::Lists "{directory}/lists";
Dir::State::Status "/dev/null";
Dir::Cache "{directory}";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"#
    )
}

/// The names of the packages that a package depends on, the first of each choice.
fn dependencies(shown: &str) -> Vec<String> {
    let line = shown.lines().find_map(|line| line.strip_prefix("Depends:")).unwrap_or_default();
    let names = line.split(',').filter_map(|choice| choice.split_whitespace().next());
    names.map(str::to_owned).collect()
}

/// The release in the name of a package of a kernel, as `linux-image-6.1.0-50-cloud-amd64`.
fn release<'a>(package: &'a str, part: &str) -> Option<&'a str> {
    let release = package.strip_prefix("linux-")?.strip_prefix(part)?.strip_prefix('-')?;
    release.starts_with(|first: char| first.is_ascii_digit()).then_some(release)
}

/// Newer kernels have their image and their modules in packages that the first one depends on.
fn holds_part_of(package: &str, kernel: &str) -> bool {
    ["binary", "modules"].iter().any(|part| release(package, part) == Some(kernel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_debians_own_archive() {
        let targets = "Docker|Docker CE|stable|https://example.org/docker/\n\
                       Debian|Debian-Security|main|https://example.org/security/\n\
                       Debian|Debian|main|https://example.org/debian/\n";
        assert_eq!(by_origin(targets), Some("https://example.org/debian/"));
        assert_eq!(by_path(targets), Some("https://example.org/debian/"));
        let ubuntu = "Ubuntu|Ubuntu|main|https://example.org/ubuntu/\n";
        assert_eq!((by_origin(ubuntu), by_path(ubuntu)), (None, None));
    }

    #[test]
    fn a_kernel_is_found_in_what_packages_depend_on() {
        let shown = "Package: linux-image-7.0.1+deb13-cloud-amd64\nVersion: 7.0.1-1\n\
                     Depends: dracut | linux-initramfs-tool, linux-base-7.0.1+deb13-cloud-amd64 (= 7.0.1-1), \
                     linux-binary-7.0.1+deb13-cloud-amd64 (= 7.0.1-1), linux-modules-7.0.1+deb13-cloud-amd64 (= 7.0.1-1)\n";
        let mut names = dependencies(shown);
        names.retain(|name| holds_part_of(name, "7.0.1+deb13-cloud-amd64"));
        assert_eq!(names, ["linux-binary-7.0.1+deb13-cloud-amd64", "linux-modules-7.0.1+deb13-cloud-amd64"]);
        assert_eq!(release("linux-image-6.1.0-50-cloud-amd64", "image"), Some("6.1.0-50-cloud-amd64"));
        assert_eq!(release("linux-image-cloud-amd64", "image"), None);
    }
}
