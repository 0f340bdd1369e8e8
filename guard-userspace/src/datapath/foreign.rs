//! Programs of others: what is known of the one that is on an interface already.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use aya::programs::loaded_programs;

use super::bpf;

/// Where others pin, and how many names are looked at.
const BPFFS: &str = "/sys/fs/bpf";
const MOST: usize = 1000;

/// A program, in words: `"xdp_filter" (id 42, pinned at /sys/fs/bpf/…)`.
pub(super) fn describe(program: u32) -> String {
    let info = loaded_programs().flatten().find(|info| info.id() == program);
    let name = info.as_ref().and_then(|info| info.name_as_str()).unwrap_or_default().to_owned();
    match pin_of(program) {
        Some(pin) => format!("{name:?} (id {program}, pinned at {})", pin.display()),
        None => format!("{name:?} (id {program})"),
    }
}

/// A pin of the program, or of a link that runs it.
fn pin_of(program: u32) -> Option<PathBuf> {
    let mut directories = vec![PathBuf::from(BPFFS)];
    let mut seen = 0;
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            seen += 1;
            if seen > MOST {
                return None;
            }
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if program_at(&path) == Some(program) {
                return Some(path);
            }
        }
    }
    None
}

/// The program behind a pin: the kernel says it of programs and links alike.
fn program_at(pin: &Path) -> Option<u32> {
    let object = bpf::open_pin(pin).ok()?;
    let facts = fs::read_to_string(format!("/proc/self/fdinfo/{}", object.as_raw_fd())).ok()?;
    facts.lines().find_map(|line| line.strip_prefix("prog_id:"))?.trim().parse().ok()
}
