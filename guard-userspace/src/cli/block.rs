use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use ipnet::IpNet;

use super::Global;
use super::agentless::Agentless;
use super::caller::login_address;
use super::duration::lasting;
use super::output::{print, print_json};
use crate::agent;
use crate::blocks::{Blocked, Scope, list};
use crate::config::parse_prefix;
use crate::connections;
use crate::control::{BlockAnswer, BlockRequest, ClientError, Skipped, path};
use crate::datapath::Maps;
use crate::sockets::{Killed, Sockets};

/// Block an address or a prefix, now
#[derive(Args, Debug)]
#[command(after_help = "\
A second block of the same address is no error: the longer time holds. The command works without a running agent, too.

Guard refuses without --force: the host's own addresses, its gateways and name servers, trusted prefixes, the address of your login, and prefixes wider than /8 (IPv6: /32).

A list has addresses and prefixes, separated by white space or commas. # and ; begin a comment. Guard blocks the whole list or nothing of it.

Examples:
  Block all traffic of an address, until `guard unblock`:
    guard block 10.66.1.2
  Also end its open connections, so that the GPU is free:
    guard block 10.66.1.2 --kill
  Block it on the guarded ports only, for an hour:
    guard block 10.66.1.2 --for 1h --scope services --reason \"scans us\"
  Block a network for a week:
    guard block fd00:66::/48 --for 7d
  Block a list:
    curl -sf https://feed.example/list | guard block - --for 1d \\
      --skip-protected")]
pub(super) struct Block {
    /// Address or prefix; - reads a list from standard input
    #[arg(value_name = "ADDR_OR_CIDR")]
    net: String,
    /// For how long [default: forever]
    #[arg(long = "for", value_name = "TIME", value_parser = lasting)]
    lasts: Option<Duration>,
    /// All traffic of the source, or that to guarded ports
    #[arg(long, default_value = "host")]
    scope: ScopeName,
    /// Why, for those who find it later
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Also close its connections: the server stops to work for it
    #[arg(long)]
    kill: bool,
    /// Block whom guard would refuse to
    #[arg(long)]
    force: bool,
    /// Of a list, leave out whom guard would refuse to block, and say which
    #[arg(long, conflicts_with = "force")]
    skip_protected: bool,
    /// Take an empty list for what it says; else it is an error, since a feed that fails is empty, too
    #[arg(long)]
    allow_empty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ScopeName {
    Host,
    Services,
}

impl Block {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let request = BlockRequest {
            nets: nets(&self.net, self.allow_empty)?,
            scope: match self.scope {
                ScopeName::Host => Scope::Host,
                ScopeName::Services => Scope::Services,
            },
            lasts: self.lasts.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            reason: self.reason,
            caller: login_address(),
            force: self.force,
            kill: self.kill,
            skip_protected: self.skip_protected,
        };
        let answer = match global.client().post::<BlockAnswer>(path::BLOCK, &request) {
            Ok(answer) => answer,
            Err(ClientError::NoAgent(_)) => without_agent(global, &request)?,
            Err(error) => return Err(error.into()),
        };
        if let Some(error) = &answer.blocked.not_recorded {
            eprintln!("guard: the block holds, but is lost at the next boot: {error}");
        }
        if global.json {
            print_json(&answer)?;
        } else {
            print(&said(&request, &answer))?;
        }
        if let Some(error) = &answer.not_killed {
            bail!("the block holds, but not all connections were closed: {error}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn said(request: &BlockRequest, answer: &BlockAnswer) -> String {
    let time = request.lasts.map_or_else(
        || "until it is unblocked".to_owned(),
        |time| format!("for {}", humantime::format_duration(Duration::from_millis(time))),
    );
    let blocked = match (request.nets.as_slice(), &answer.blocked) {
        ([net], Blocked { added: 1, .. }) => format!("{net} is blocked {time}\n"),
        ([net], _) => format!("{net} was blocked already; the longer of the two times holds\n"),
        (_, Blocked { added, already, .. }) => {
            format!("{added} are blocked {time}, {already} were already\n")
        }
    };
    let blocked = answer
        .skipped
        .iter()
        .fold(blocked, |text, Skipped { net, why }| format!("{text}{net} was left out: {why}\n"));
    match answer.killed {
        Some(1) => format!("{blocked}1 connection was closed\n"),
        Some(killed) => format!("{blocked}{killed} connections were closed\n"),
        None => blocked,
    }
}

/// What the argument stands for: itself, or the list on standard input.
pub(super) fn nets(argument: &str, allow_empty: bool) -> Result<Vec<IpNet>> {
    if argument != "-" {
        return match parse_prefix(argument) {
            Ok(net) => Ok(vec![net]),
            Err(why) => bail!("{why}"),
        };
    }
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).context("cannot read the list from standard input")?;
    let mut nets = list::parse(&text).context("nothing of the list was used")?;
    ensure!(
        allow_empty || !nets.is_empty(),
        "the list on standard input names nobody, so nothing was done: see what should have written it, or say --allow-empty"
    );
    nets.sort_unstable();
    nets.dedup();
    Ok(nets)
}

/// Who did it, as the ledger says it of commands that found no agent.
pub(super) fn myself() -> String {
    let uid = nix::unistd::getuid();
    let user =
        nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| "somebody".into(), |user| user.name);
    format!("{user} (uid {uid}, process {})", std::process::id())
}

fn without_agent(global: &Global, request: &BlockRequest) -> Result<BlockAnswer> {
    let mut guard = Agentless::open(global)?;
    // What the policy trusts, only the agent knows; the program lets it through to guarded ports all the same.
    let agent::Admitted { nets, skipped } = agent::admit(request, Vec::new())?;
    let mut register = guard.register(global)?;
    let blocked = register.block(&mut guard.maps, agent::blocks_of(request, &nets, &myself()))?;
    let killed = request.kill.then(|| kill(&guard.maps, request, &nets)).transpose();
    let (killed, not_killed) = match killed {
        Err(why) => (None, Some(format!("{why:#}"))),
        Ok(killed) => (killed.as_ref().map(|killed| killed.sockets), killed.and_then(|killed| killed.left())),
    };
    Ok(BlockAnswer { blocked, killed, not_killed, skipped })
}

fn kill(maps: &Maps, request: &BlockRequest, nets: &[IpNet]) -> Result<Killed> {
    let ports = match request.scope {
        Scope::Host => None,
        Scope::Services => Some(maps.guarded_tcp_ports()?),
    };
    let counted = connections::counted(maps, maps.tracked()?);
    Ok(Sockets::new()?.kill(nets, ports.as_ref(), &counted)?)
}
