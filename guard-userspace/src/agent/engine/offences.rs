//! What the kernel reports: drops that it has sampled, and sources over a threshold.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use guard_common::abi::{self, OffenceKind, Sample, ServiceId, SourceKey};
use ipnet::IpNet;
use serde_json::json;

use super::blocks::event_of;
use super::evidence::Proven;
use super::{Engine, lock};
use crate::agent::problems::Topic;
use crate::autoblock::{Automatic, Decision, Hypothetical, Kind, Offence, Rules};
use crate::blocks::{self, Blocked};
use crate::config::{Policy, ServiceMode};
use crate::datapath::boot_now;
use crate::drops::Dropped;
use crate::ledger::Action;
use crate::limited;

/// Nanoseconds. The agent reads offences within milliseconds.
const OLDEST: u64 = 5_000_000_000;

impl Engine {
    /// The problem is over when no source offends any longer, or all that do are blocked.
    const NOT_BLOCKED_FOR: Duration = Duration::from_secs(60);

    /// Keeps drops that the kernel has sampled, for `guard events`.
    pub fn take_samples(&self, samples: &[Sample]) {
        let services = self.services_by_id();
        let (day, now) = (blocks::now(), boot_now());
        let at = |sample: &Sample| day.saturating_sub(now.saturating_sub(sample.at) / 1_000_000);
        let dropped = samples.iter().filter_map(|sample| Dropped::of_sample(sample, at(sample), &services));
        lock(&self.drops).add(dropped);
    }

    /// Blocks the sources that went over a threshold, unless they are spared.
    pub fn take_offences(&self, offences: &[abi::Offence]) {
        let services = self.services_by_id();
        let policy = Arc::clone(self.policies().live());
        let now = boot_now();
        // What nobody has read for long was before this agent, or before the policy that it would be held against.
        let recent = offences.iter().filter(|offence| now.saturating_sub(offence.at) < OLDEST);
        // One source may have been reported many times over since the last look.
        let mut worst: HashMap<_, Accusation> = HashMap::new();
        for accusation in recent.filter_map(|offence| accuse(offence, &services, &policy)) {
            let key = (accusation.key, accusation.kind);
            let known = worst.entry(key).or_insert_with(|| accusation.clone());
            if known.count < accusation.count {
                *known = accusation;
            }
        }
        worst.retain(|_, accusation| !lock(&self.courtesies).is_settled(accusation));
        if worst.is_empty() {
            return;
        }
        let proven = match Proven::read(&self.maps) {
            Ok(proven) => proven,
            Err(error) => return self.note_unproven(&error.into()),
        };
        let mut blocked = Vec::new();
        for accusation in worst.into_values() {
            let Some(offence) = self.prove(&accusation, &proven) else {
                lock(&self.courtesies).settle(&accusation);
                continue;
            };
            blocked.extend(self.judge(&offence, accusation.enforced, &policy));
        }
        self.end_connections_of(&blocked);
    }

    /// Looks for sources that went over the threshold of connections when nobody listened, by how many each has open.
    pub(super) fn look_for_offenders(&self, open: &[(SourceKey, u64)]) {
        let threshold = {
            let policies = self.policies();
            let autoblock = &policies.live().autoblock;
            autoblock.connections.filter(|_| autoblock.enabled)
        };
        let Some(threshold) = threshold else { return };
        let now = boot_now();
        let over = open.iter().filter(|(_, count)| *count > threshold.into());
        let offence =
            |(source, count): &_| abi::Offence::new(OffenceKind::Connections, *source, *count, now, now);
        let offences: Vec<_> = over.map(offence).collect();
        let sources = offences.iter().map(|offence| self.maps.source_net(&offence.source)).collect();
        self.kernel().register.keep_pardons(&sources);
        if !offences.is_empty() {
            self.take_offences(&offences);
        }
    }

    /// Who would have been blocked, the latest first.
    pub fn would_block(&self) -> Vec<Hypothetical> {
        let policy = Arc::clone(self.policies().live());
        let monitors = |name: &str| {
            let service = policy.services.iter().find(|service| service.name == name);
            service.is_some_and(|service| service.mode == ServiceMode::Monitor)
        };
        let mut would_block = lock(&self.would_block);
        would_block.keep(monitors);
        would_block.list()
    }

    /// How many connections of a network are evidence, by service.
    pub(super) fn open_within(&self, proven: &Proven, net: &IpNet) -> BTreeMap<String, u64> {
        let services = self.services_by_id();
        proven.within(net, |source| services.get(&source.service()).cloned())
    }

    /// The offence with all that is known of it; none, if what the kernel counts is no evidence.
    fn prove(&self, accusation: &Accusation, proven: &Proven) -> Option<Offence> {
        let holders = proven.holders(&accusation.key);
        let count = match accusation.kind {
            Kind::Connections => holders.iter().map(|(_, count)| count).sum(),
            Kind::Refused | Kind::Limited => accusation.count,
        };
        let is_over = accusation.kind != Kind::Connections || count > accusation.threshold;
        is_over.then(|| Offence {
            source: self.maps.source_net(&accusation.key),
            service: accusation.service.clone(),
            kind: accusation.kind,
            count,
            threshold: accusation.threshold,
            window: accusation.window,
            holders,
        })
    }

    /// Returns the blocks that were made.
    fn judge(&self, offence: &Offence, enforced: bool, policy: &Policy) -> Vec<Automatic> {
        let protected = lock(&self.courtesies).protected();
        let rules = Rules { autoblock: &policy.autoblock, trusted: &policy.trusted, protected: &protected };
        let mut kernel = self.kernel();
        let parts = &mut *kernel;
        let mut decisions = Vec::new();
        for target in parts.register.targets(&rules, offence) {
            let decision = if enforced {
                parts.register.judge(parts.datapath.maps_mut(), &rules, &target)
            } else {
                parts.register.consider(&self.maps, &rules, &target).map(|decision| (decision, None))
            };
            decisions.push((target, decision));
        }
        self.count_blocks(&kernel.register);
        drop(kernel);
        let mut blocked = Vec::new();
        for (target, decision) in decisions {
            match decision {
                Ok((Decision::Block(automatic), outcome)) if enforced => {
                    announce(&automatic, outcome);
                    blocked.push(automatic);
                }
                Ok((Decision::Block(automatic), _)) => self.note_hypothetical(&automatic),
                Ok((Decision::Exempt(why), _)) => limited::info(limited::Kind::Spared, || {
                    format!("{} is not blocked ({}): {why}", target.source, target.reason())
                }),
                Err(error) => self.note_not_blocked(&target, &error.into()),
            }
        }
        blocked
    }

    /// A block that was not made, since the service only monitors.
    fn note_hypothetical(&self, automatic: &Automatic) {
        if lock(&self.would_block).note(automatic, blocks::now()) {
            let Automatic { net, lasts, reason, evidence, .. } = automatic;
            let (lasts, service) = (humantime::format_duration(*lasts), &evidence.service);
            limited::warn(limited::Kind::WouldBlock, || {
                format!("{net} would be blocked for {lasts} if service {service} enforced: {reason}")
            });
        }
    }

    /// Closes the connections of those who were blocked with `kill`.
    fn end_connections_of(&self, blocked: &[Automatic]) {
        // All are blocked before the first is looked for among the sockets.
        for scope in [blocks::Scope::Host, blocks::Scope::Services] {
            let is_to_end = |automatic: &&Automatic| automatic.kill && automatic.scope == scope;
            let nets: Vec<IpNet> = blocked.iter().filter(is_to_end).map(|automatic| automatic.net).collect();
            if !nets.is_empty() {
                // That it failed is logged and noted.
                let _ = self.kill_and_note(&nets, scope, "guard");
            }
        }
    }

    /// A flood of offenders is one problem, however many it has.
    fn note_not_blocked(&self, offence: &Offence, error: &anyhow::Error) {
        limited::warn(limited::Kind::NotBlocked, || {
            format!("{} should be blocked ({}), and is not: {error:#}", offence.source, offence.reason())
        });
        self.note_unproven(error);
    }

    fn note_unproven(&self, error: &anyhow::Error) {
        let problem = format!("sources that offend are not blocked: {error:#}");
        self.problems.set_for(Topic::NotBlocked, problem, Self::NOT_BLOCKED_FOR);
    }

    /// Ends connections and notes in the audit log how many. Returns that, and why connections go on, if some do.
    pub(super) fn kill_and_note(
        &self,
        nets: &[IpNet],
        scope: blocks::Scope,
        by: &str,
    ) -> (Option<usize>, Option<String>) {
        let killed = self.kill(nets, scope).map_err(|error| format!("{error:#}"));
        let net = if let [net] = nets { Some(*net) } else { None };
        let outcome = match &killed {
            Ok(killed) => match killed.left() {
                None => Ok(Some(json!({ "sockets": killed.sockets }))),
                Some(left) => Err(format!("{} closed; {left}", killed.sockets)),
            },
            Err(why) => Err(why.clone()),
        };
        let event = event_of(Action::Kill, by, outcome);
        self.kernel().register.record(crate::ledger::Event { net, ..event });
        match killed {
            Ok(killed) => {
                if killed.sockets > 0 {
                    limited::info(limited::Kind::Killed, || {
                        format!("{} connections of {} were closed", killed.sockets, named(nets))
                    });
                }
                (Some(killed.sockets), killed.left())
            }
            Err(why) => {
                limited::warn(limited::Kind::NotKilled, || {
                    format!("the connections of {} go on: {why}", named(nets))
                });
                (None, Some(why))
            }
        }
    }

    pub(super) fn services_by_id(&self) -> BTreeMap<ServiceId, String> {
        let names = self.maps.service_names().unwrap_or_default();
        names.into_iter().map(|(name, id)| (id, name)).collect()
    }
}

/// What the kernel says of a source, as the policy sees it.
#[derive(Clone, Debug)]
pub(super) struct Accusation {
    pub(super) key: SourceKey,
    service: String,
    /// The service does not only monitor.
    enforced: bool,
    pub(super) kind: Kind,
    count: u64,
    threshold: u64,
    window: Option<Duration>,
}

/// None if the offence is of a later build, the service is gone, or the threshold is another one by now.
fn accuse(
    offence: &abi::Offence,
    services: &BTreeMap<ServiceId, String>,
    policy: &Policy,
) -> Option<Accusation> {
    let autoblock = &policy.autoblock;
    let (kind, threshold) = match offence.kind()? {
        OffenceKind::Connections => (Kind::Connections, autoblock.connections?),
        OffenceKind::Refused => (Kind::Refused, autoblock.refused_per_minute),
        OffenceKind::Limited => (Kind::Limited, autoblock.limited_per_minute),
    };
    let window = (kind != Kind::Connections)
        .then(|| Duration::from_nanos(offence.at.saturating_sub(offence.since)).max(Duration::from_secs(1)));
    let name = services.get(&offence.source.service())?;
    let service = policy.services.iter().find(|known| known.name == *name)?;
    let is_over = match kind {
        Kind::Connections => offence.count > threshold.into(),
        Kind::Refused | Kind::Limited => offence.count >= threshold.into(),
    };
    (autoblock.enabled && is_over).then(|| Accusation {
        key: offence.source,
        service: name.clone(),
        enforced: service.mode == ServiceMode::Enforce,
        kind,
        count: offence.count,
        threshold: threshold.into(),
        window,
    })
}

fn announce(Automatic { net, lasts, reason, .. }: &Automatic, outcome: Option<Blocked>) {
    limited::warn(limited::Kind::Blocked, || {
        format!("{net} is blocked for {}: {reason}", humantime::format_duration(*lasts))
    });
    if let Some(why) = outcome.and_then(|outcome| outcome.not_recorded) {
        limited::warn(limited::Kind::NotRecorded, || {
            format!("the block of {net} holds, but is lost at the next boot: {why}")
        });
    }
}

fn named(nets: &[IpNet]) -> String {
    match nets {
        [net] => net.to_string(),
        nets => format!("{} networks", nets.len()),
    }
}
