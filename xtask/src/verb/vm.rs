//! `cargo xtask vm`: guard on other kernels than this one.

use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use clap::builder::PossibleValuesParser;

use super::build;
use crate::consent::Consent;
use crate::vm::cache::{self, Unpacked};
use crate::vm::image::Image;
use crate::vm::kernels::{self, KERNELS, Kernel};
use crate::vm::machine::{self, Clock};
use crate::vm::programs::{self, Programs, Step};
use crate::workspace::{Profile, Workspace};
use crate::{packages, process, vm};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask vm                 on each kernel
  cargo xtask vm --kernel 6.1    on this one

Boots Debian's kernels under qemu, without KVM and without root. Packages of kernels are downloaded from the archive that this
machine's apt is set up with, once, and are not installed. The console of each run is kept in target/vm/KERNEL.log.
On 6.1 a second machine counts the instructions that frames take, against guard-ebpf/budget.toml (target/vm/6.1-instructions.log).

Environment:
  GUARD_VM_MIRROR    the URI of a mirror of Debian, where apt here has none")]
pub(crate) struct Vm {
    /// Run on this kernel only, and fail if it is not to be had (repeatable)
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(KERNELS.map(|kernel| kernel.name)))]
    kernel: Vec<String>,
    /// Look for newer packages of kernels that were downloaded before
    #[arg(long)]
    refresh: bool,
    #[command(flatten)]
    consent: Consent,
}

impl Vm {
    pub(crate) fn execute(self) -> Result<()> {
        let workspace = Workspace::find()?;
        packages::ensure_tools(self.consent)?;
        build::all(&workspace, Profile::Release, self.consent)?;
        run(&workspace, &self.kernel, self.refresh, self.consent)
    }
}

/// Runs on the kernels of these names, or on all that are to be had. The programs must be built.
pub(crate) fn run(workspace: &Workspace, names: &[String], refresh: bool, consent: Consent) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!(
            "Other kernels are run only on x86_64: run the tests on a machine with the kernel that is meant."
        );
    }
    packages::ensure(&packages::VM_TOOLS, "Other kernels need", consent)?;
    let programs = programs::build(workspace)?;
    let _lock = vm::lock(workspace)?;
    let (mut missing, mut failed) = (Vec::new(), Vec::new());
    for kernel in kernels::chosen(names) {
        let unpacked = match cache::get(workspace, &kernel, refresh) {
            Ok(unpacked) => unpacked,
            Err(error) => {
                process::announce(&format!("Kernel {} is not to be had: {error:#}", kernel.name));
                missing.push(kernel.name);
                continue;
            }
        };
        process::announce(&format!("Linux {} boots", unpacked.release));
        let start = Instant::now();
        match on_kernel(workspace, &programs, &kernel, &unpacked) {
            Ok(()) => {
                let took = start.elapsed().as_secs_f64();
                process::announce(&format!(
                    "Linux {}: all as it should be, in {took:.0} s",
                    unpacked.release
                ));
            }
            Err(error) => {
                process::announce(&format!("Linux {}: {error:#}", unpacked.release));
                failed.push(kernel.name);
            }
        }
    }
    verdict(names, &missing, &failed)
}

fn verdict(names: &[String], missing: &[&str], failed: &[&str]) -> Result<()> {
    if !failed.is_empty() {
        bail!("Guard fails on these kernels: {}. The causes are above.", failed.join(", "));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let sentence =
        format!("These kernels were not to be had, and nothing was run on them: {}.", missing.join(", "));
    if !names.is_empty() || missing.len() == KERNELS.len() {
        bail!("{sentence} The causes are above.");
    }
    process::announce(&sentence);
    Ok(())
}

fn on_kernel(workspace: &Workspace, programs: &Programs, kernel: &Kernel, unpacked: &Unpacked) -> Result<()> {
    boot(workspace, programs, unpacked, kernel.name, &programs.steps(kernel.expects)?, Clock::Time)?;
    if kernel.counts {
        let name = format!("{}-instructions", kernel.name);
        boot(workspace, programs, unpacked, &name, &programs.counting_steps()?, Clock::Instructions)?;
    }
    Ok(())
}

/// Boots a kernel and does these steps. `name` is that of the files that are kept.
fn boot(
    workspace: &Workspace,
    programs: &Programs,
    kernel: &Unpacked,
    name: &str,
    steps: &[Step],
    clock: Clock,
) -> Result<()> {
    let directory = vm::directory(workspace);
    let file = |kind: &str| directory.join(format!("{name}.{kind}"));
    let mut image = Image::base(programs, &directory.join("stripped"))?;
    image.add_kernel(kernel, &vm::image::script(&programs.environment()?, steps))?;
    image.write(&file("cpio"))?;
    let report = machine::run(kernel, &file("cpio"), &file("log"), clock)?;
    let names: Vec<_> = steps.iter().map(|step| step.name).collect();
    let verdict = report.judge(&kernel.release, &names);
    verdict.map_err(|error| {
        eprintln!("{}", report.said());
        anyhow!("{error} The console is in {}.", file("log").display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_is_missing_fails_only_who_asked_for_it() {
        let all = KERNELS.map(|kernel| kernel.name);
        let asked = ["6.1".to_owned()];
        assert!(verdict(&[], &[], &[]).is_ok());
        assert!(verdict(&[], &["6.1"], &[]).is_ok());
        assert!(verdict(&[], &all, &[]).is_err(), "nothing was run");
        assert!(verdict(&asked, &[], &[]).is_ok());
        assert!(verdict(&asked, &["6.1"], &[]).is_err());
        assert!(verdict(&[], &[], &["6.1"]).is_err());
    }
}
