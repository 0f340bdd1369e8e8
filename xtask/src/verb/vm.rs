//! `cargo xtask vm`: guard on other kernels, in virtual machines.

use anyhow::{Context, Result, bail};

use crate::consent::Consent;
use crate::vm::kernels::{Archive, KERNELS, Kernel};
use crate::vm::{initramfs, machine, payload};
use crate::workspace::Workspace;
use crate::{bpf, packages, process, toolchain};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask vm                 all of them: a few minutes once built
  cargo xtask vm --kernel 6.1    one of them

On 5.10 guard must say in one sentence that it does not run there. Everything is kept in target/vm.")]
pub(crate) struct Vm {
    /// Only this kernel (repeatable): 5.10, 6.1, 6.12 or newest
    #[arg(long, value_name = "NAME")]
    kernel: Vec<String>,
    #[command(flatten)]
    consent: Consent,
}

impl Vm {
    pub(crate) fn execute(self) -> Result<()> {
        let workspace = Workspace::find()?;
        let kernels = named(&self.kernel)?;
        packages::ensure(&packages::VM_TOOLS, "Other kernels need", self.consent)?;
        let toolchain = toolchain::ensure(&workspace, self.consent)?;
        bpf::build(&workspace, &toolchain)?;
        run(&workspace, &kernels)
    }
}

fn named(names: &[String]) -> Result<Vec<&'static Kernel>> {
    if names.is_empty() {
        return Ok(KERNELS.iter().collect());
    }
    let find = |name: &String| match KERNELS.iter().find(|kernel| kernel.name == name) {
        Some(kernel) => Ok(kernel),
        None => bail!(
            "There is no kernel {name:?}: name one of {}.",
            KERNELS.each_ref().map(|kernel| kernel.name).join(", ")
        ),
    };
    names.iter().map(find).collect()
}

/// Boots the kernels one after the other; the eBPF program and the tools must be there.
pub(crate) fn run(workspace: &Workspace, kernels: &[&Kernel]) -> Result<()> {
    let directory = workspace.target.join("vm");
    let programs = payload::build(workspace)?;
    let archive = Archive::open(directory.join("archive"))?;
    let mut failed = Vec::new();
    for kernel in kernels {
        let unpacked = archive.unpack(kernel)?;
        process::announce(&format!("Linux {} boots", unpacked.version));
        let own = directory.join(kernel.name);
        std::fs::create_dir_all(&own).context("Could not make a directory for a machine.")?;
        let initramfs = initramfs::build(&own, kernel, &unpacked, &programs)?;
        if let Err(error) = machine::run(&unpacked.image, &initramfs, &own.join("console.log")) {
            process::announce(&format!("Linux {}: {error:#}", unpacked.version));
            failed.push(kernel.name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("Not as it should be on: {}.", failed.join(", ")) }
}

/// The kernel that every test run includes.
pub(crate) fn for_tests() -> Result<Vec<&'static Kernel>> {
    named(&["6.1".to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_known_by_their_names() {
        assert_eq!(named(&[]).unwrap().len(), KERNELS.len());
        assert_eq!(for_tests().unwrap()[0].name, "6.1");
        let error = named(&["4.19".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("4.19") && error.contains("6.12"), "{error}");
    }
}
