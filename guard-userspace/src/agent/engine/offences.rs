//! What the kernel reports: drops that it has sampled, and sources over a threshold.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use guard_common::abi::{self, OffenceKind, Sample, ServiceId, SourceKey};
use ipnet::IpNet;
use serde_json::json;

use super::blocks::event_of;
use super::{Engine, lock};
use crate::agent::problems::Topic;
use crate::autoblock::{Automatic, Decision, Kind, Offence, Rules};
use crate::blocks::{self, Protected};
use crate::config::{Policy, Service, ServiceMode};
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
        let mut worst: HashMap<_, Offence> = HashMap::new();
        for offence in recent.filter_map(|offence| self.told(offence, &services, &policy)) {
            let key = (offence.source, offence.service.clone(), offence.kind);
            let known = worst.entry(key).or_insert_with(|| offence.clone());
            if known.count < offence.count {
                *known = offence;
            }
        }
        let mut blocked = Vec::new();
        for offence in worst.values() {
            match self.judge(offence, &policy) {
                Ok(decision) => blocked.extend(decision),
                Err(error) => {
                    self.note_not_blocked(offence, &error);
                }
            }
        }
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

    /// Looks for sources that went over the threshold of connections when nobody listened, by how many each has open.
    pub(super) fn look_for_offenders(&self, open: &[(SourceKey, u64)]) {
        let (enabled, threshold) = {
            let policies = self.policies();
            let autoblock = &policies.live().autoblock;
            (autoblock.enabled, u64::from(autoblock.connections))
        };
        if !enabled || threshold == 0 {
            return;
        }
        let now = boot_now();
        let over = open.iter().filter(|(_, count)| *count > threshold);
        let offence =
            |(source, count): &_| abi::Offence::new(OffenceKind::Connections, *source, *count, now, now);
        let offences: Vec<_> = over.map(offence).collect();
        let sources = offences.iter().map(|offence| self.maps.source_net(&offence.source)).collect();
        self.kernel().register.keep_pardons(&sources);
        if !offences.is_empty() {
            self.take_offences(&offences);
        }
    }

    /// An offence as the policy sees it; none if it is of a later build, the service is gone or only monitors, or the threshold is another one
    /// by now.
    fn told(
        &self,
        offence: &abi::Offence,
        services: &BTreeMap<ServiceId, String>,
        policy: &Policy,
    ) -> Option<Offence> {
        let autoblock = &policy.autoblock;
        let (kind, threshold) = match offence.kind()? {
            OffenceKind::Connections => (Kind::Connections, autoblock.connections),
            OffenceKind::Refused => (Kind::Refused, autoblock.refused_per_minute),
            OffenceKind::Limited => (Kind::Limited, autoblock.limited_per_minute),
        };
        let window = (kind != Kind::Connections).then(|| {
            Duration::from_nanos(offence.at.saturating_sub(offence.since)).max(Duration::from_secs(1))
        });
        let service = services.get(&offence.source.service())?;
        let enforces = |service: &&Service| service.mode == ServiceMode::Enforce;
        policy.services.iter().filter(enforces).find(|known| known.name == *service)?;
        let is_over = match kind {
            Kind::Connections => offence.count > threshold.into(),
            Kind::Refused | Kind::Limited => offence.count >= threshold.into(),
        };
        (threshold != 0 && is_over).then(|| Offence {
            source: self.maps.source_net(&offence.source),
            service: service.clone(),
            kind,
            count: offence.count,
            threshold: threshold.into(),
            window,
        })
    }

    /// Returns the block, if there is one.
    fn judge(&self, offence: &Offence, policy: &Policy) -> Result<Option<Automatic>> {
        let protected = lock(&self.courtesies).protected();
        let rules = Rules { autoblock: &policy.autoblock, trusted: &policy.trusted, protected: &protected };
        let mut kernel = self.kernel();
        let parts = &mut *kernel;
        let (decision, blocked) = parts.register.judge(parts.datapath.maps_mut(), &rules, offence)?;
        self.count_blocks(&kernel.register);
        drop(kernel);
        match decision {
            Decision::Block(automatic) => {
                let Automatic { net, lasts, reason, .. } = &automatic;
                limited::warn(limited::Kind::Blocked, || {
                    format!("{net} is blocked for {}: {reason}", humantime::format_duration(*lasts))
                });
                if let Some(why) = blocked.and_then(|blocked| blocked.not_recorded) {
                    limited::warn(limited::Kind::NotRecorded, || {
                        format!("the block of {net} holds, but is lost at the next boot: {why}")
                    });
                }
                Ok(Some(automatic))
            }
            Decision::Exempt(why) => {
                limited::info(limited::Kind::Spared, || {
                    format!("{} is not blocked ({}): {why}", offence.source, offence.reason())
                });
                Ok(None)
            }
        }
    }

    /// A flood of offenders is one problem, however many it has.
    fn note_not_blocked(&self, offence: &Offence, error: &anyhow::Error) {
        limited::warn(limited::Kind::NotBlocked, || {
            format!("{} should be blocked ({}), and is not: {error:#}", offence.source, offence.reason())
        });
        let problem = format!("sources that offend are not blocked: {error:#}");
        self.problems.set_for(Topic::NotBlocked, problem, Self::NOT_BLOCKED_FOR);
    }

    /// Ends connections and notes in the audit log how many. Returns that, or why not.
    pub(super) fn kill_and_note(
        &self,
        nets: &[IpNet],
        scope: blocks::Scope,
        by: &str,
    ) -> Result<usize, String> {
        let killed = self.kill(nets, scope).map_err(|error| format!("{error:#}"));
        let net = if let [net] = nets { Some(*net) } else { None };
        let outcome = killed.clone().map(|sockets| Some(json!({ "sockets": sockets })));
        let event = event_of(Action::Kill, by, outcome);
        self.kernel().register.record(crate::ledger::Event { net, ..event });
        match &killed {
            Ok(0) => {}
            Ok(sockets) => limited::info(limited::Kind::Killed, || {
                format!("{sockets} connections of {} were closed", named(nets))
            }),
            Err(why) => limited::warn(limited::Kind::NotKilled, || {
                format!("the connections of {} go on: {why}", named(nets))
            }),
        }
        killed
    }

    pub(super) fn services_by_id(&self) -> BTreeMap<ServiceId, String> {
        let names = self.maps.service_names().unwrap_or_default();
        names.into_iter().map(|(name, id)| (id, name)).collect()
    }
}

fn named(nets: &[IpNet]) -> String {
    match nets {
        [net] => net.to_string(),
        nets => format!("{} networks", nets.len()),
    }
}

/// What makes exemptions cheap: a trusted source over a threshold is reported with each connection that it opens.
#[derive(Debug, Default)]
pub(super) struct Courtesies {
    protected: Option<(Instant, Arc<Protected>)>,
}

impl Courtesies {
    const PROTECTED_FOR: Duration = Duration::from_secs(1);

    /// The addresses that this host needs, as they were a moment ago.
    fn protected(&mut self) -> Arc<Protected> {
        match &self.protected {
            Some((at, protected)) if at.elapsed() < Self::PROTECTED_FOR => Arc::clone(protected),
            _ => {
                let protected = Arc::new(Protected::of_host());
                self.protected = Some((Instant::now(), Arc::clone(&protected)));
                protected
            }
        }
    }
}
