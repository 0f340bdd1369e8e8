//! What people drop strangers with, and clients that send too much, each on a host of its own and with the same list of those whom it lets in.

use std::fmt::Write as _;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;

use super::cost::Size;
use crate::bpf::random_sources::bare_drop;
use crate::bpf::{self, Program};
use crate::guard::Guard;
use crate::net::{Host, feed};
use crate::{large, stale};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// None at all
    Nothing,
    /// A program of one instruction, which lets nobody in: what no filter can save
    BareDrop,
    Guard,
    /// Its list takes no prefixes: there is the address of one client in it
    XdpFilter,
    NftablesIngress,
    NftablesInput,
    IptablesInput,
    IptablesRaw,
    /// With a limit for each client, of 100 packets a second, as those below
    GuardLimit,
    NftablesLimit,
    HashlimitInput,
    HashlimitRaw,
}

/// What each client may send, and at once.
const PACKETS_A_SECOND: u32 = 100;

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no filter",
            Self::BareDrop => "bare XDP_DROP",
            Self::Guard => "guard",
            Self::XdpFilter => "xdp-filter, deny, one address",
            Self::NftablesIngress => "nftables, ingress",
            Self::NftablesInput => "nftables, input",
            Self::IptablesInput => "iptables INPUT, ipset",
            Self::IptablesRaw => "iptables raw, ipset",
            Self::GuardLimit => "guard",
            Self::NftablesLimit => "nftables, ingress, limit of a set",
            Self::HashlimitInput => "iptables INPUT, hashlimit",
            Self::HashlimitRaw => "iptables raw, hashlimit",
        }
    }

    /// Puts the filter on `up0` of a host, for as long as what is returned lives.
    ///
    /// # Errors
    /// When a tool is missing or refuses.
    pub(super) fn install(self, host: &Host, size: Size) -> Result<Filter<'_>> {
        let on = |rules: Result<()>| rules.map(|()| Held::Host);
        let held = match self {
            Self::Nothing => Held::Host,
            Self::BareDrop => {
                let program = bare_drop(false)?;
                let link = host.enter(|| bpf::attach(program.as_fd(), if_nametoindex("up0")?))?;
                Held::Program(program, link)
            }
            Self::Guard => Held::Guard(guard(host, size, &large::policy(size.prefixes))?),
            Self::GuardLimit => {
                let limit =
                    format!("packets_per_second = {PACKETS_A_SECOND}\npacket_burst = {PACKETS_A_SECOND}");
                Held::Guard(guard(host, size, &large::limited(size.prefixes, &limit))?)
            }
            Self::XdpFilter => Held::XdpFilter(xdp_filter(host)?),
            Self::NftablesIngress => on(nftables(host, INGRESS, "", size))?,
            Self::NftablesLimit => {
                let limit = format!(
                    "tcp dport 8000 update @clients {{ ip saddr limit rate over {PACKETS_A_SECOND}/second burst {PACKETS_A_SECOND} packets }} drop"
                );
                on(nftables(host, INGRESS, &limit, size))?
            }
            Self::NftablesInput => on(nftables(host, ("ip", "input"), "", size))?,
            Self::IptablesInput => on(iptables(host, INPUT, size))?,
            Self::IptablesRaw => on(iptables(host, RAW, size))?,
            Self::HashlimitInput => on(hashlimit(host, INPUT, size))?,
            Self::HashlimitRaw => on(hashlimit(host, RAW, size))?,
        };
        Ok(Filter { kind: self, _held: held })
    }
}

/// A filter on a host.
pub(super) struct Filter<'a> {
    pub(super) kind: Kind,
    _held: Held<'a>,
}

/// What keeps a filter where it is; the others end with their host.
enum Held<'a> {
    Program(#[expect(dead_code, reason = "held")] Program, #[expect(dead_code, reason = "held")] OwnedFd),
    Guard(#[expect(dead_code, reason = "held")] Guard<'a>),
    XdpFilter(#[expect(dead_code, reason = "held")] XdpFilter<'a>),
    Host,
}

/// xdp-filter, which lets nobody through but those in its list. It pins its maps, and all that it is loaded on share them: so it has a
/// directory of its own, which it takes for the file system of BPF.
pub(super) struct XdpFilter<'a> {
    host: &'a Host,
    interface: &'static str,
    pins: PathBuf,
}

impl<'a> XdpFilter<'a> {
    /// # Errors
    /// When xdp-filter is missing or refuses.
    pub(super) fn load(host: &'a Host, interface: &'static str, features: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}{}-xdp-filter", stale::prefix(), NEXT.fetch_add(1, Ordering::Relaxed));
        let filter = Self { host, interface, pins: Path::new(stale::BPFFS).join(name) };
        fs::create_dir(&filter.pins).context("no directory for the pins of xdp-filter")?;
        filter.run(&["load", interface, "--mode", "native", "--policy", "deny", "--features", features])?;
        Ok(filter)
    }

    /// Puts an address into the list.
    fn let_in(&self, address: &str) -> Result<()> {
        self.run(&["ip", address, "--mode", "src"])
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let script = format!("mount --bind \"$0\" {} && exec xdp-filter \"$@\"", stale::BPFFS);
        let mut command = self.host.command("unshare");
        feed(command.args(["--mount", "sh", "-c", &script]).arg(&self.pins).args(arguments), "")
    }

    /// What is attached: the dispatcher that calls it or, where the kernel does not take that, the program itself.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub(super) fn program(&self) -> Result<Program> {
        let (_, text) = self.host.output("ip", &["-j", "link", "show", self.interface])?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        let number = links[0]["xdp"]["prog"]["id"].as_u64().context("there is no program")?;
        Program::of_number(u32::try_from(number)?)
    }
}

impl Drop for XdpFilter<'_> {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.run(&["unload", self.interface]);
        let _ = fs::remove_dir_all(&self.pins);
    }
}

fn guard<'a>(host: &'a Host, size: Size, policy: &str) -> Result<Guard<'a>> {
    let policy = format!("[attach]\ninterfaces = [\"up0\"]\n{policy}");
    let running = Guard::start(host, &policy)?;
    running.maps()?.write_blocks(&large::blocks(size.blocks))?;
    Ok(running)
}

fn xdp_filter(host: &Host) -> Result<XdpFilter<'_>> {
    let loaded = XdpFilter::load(host, "up0", "ipv4,tcp")?;
    loaded.let_in(&large::allowed(0))?;
    Ok(loaded)
}

/// The family and the hook of nftables that see a packet first.
const INGRESS: (&str, &str) = ("netdev", "ingress device up0");

/// `limit` drops what is over it.
fn nftables(host: &Host, (family, hook): (&str, &str), limit: &str, size: Size) -> Result<()> {
    let elements = allowed(size).join(",");
    let rules = format!(
        "table {family} guard {{\nset allowed {{\ntype ipv4_addr\nflags interval\nelements = {{ {elements} }}\n}}\n\
         set clients {{\ntype ipv4_addr\nsize 262144\nflags dynamic\n}}\n\
         chain guard {{\ntype filter hook {hook} priority 0; policy drop\n{limit}\nip saddr @allowed accept\n}}\n}}\n"
    );
    run(host, "nft", "-f -", &rules)
}

const INPUT: &str = "-A INPUT";
const RAW: &str = "-t raw -A PREROUTING";

fn iptables(host: &Host, chain: &str, size: Size) -> Result<()> {
    let mut list = format!("create allowed hash:net maxelem {}\n", size.prefixes.max(65_536) + 1);
    for prefix in allowed(size) {
        // Writing to a string cannot fail.
        let _ = writeln!(list, "add allowed {prefix}");
    }
    run(host, "ipset", "restore", &list)?;
    run(host, "iptables", &format!("{chain} -i up0 -m set ! --match-set allowed src -j DROP"), "")
}

fn hashlimit(host: &Host, chain: &str, size: Size) -> Result<()> {
    iptables(host, chain, size)?;
    let limit = format!(
        "--hashlimit-name guard --hashlimit-mode srcip --hashlimit-above {PACKETS_A_SECOND}/second --hashlimit-burst {PACKETS_A_SECOND}"
    );
    run(host, "iptables", &format!("{chain} -i up0 -p tcp --dport 8000 -m hashlimit {limit} -j DROP"), "")
}

/// The prefixes of [`large::policy`], and the host itself: it speaks to itself, too.
fn allowed(size: Size) -> Vec<String> {
    let clients = (0..size.prefixes).map(large::prefix);
    clients.chain(["127.0.0.0/8".to_owned()]).collect()
}

fn run(host: &Host, program: &str, arguments: &str, input: &str) -> Result<()> {
    feed(host.command(program).args(arguments.split(' ')), input)
}
