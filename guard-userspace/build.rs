//! Embeds the eBPF object that `cargo xtask build` has made.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Where `cargo xtask build` puts the object, from the target directory.
const OBJECT: &str = "bpf/guard.o";

fn main() {
    println!("cargo::rerun-if-env-changed=GUARD_BPF_OBJECT");
    println!("cargo::rustc-env=GUARD_REVISION={}", revision());
    if let Err(error) = embed() {
        println!("cargo::error={error}");
    }
}

fn embed() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?);
    let object = object(&out)?;
    println!("cargo::rerun-if-changed={}", object.display());
    fs::copy(&object, out.join("guard.o")).map(drop).map_err(|error| {
        format!("the eBPF program {} cannot be read ({error}): run `cargo xtask build`", object.display())
    })
}

/// The object that the environment names, or the one in the target directory that this build writes to.
fn object(out: &Path) -> Result<PathBuf, String> {
    if let Some(object) = env::var_os("GUARD_BPF_OBJECT") {
        return Ok(object.into());
    }
    // OUT_DIR is TARGET/[TRIPLE/]PROFILE/build/PACKAGE/out.
    let candidates: Vec<_> = out.ancestors().skip(4).take(2).map(|target| target.join(OBJECT)).collect();
    match candidates.iter().find(|object| object.exists()) {
        Some(object) => Ok(object.clone()),
        None => {
            // Cargo runs this again as soon as the file is there.
            for candidate in candidates {
                println!("cargo::rerun-if-changed={}", candidate.display());
            }
            Err("the eBPF program is not built: run `cargo xtask build`".into())
        }
    }
}

/// The commit that is built, for `guard_build_info`; "unknown" outside of a checkout.
fn revision() -> String {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
    };
    // HEAD's log grows with every commit and checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into())
}
