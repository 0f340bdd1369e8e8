//! The initramfs: busybox, the programs and tools with their libraries, modules, and what is to be done.
//!
//! Everything that is run has the path that it has here, so that programs find each other.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Cursor};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use cpio::newc::Builder;

use super::cache::Unpacked;
use super::programs::{Programs, Step, TOOLS};
use crate::process;

const INIT: &str = include_str!("init.sh");
const BUSYBOX: &str = "/bin/busybox";
/// `S_IFDIR` and `S_IFREG` of inode(7), with their permissions.
const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_755;

/// Directories and files by their paths, so that each directory comes before what is in it.
#[derive(Debug, Default)]
pub(crate) struct Image {
    entries: BTreeMap<PathBuf, (u32, Vec<u8>)>,
}

impl Image {
    /// All but what belongs to one kernel.
    pub(crate) fn base(programs: &Programs, scratch: &Path) -> Result<Self> {
        let mut image = Self::default();
        for directory in ["/dev", "/etc", "/proc", "/root", "/run", "/sys", "/tmp"] {
            image.add_directory(Path::new(directory));
        }
        image.add("/init", INIT);
        let busybox = program("busybox")?;
        image.add_file(Path::new(BUSYBOX), &busybox)?;
        image.add_libraries(&busybox)?;
        for executable in programs.executables() {
            image.add_stripped(executable, scratch)?;
        }
        for tool in TOOLS {
            let tool = program(tool)?;
            image.add_file(&tool, &tool)?;
            image.add_libraries(&tool)?;
        }
        image.add_file(programs.data(), programs.data())?;
        Ok(image)
    }

    /// What belongs to one kernel.
    pub(crate) fn add_kernel(&mut self, kernel: &Unpacked, steps: &str) -> Result<()> {
        let mut order = String::new();
        for module in &kernel.modules {
            let name = module.file_name().and_then(|name| name.to_str()).context("A module has no name.")?;
            self.add_file(&Path::new("/guard-vm").join(name), module)?;
            let _ = writeln!(order, "{name}");
        }
        self.add("/guard-vm/modules", &order);
        self.add("/guard-vm/steps", steps);
        Ok(())
    }

    pub(crate) fn write(self, path: &Path) -> Result<()> {
        let entries = self.entries.into_iter().map(|(path, (mode, content))| {
            // The kernel unpacks into its root: paths without the slash in front.
            let name = path.to_string_lossy().trim_start_matches('/').to_owned();
            (Builder::new(&name).mode(mode), Cursor::new(content))
        });
        File::create(path)
            .and_then(|file| cpio::write_cpio(entries, BufWriter::new(file)))
            .map(drop)
            .with_context(|| format!("Could not write {}.", path.display()))
    }

    fn add(&mut self, path: &str, content: &str) {
        self.put(Path::new(path), content.into());
    }

    fn add_file(&mut self, path: &Path, source: &Path) -> Result<()> {
        let content = fs::read(source).with_context(|| format!("Could not read {}.", source.display()))?;
        self.put(path, content);
        Ok(())
    }

    /// Without what only a debugger reads: the virtual machine takes a second for 30 MB.
    fn add_stripped(&mut self, executable: &Path, scratch: &Path) -> Result<()> {
        process::answer(Command::new("strip").arg("-o").arg(scratch).arg(executable))?;
        self.add_file(executable, scratch)?;
        self.add_libraries(executable)
    }

    fn add_libraries(&mut self, executable: &Path) -> Result<()> {
        // Of a static program ldd says that it is none for it.
        let listed = process::answer(Command::new("ldd").arg(executable)).unwrap_or_default();
        libraries(&listed).try_for_each(|library| self.add_file(library, library))
    }

    fn put(&mut self, path: &Path, content: Vec<u8>) {
        if let Some(parent) = path.parent() {
            self.add_directory(parent);
        }
        self.entries.insert(path.into(), (FILE, content));
    }

    fn add_directory(&mut self, path: &Path) {
        for directory in path.ancestors().filter(|directory| directory.parent().is_some()) {
            self.entries.entry(directory.into()).or_insert((DIRECTORY, Vec::new()));
        }
    }
}

fn program(name: &str) -> Result<PathBuf> {
    process::find_program(name).with_context(|| format!("There is no program {name}."))
}

/// The files that ldd(1) names.
fn libraries(listed: &str) -> impl Iterator<Item = &Path> {
    listed.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new)
}

/// What the first process reads: the environment and one line for each step.
pub(crate) fn script(environment: &[(&str, String)], steps: &[Step]) -> String {
    let mut script = String::new();
    for (name, value) in environment {
        let _ = writeln!(script, "export {name}={}", quoted(value));
    }
    for Step { name, words } in steps {
        let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
        let _ = writeln!(script, "step {name} {}", words.join(" "));
    }
    script
}

/// A word as the shell reads it back.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_names_libraries_and_the_loader() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<_> = libraries(listed).collect();
        assert_eq!(found, ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(Path::new));
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let mut image = Image::default();
        image.add("/usr/lib/x", "content");
        let paths: Vec<_> = image.entries.keys().collect();
        assert_eq!(paths, ["/usr", "/usr/lib", "/usr/lib/x"].map(Path::new).iter().collect::<Vec<_>>());
    }

    #[test]
    fn the_shell_reads_each_word_as_it_was() {
        let step = Step { name: "test", words: vec!["/a b/test".into(), "it's".into()] };
        let script = script(&[("GUARD_BIN", "/a b/guard".into())], &[step]);
        assert_eq!(script, "export GUARD_BIN='/a b/guard'\nstep test '/a b/test' 'it'\\''s'\n");
    }
}
