//! The committed corpus: files that the fuzzer names by their hash, and named ones that people put there.

use std::path::Path;

use anyhow::{Context, Result};

use super::files;

/// Makes an empty directory.
pub(super) fn clear(directory: &Path) -> Result<()> {
    if directory.exists() {
        std::fs::remove_dir_all(directory)
            .with_context(|| format!("Could not remove {}.", directory.display()))?;
    }
    std::fs::create_dir_all(directory).with_context(|| format!("Could not create {}.", directory.display()))
}

/// Replaces the fuzzer's files in `corpus` by those in `merged`; named files stay. Returns what there is then, in words.
pub(super) fn replace(corpus: &Path, merged: &Path) -> Result<String> {
    for file in files(corpus)?.iter().filter(|file| is_hash(file)) {
        std::fs::remove_file(file).with_context(|| format!("Could not remove {}.", file.display()))?;
    }
    for file in files(merged)? {
        let to = corpus.join(file.file_name().unwrap_or_default());
        std::fs::copy(&file, &to).with_context(|| format!("Could not write {}.", to.display()))?;
    }
    let kept = files(corpus)?;
    let bytes: u64 = kept.iter().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();
    Ok(format!("{} files, {} KiB", kept.len(), bytes.div_ceil(1024)))
}

/// Whether a file has a name as libFuzzer gives it: the SHA-1 of what it holds.
fn is_hash(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_files_outlive_those_of_the_fuzzer() {
        let directory = std::env::temp_dir().join(format!("guard-xtask-corpus-{}", std::process::id()));
        let (corpus, merged) = (directory.join("corpus"), directory.join("merged"));
        clear(&corpus).unwrap();
        clear(&merged).unwrap();
        let (old, new) = ("0".repeat(40), "a".repeat(40));
        for file in [corpus.join(&old), corpus.join("a_case_that_broke"), merged.join(&new)] {
            std::fs::write(file, b"x").unwrap();
        }
        let said = replace(&corpus, &merged).unwrap();
        let left = files(&corpus).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(left, [corpus.join("a_case_that_broke"), corpus.join(&new)]);
        assert_eq!(said, "2 files, 1 KiB");
    }
}
