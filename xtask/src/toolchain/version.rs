//! Reading what compilers and linkers say about themselves.

use std::fmt;

/// A release number; whatever follows it (`-nightly`, `(commit)`) is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) patch: u32,
}

impl Version {
    /// Reads `1.97.0-nightly`, `22.1.8` or `1.96.0 (ac68faa20 2026-05-25)`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let number = text.trim().split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
        let mut parts = number.split('.').map(|part| part.parse().ok());
        let version = Self { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? };
        parts.next().is_none().then_some(version)
    }

    /// Reads the answer to `TOOL --version`: the name of the tool, then its release.
    pub(crate) fn of_tool(tool: &str, answer: &str) -> Option<Self> {
        Self::parse(answer.trim().strip_prefix(tool)?)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The part of `rustc -vV` that decides whether a compiler fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CompilerVersion {
    pub(crate) release: Version,
    /// The major version of the LLVM inside the compiler.
    pub(crate) llvm: u32,
}

impl CompilerVersion {
    pub(crate) fn parse(verbose: &str) -> Option<Self> {
        let field = |name: &str| verbose.lines().find_map(|line| line.strip_prefix(name));
        Some(Self {
            release: Version::parse(field("release: ")?)?,
            llvm: Version::parse(field("LLVM version: ")?)?.major,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(major: u32, minor: u32, patch: u32) -> Version {
        Version { major, minor, patch }
    }

    #[test]
    fn releases_are_read_with_whatever_follows_them() {
        let cases = [
            ("1.96.0", Some(version(1, 96, 0))),
            ("1.97.0-nightly", Some(version(1, 97, 0))),
            (" 22.1.8\n", Some(version(22, 1, 8))),
            ("1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)", Some(version(1, 96, 0))),
            ("1.96", None),
            ("1.96.0.1", None),
            ("1..0", None),
            ("nightly", None),
            ("", None),
            ("99999999999.0.0", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Version::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn releases_are_ordered_by_number_not_by_text() {
        assert!(version(1, 100, 0) > version(1, 96, 2));
        assert!(version(1, 96, 0) >= version(1, 96, 0));
    }

    #[test]
    fn a_tool_is_known_by_its_name() {
        assert_eq!(Version::of_tool("bpf-linker", "bpf-linker 0.13.0\n"), Some(version(0, 13, 0)));
        assert_eq!(Version::of_tool("bpf-linker", "ld 2.40.0"), None);
    }

    #[test]
    fn a_compiler_names_its_release_and_its_llvm() {
        let debian = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
                      host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        let expected = CompilerVersion { release: version(1, 96, 0), llvm: 22 };
        assert_eq!(CompilerVersion::parse(debian), Some(expected));
        assert_eq!(CompilerVersion::parse("release: 1.96.0\n"), None, "no LLVM line");
    }
}
