//! What a machine boots with: a shell, guard, its tests, and a first program that runs them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::kernels::{Kernel, Unpacked};
use super::payload::{Program, TESTS};
use crate::process;

/// What the machine says at the end of each part, before its name.
pub(crate) const PASSED: &str = "GUARD-VM-PASSED";
pub(crate) const FAILED: &str = "GUARD-VM-FAILED";
/// What it says when all parts have ended.
pub(crate) const DONE: &str = "GUARD-VM-DONE";

/// Random frames for the differential test: an emulated machine is slow.
const FRAMES: u32 = 30_000;

/// The module of virtual wires, and what it takes.
const MODULE: &str = "kernel/drivers/net/veth.ko";

/// Makes the archive that the kernel unpacks.
pub(crate) fn build(
    directory: &Path,
    kernel: &Kernel,
    unpacked: &Unpacked,
    programs: &[Program],
) -> Result<PathBuf> {
    let root = directory.join("root");
    let _ = fs::remove_dir_all(&root);
    for part in ["bin", "dev", "proc", "sys", "tmp", "run", "etc"] {
        fs::create_dir_all(root.join(part)).context("Could not make the root of a machine.")?;
    }
    let busybox = process::find_program("busybox").context("busybox is missing: install busybox-static.")?;
    fs::copy(&busybox, root.join("bin/busybox")).context("Could not copy busybox.")?;
    for program in programs {
        fs::copy(&program.path, root.join("bin").join(&program.name))
            .with_context(|| format!("Could not copy {}.", program.path.display()))?;
    }
    let has_module = copy_module(unpacked, &root)?;
    let init = root.join("init");
    fs::write(&init, script(kernel, has_module))
        .context("Could not write the first program of a machine.")?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))
        .context("Could not make /init executable.")?;
    let archive = directory.join("initramfs.gz");
    let pack = format!(
        "cd '{}' && find . | busybox cpio -o -H newc -R 0:0 2>/dev/null | gzip -1 > '{}'",
        root.display(),
        archive.display()
    );
    process::run(Command::new("sh").args(["-c", &pack]))?;
    Ok(archive)
}

/// Newer kernels have their modules compressed.
fn copy_module(unpacked: &Unpacked, root: &Path) -> Result<bool> {
    let modules = ["lib/modules", "usr/lib/modules"].map(|path| unpacked.root.join(path));
    for versions in modules.iter().filter_map(|path| fs::read_dir(path).ok()) {
        for version in versions.flatten() {
            let plain = version.path().join(MODULE);
            let compressed = plain.with_extension("ko.xz");
            let target = root.join("veth.ko");
            if plain.exists() {
                fs::copy(&plain, &target).context("Could not copy a module.")?;
                return Ok(true);
            }
            if compressed.exists() {
                let unpack = format!("xz -dc '{}' > '{}'", compressed.display(), target.display());
                process::run(Command::new("sh").args(["-c", &unpack]))?;
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn script(kernel: &Kernel, has_module: bool) -> String {
    let mut script = String::from(
        "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin GUARD_SOCKET=/run/guard.sock GUARD_STATE=/run/guard.db RUST_BACKTRACE=0
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
echo \"running $(uname -r)\"
",
    );
    script += &format!(
        "verdict() {{ if [ \"$1\" = 0 ]; then echo \"{PASSED} $2\"; else echo \"{FAILED} $2\"; fi; }}\n"
    );
    script += &if kernel.supported { supported(has_module) } else { refused() };
    script + &format!("echo {DONE}\npoweroff -f\n")
}

fn supported(has_module: bool) -> String {
    let mut script = format!("export GUARD_TEST_FRAMES={FRAMES}\n");
    for test in TESTS {
        script += &format!("{test} --test-threads 1; verdict $? {test}\n");
    }
    if has_module {
        script += "insmod /veth.ko
ip link add wire type veth && ip link set wire up
guard run -i wire -p 8000 -a 10.0.0.0/8 2>/tmp/log & agent=$!
for look in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do guard status >/tmp/status 2>&1 && break; sleep 1; done
cat /tmp/log /tmp/status
grep -q 'wire .* native' /tmp/status; verdict $? 'attach to a veth device'
kill $agent; wait $agent
guard detach; verdict $? detach
";
    }
    script
}

/// One sentence that names the kernel, and exit status 1.
fn refused() -> String {
    "guard run -i lo -p 8000 -a 10.0.0.0/8 2>/tmp/log; status=$?
cat /tmp/log
[ $status = 1 ] && [ \"$(wc -l </tmp/log)\" = 1 ] && grep -q \"$(uname -r)\" /tmp/log && grep -q 'needs Linux' /tmp/log
verdict $? 'a refusal in one sentence'
"
    .into()
}
