use std::io;
use std::path::PathBuf;

use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;

use crate::network::LinkError;

/// What can go wrong between guard and the kernel. Each message says the cause and, where it is known, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this is Linux {running}; guard needs Linux {needed} or newer")]
    KernelTooOld { running: String, needed: &'static str },
    #[error(
        "guard needs the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and {} missing: run it as root, or give them to \
         it with systemd's AmbientCapabilities=",
        missing_list(.missing)
    )]
    MissingCapabilities { missing: Vec<&'static str> },
    #[error("the capabilities of this process cannot be read: {0}")]
    Capabilities(String),
    #[error(
        "{path} is not on a BPF file system and mounting one at /sys/fs/bpf failed ({source}): run `mount -t bpf bpf /sys/fs/bpf`"
    )]
    NoBpfFs { path: PathBuf, source: io::Error },
    #[error("{action} {path}: {source}")]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "the pin {0} is missing: run `guard run`, which makes it anew from the others, or `guard detach`"
    )]
    MissingPin(PathBuf),
    #[error(
        "the guard at {path} is of another version (its maps have layout {found}, this build's {}): restart the agent with this build, \
         which takes it over",
        guard_common::abi::VERSION
    )]
    OtherVersion { path: PathBuf, found: u32 },
    #[error("the kernel does not load the program of guard: {0}")]
    Load(String),
    #[error("the kernel does not count connections for guard as they open and close: {0}")]
    Tracker(String),
    #[error(
        "the kernel has no memory for the tables ({0}): lower [capacity] of the policy, or raise the limit of guard's cgroup (systemd: \
         MemoryMax=)"
    )]
    NoRoom(String),
    #[error(
        "another process holds the pins at {0}: an agent, or a command that has not ended; stop it first, or take other pins with GUARD_PIN_PATH"
    )]
    PinsInUse(PathBuf),
    #[error(
        "{path} cannot hold the pins of guard: {why}; remove it if nobody needs it, or choose another place with GUARD_PIN_PATH"
    )]
    PinsNotOurs { path: PathBuf, why: String },
    #[error(
        "{0} is not on a BPF file system, so nothing there is of guard, and nothing was removed: name the right place with GUARD_PIN_PATH"
    )]
    NotBpfFs(PathBuf),
    #[error("guard has left the kernel, but {0} is not of guard and stays: remove it by hand")]
    NotOfGuard(PathBuf),
    #[error("guard is not in the kernel: nothing is pinned at {path}; `guard run` starts it")]
    NotRunning { path: PathBuf },
    #[error("there is no map {0} in the program of guard: the build is broken")]
    NoMap(&'static str),
    #[error("there is no program {0} in the object of guard: the build is broken")]
    NoProgram(&'static str),
    #[error("there is no interface {0:?}: `ip -brief link` lists those that exist")]
    NoInterface(String),
    #[error(
        "interface {interface}: another XDP program is attached, {program}, and guard does not replace it: end what attached it, or take \
         it off with `ip link set dev {interface} xdp off`"
    )]
    ForeignProgram { interface: String, program: String },
    #[error("cannot attach to {interface}: {reason}")]
    Attach { interface: String, reason: String },
    #[error(
        "cannot attach to {interface}: {upper}, which receives its packets, carries an XDP program, and the kernel allows none below it: \
         take that one off with `ip link set dev {upper} xdp off`, or guard {upper} alone"
    )]
    UpperProgram { interface: String, upper: String },
    #[error(
        "cannot attach to {interface}: its frames are of the kind {kind}, which guard cannot read; guard the Ethernet interface or the tunnel \
         that its traffic comes by"
    )]
    Framing { interface: String, kind: String },
    #[error(
        "cannot attach to {interface}: the kernel took the program, and the device does not carry it; look at `ip -details link show dev \
         {interface}`"
    )]
    NotCarried { interface: String },
    #[error(
        "the pins at {path} belong to a guard in another network namespace, whose interfaces it guards: start this one with pins of its own \
         (GUARD_PIN_PATH), or run `guard detach` to end the other"
    )]
    OtherNamespace { path: PathBuf },
    #[error("cannot tell the network namespace of this process: {0}; try again")]
    Namespace(io::Error),
    #[error(transparent)]
    Links(#[from] LinkError),
    #[error("table {table}: {source}")]
    Table { table: &'static str, source: io::Error },
    #[error(
        "table {table} is full: it has room for {capacity} entries; raise {key} in [capacity] of the policy and start the agent again"
    )]
    TableFull { table: &'static str, capacity: u32, key: &'static str },
    #[error(
        "the kernel has no memory for another entry of table {table}: free some, or raise the limit of guard's cgroup (systemd: MemoryMax=)"
    )]
    NoMemory { table: &'static str },
    #[error(
        "the rules in the kernel can be read only with CAP_SYS_ADMIN, which this process does not have; `guard simulate` judges without"
    )]
    RulesUnreadable,
    #[error(
        "a policy waits for its confirmation: run `guard confirm`, or wait until it has gone back by itself"
    )]
    AwaitsConfirmation,
    #[error(transparent)]
    Map(#[from] MapError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Program(#[from] ProgramError),
}

fn missing_list(missing: &[&str]) -> String {
    let verb = if missing.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", missing.join(", "))
}
