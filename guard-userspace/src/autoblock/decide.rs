use std::fmt;
use std::time::Duration;

use ipnet::IpNet;

use super::{Evidence, Memory, Offence};
use crate::blocks::{Protected, Refusal, Scope};
use crate::config::{Autoblock, BlockScope, Prefix};

/// What the policy and the host say of automatic blocks.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    pub autoblock: &'a Autoblock,
    pub trusted: &'a [Prefix],
    /// The host's own addresses, its gateways and name servers.
    pub protected: &'a Protected,
}

/// For how long the source is blocked already, by whatever block; zero: it is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    /// All of its traffic.
    pub host: Duration,
    /// Its traffic to guarded ports; never shorter than `host`.
    pub services: Duration,
}

/// What becomes of a source that went past a threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Block(Automatic),
    Exempt(Exemption),
}

/// An automatic block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Automatic {
    pub net: IpNet,
    pub scope: Scope,
    pub lasts: Duration,
    /// The how manieth block of this source it is, from 1, as far as it is remembered.
    pub strike: u32,
    pub evidence: Evidence,
    /// Whether its sockets are closed, too.
    pub kill: bool,
    pub reason: String,
}

/// Why a source is not blocked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// The policy has automatic blocks off.
    Disabled,
    /// It holds, or is held by, a prefix that is trusted.
    Trusted(IpNet),
    /// ... or one of `never`.
    Never(IpNet),
    /// ... or an address that this host needs.
    Protected { hit: IpNet, why: &'static str },
    /// One source would be so many addresses.
    Wide { widest: u8 },
    /// It is blocked, and for long enough.
    Blocked,
    /// An operator has let it in with these connections.
    Pardoned,
}

/// Decides on an offence. `now` and the times of the memory are milliseconds of one clock.
pub fn decide(
    rules: &Rules<'_>,
    offence: &Offence,
    memory: &Memory,
    in_force: InForce,
    now: i64,
) -> Decision {
    if let Some(exemption) = spared(rules, &offence.source) {
        return Decision::Exempt(exemption);
    }
    let policy = rules.autoblock;
    let known = memory.get(&offence.source, now, policy.forget_after);
    let strike = known.map_or(0, |offender| offender.strikes).saturating_add(1);
    let lasts = duration(policy, strike);
    let (scope, left) = match policy.scope {
        BlockScope::Host => (Scope::Host, in_force.host),
        BlockScope::Services => (Scope::Services, in_force.services),
    };
    // Reports of what it did before its block took hold come late: one block for all of them.
    let is_blocked_automatically = known.is_some_and(|offender| offender.until > now) && !left.is_zero();
    if is_blocked_automatically || left >= lasts {
        return Decision::Exempt(Exemption::Blocked);
    }
    Decision::Block(Automatic {
        net: offence.source,
        scope,
        lasts,
        strike,
        evidence: offence.evidence(strike),
        kill: policy.kill,
        reason: offence.reason(),
    })
}

/// Why a source is not blocked, whatever it does.
pub(super) fn spared(rules: &Rules<'_>, source: &IpNet) -> Option<Exemption> {
    if !rules.autoblock.enabled {
        return Some(Exemption::Disabled);
    }
    let overlapping = |prefixes: &[Prefix]| {
        let nets = prefixes.iter().map(|prefix| prefix.net);
        nets.into_iter().find(|net| net.contains(source) || source.contains(net))
    };
    if let Some(net) = overlapping(rules.trusted) {
        return Some(Exemption::Trusted(net));
    }
    if let Some(net) = overlapping(&rules.autoblock.never) {
        return Some(Exemption::Never(net));
    }
    rules.protected.check(source).err().map(|refusal| match refusal {
        Refusal::Protected { net: _, hit, why } => Exemption::Protected { hit, why },
        Refusal::Wide { net: _, widest } => Exemption::Wide { widest },
    })
}

/// The first as long as the policy says, each further one twice as long as the one before, up to the longest.
fn duration(policy: &Autoblock, strike: u32) -> Duration {
    let doublings = strike.saturating_sub(1);
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    policy.duration.saturating_mul(factor).min(policy.max_duration)
}

impl fmt::Display for Exemption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => write!(f, "automatic blocks are off"),
            Self::Trusted(net) => write!(f, "{net} is trusted by the policy"),
            Self::Never(net) => write!(f, "{net} is never blocked automatically"),
            Self::Protected { hit, why } => write!(f, "{hit} is {why}"),
            Self::Wide { widest } => write!(f, "one source is wider than /{widest}"),
            Self::Blocked => write!(f, "it is blocked already"),
            Self::Pardoned => write!(f, "it was unblocked with these connections"),
        }
    }
}
