//! Writes what fuzzing starts with: `guard-seeds DIRECTORY`, which gets a directory for each target.

use std::path::Path;
use std::{env, fs};

use anyhow::{Context, Result};
use guard_proof::seeds;

fn main() -> Result<()> {
    let directory = env::args_os().nth(1).context("usage: guard-seeds DIRECTORY")?;
    write(&Path::new(&directory).join("decide"), seeds::decide())?;
    write(&Path::new(&directory).join("policy"), seeds::policy())?;
    write(&Path::new(&directory).join("control"), seeds::control())?;
    write(&Path::new(&directory).join("metrics"), seeds::metrics())
}

fn write(directory: &Path, seeds: Vec<impl AsRef<[u8]>>) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("Could not create {}.", directory.display()))?;
    for (number, seed) in seeds.iter().enumerate() {
        let path = directory.join(format!("seed-{number:03}"));
        fs::write(&path, seed).with_context(|| format!("Could not write {}.", path.display()))?;
    }
    Ok(())
}
