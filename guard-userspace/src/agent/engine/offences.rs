//! What the kernel reports: drops that it has sampled, and sources over a threshold.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::Result;
use guard_common::abi::{self, OffenceKind, Sample, ServiceId};
use serde_json::json;
use tracing::{info, warn};

use super::blocks::event_of;
use super::{Engine, lock};
use crate::autoblock::{Automatic, Decision, Kind, Offence, Rules};
use crate::blocks::{self, Protected};
use crate::config::{Autoblock, Policy, ServiceMode};
use crate::datapath::monotonic_now;
use crate::drops::Dropped;
use crate::ledger::Action;

impl Engine {
    /// Keeps drops that the kernel has sampled, for `guard events`.
    pub fn take_samples(&self, samples: &[Sample]) {
        let services = self.services_by_id();
        let (day, now) = (blocks::now(), monotonic_now());
        let at = |sample: &Sample| day.saturating_sub(now.saturating_sub(sample.at) / 1_000_000);
        let dropped = samples.iter().filter_map(|sample| Dropped::of_sample(sample, at(sample), &services));
        lock(&self.drops).add(dropped);
    }

    /// Blocks the sources that went over a threshold, unless they are spared.
    pub fn take_offences(&self, offences: &[abi::Offence]) {
        let services = self.services_by_id();
        let policy = self.policies().live().clone();
        // One source may have been reported many times over since the last look.
        let mut worst: HashMap<_, Offence> = HashMap::new();
        for offence in offences.iter().filter_map(|offence| self.told(offence, &services, &policy.autoblock))
        {
            let known = worst.entry((offence.source, offence.kind)).or_insert_with(|| offence.clone());
            if known.count < offence.count {
                *known = offence;
            }
        }
        for offence in worst.values() {
            if let Err(error) = self.judge(offence, &policy) {
                warn!("{} should be blocked ({}), and is not: {error:#}", offence.source, offence.reason());
            }
        }
    }

    /// Looks for sources that went over the threshold of connections when nobody listened.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn look_for_offenders(&self) -> Result<()> {
        let autoblock = self.policies().live().autoblock.clone();
        let threshold = u64::from(autoblock.connections);
        if !autoblock.enabled || threshold == 0 {
            return Ok(());
        }
        let now = monotonic_now();
        let over = self.maps.connections()?.into_iter().filter(|(_, count)| *count > threshold);
        let offence = |(source, count)| abi::Offence::new(OffenceKind::Connections, source, count, now, now);
        let offences: Vec<_> = over.map(offence).collect();
        if !offences.is_empty() {
            self.take_offences(&offences);
        }
        Ok(())
    }

    /// An offence as the policy sees it; none if it is of a later build, or the service is gone.
    fn told(
        &self,
        offence: &abi::Offence,
        services: &BTreeMap<ServiceId, String>,
        autoblock: &Autoblock,
    ) -> Option<Offence> {
        let (kind, threshold) = match offence.kind()? {
            OffenceKind::Connections => (Kind::Connections, autoblock.connections),
            OffenceKind::Refused => (Kind::Refused, autoblock.refused_per_minute),
            OffenceKind::Limited => (Kind::Limited, autoblock.limited_per_minute),
        };
        let window = (kind != Kind::Connections).then(|| {
            Duration::from_nanos(offence.at.saturating_sub(offence.since)).max(Duration::from_secs(1))
        });
        Some(Offence {
            source: self.maps.source_net(&offence.source),
            service: services.get(&offence.source.service())?.clone(),
            kind,
            count: offence.count,
            threshold: threshold.into(),
            window,
        })
    }

    fn judge(&self, offence: &Offence, policy: &Policy) -> Result<()> {
        let service = policy.services.iter().find(|service| service.name == offence.service);
        if service.is_none_or(|service| service.mode == ServiceMode::Monitor) {
            return Ok(());
        }
        let protected = Protected::of_host();
        let rules = Rules { autoblock: &policy.autoblock, trusted: &policy.trusted, protected: &protected };
        let mut kernel = self.kernel();
        let parts = &mut *kernel;
        let (decision, blocked) = parts.register.judge(parts.datapath.maps_mut(), &rules, offence)?;
        self.count_blocks(&kernel.register);
        drop(kernel);
        match decision {
            Decision::Block(automatic) => {
                if let Some(why) = blocked.and_then(|blocked| blocked.not_recorded) {
                    warn!("the block of {} holds, but is lost at the next boot: {why}", automatic.net);
                }
                self.carry_out(&automatic);
            }
            Decision::Exempt(why) => info!("{} is not blocked ({}): {why}", offence.source, offence.reason()),
        }
        Ok(())
    }

    /// The block is in the kernel; now its connections go.
    fn carry_out(&self, automatic: &Automatic) {
        let Automatic { net, scope, lasts, kill, reason, .. } = automatic;
        let lasts = humantime::format_duration(*lasts);
        warn!("{net} is blocked for {lasts}: {reason}");
        if *kill {
            // That it failed is logged and noted.
            let _ = self.kill_and_note(&[*net], *scope, "guard");
        }
    }

    /// Ends connections and notes in the audit log how many. Returns that, or why not.
    pub(super) fn kill_and_note(
        &self,
        nets: &[ipnet::IpNet],
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
            Ok(sockets) => info!("{sockets} connections of {} were closed", named(nets)),
            Err(why) => warn!("the connections of {} go on: {why}", named(nets)),
        }
        killed
    }

    pub(super) fn services_by_id(&self) -> BTreeMap<ServiceId, String> {
        let names = self.maps.service_names().unwrap_or_default();
        names.into_iter().map(|(name, id)| (id, name)).collect()
    }
}

fn named(nets: &[ipnet::IpNet]) -> String {
    match nets {
        [net] => net.to_string(),
        nets => format!("{} networks", nets.len()),
    }
}
