//! `cargo xtask`: builds, shows and tests guard, and sets up what that needs.

mod bpf;
mod consent;
mod environment;
mod fuzzer;
mod packages;
mod preflight;
mod privilege;
mod process;
mod steps;
mod supply;
mod toolchain;
mod verb;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Builds, shows and tests guard. What is missing is set up, after asking.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    after_help = "Examples:
  cargo xtask demo               see what guard does, on this machine
  cargo xtask build --release    make target/release/guard
  cargo xtask test               everything that must hold before a change goes in
  cargo xtask fuzz --time 2h     look for what the tests do not know"
)]
enum Xtask {
    /// Measure what a packet, a policy and a million blocks cost on this machine (as root)
    Bench(verb::bench::Bench),
    /// Build the eBPF program and the programs that embed it
    Build(verb::build::Build),
    /// Guard a server under real traffic, in network namespaces (as root)
    Demo(verb::demo::Demo),
    /// Look at the crates that guard is made of: bans, licences, sources, known vulnerabilities
    Deny(verb::deny::Deny),
    /// Look for inputs that break a property of the decision or of the policy's reader
    Fuzz(verb::fuzz::Fuzz),
    /// Change the code of the decision and of the policy, one place at a time, and list the changes that no test notices
    Mutants(verb::mutants::Mutants),
    /// Take the pictures of the documentation (as root)
    Screens(verb::screens::Screens),
    /// Run every check and test: format, clippy, units, the verifier, the kernel, traffic (partly as root)
    Test(verb::test::Test),
    /// Show what the kernel's verifier counts, and compare it with the committed budget (as root)
    Verify(verb::verify::Verify),
    /// Boot other kernels in virtual machines and run guard and its tests there
    Vm(verb::vm::Vm),
}

fn main() -> ExitCode {
    match execute(Xtask::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  cause: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn execute(xtask: Xtask) -> Result<()> {
    match xtask {
        Xtask::Bench(bench) => bench.execute(),
        Xtask::Build(build) => build.execute(),
        Xtask::Demo(demo) => demo.execute(),
        Xtask::Deny(deny) => deny.execute(),
        Xtask::Fuzz(fuzz) => fuzz.execute(),
        Xtask::Mutants(mutants) => mutants.execute(),
        Xtask::Screens(screens) => screens.execute(),
        Xtask::Test(test) => test.execute(),
        Xtask::Verify(verify) => verify.execute(),
        Xtask::Vm(vm) => vm.execute(),
    }
}
