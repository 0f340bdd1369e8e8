//! What sources send over time, for `guard recommend`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use guard_common::Tables;
use guard_common::abi::{Class, ServiceId, SourceKey};
use tracing::warn;

use super::{Engine, lock};
use crate::blocks;
use crate::config::ServiceMode;
use crate::datapath::live::Live;
use crate::datapath::monotonic_now;
use crate::explain::Background;
use crate::recommend::{Known, ObserveRequest, Proposal, RecommendQuery, Sampler, Seen, propose};

/// The kernel counts for so long after a look.
const LEASE: Duration = Duration::from_secs(5);
/// How many looks, one a second, are kept between two times that what was seen is written.
const LOOKS_A_WRITE: u64 = 60;

/// What was seen, and how it is added to.
#[derive(Debug)]
pub(super) struct Observer {
    sampler: Sampler,
    seen: Seen,
    /// Asked for until then.
    until: Option<Instant>,
    /// Of the policy by which sources are judged.
    generation: u64,
    looks: u64,
    file: PathBuf,
}

impl Observer {
    /// Goes on where the last agent ended. `state` is the ledger: what was seen lies beside it.
    pub(super) fn begin(state: &std::path::Path) -> Self {
        let file = state.with_extension("seen.json");
        let seen = fs::read(&file).ok().and_then(|text| Seen::read(&text)).unwrap_or_default();
        Self { sampler: Sampler::default(), seen, until: None, generation: 0, looks: 0, file }
    }

    /// By a rename, so that there is a whole file at any time.
    fn write(&self) {
        let next = self.file.with_extension("json-next");
        let text = serde_json::to_vec(&self.seen).unwrap_or_default();
        let written = fs::write(&next, text).and_then(|()| fs::rename(&next, &self.file));
        if let Err(error) = written {
            warn!(
                "what was seen for `guard recommend` is lost if this agent ends: {}: {error}",
                self.file.display()
            );
        }
    }
}

impl Engine {
    /// Looks at what sources have sent, if that is wanted: once a second.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn observe(&self) -> Result<()> {
        let mut observer = lock(&self.observer);
        let monitors =
            self.policies().live().services.iter().any(|service| service.mode == ServiceMode::Monitor);
        if !monitors && observer.until.is_none_or(|until| Instant::now() >= until) {
            if observer.looks > 0 {
                observer.write();
            }
            (observer.looks, observer.until) = (0, None);
            observer.sampler.forget();
            return Ok(());
        }
        self.maps.count_traffic(LEASE)?;
        let generation = self.maps.live()?.generation;
        if observer.generation != generation {
            observer.generation = generation;
            observer.sampler.forget();
        }
        let names = self.services_by_id();
        let traffic = self.maps.traffic()?;
        let open: HashMap<SourceKey, u64> = self.maps.connections()?.into_iter().collect();
        let Observer { sampler, seen, .. } = &mut *observer;
        let reads_rules = self.maps.check_rules_can_be_read().is_ok();
        let who = |key: &SourceKey| self.known(key, &names, reads_rules);
        sampler.tick(&traffic, &open, who, seen, blocks::now());
        observer.looks += 1;
        if observer.looks.is_multiple_of(LOOKS_A_WRITE) {
            observer.write();
        }
        Ok(())
    }

    /// Who a source is. Limits concern those who are let in, and are not trusted.
    fn known(&self, key: &SourceKey, names: &BTreeMap<ServiceId, String>, reads_rules: bool) -> Known {
        let service = names.get(&key.service()).cloned().unwrap_or_default();
        let counts = if reads_rules {
            let live = Live(&self.maps);
            let rule = live.rule(live.epoch().live(monotonic_now), key.service(), key.address());
            rule.is_some_and(|rule| rule.class() == Class::Allow)
        } else {
            // Slower, with very many prefixes.
            let policies = self.policies();
            let background = Background { policy: Some(policies.live()), ..Background::default() };
            let rule = background.rule(&service, IpAddr::from(key.address()));
            rule.is_some_and(|rule| rule.list == "allow")
        };
        Known { net: self.maps.source_net(key), service, counts }
    }

    /// Keeps what was seen for the next agent.
    pub fn keep_seen(&self) {
        let observer = lock(&self.observer);
        if observer.looks > 0 {
            observer.write();
        }
    }

    /// Watches all services for a time, or forgets what was seen.
    pub fn set_observing(&self, request: ObserveRequest) {
        let mut observer = lock(&self.observer);
        if request.reset {
            observer.seen = Seen::default();
            observer.sampler.forget();
            observer.write();
        }
        if let Some(lasts) = request.lasts {
            observer.until = Instant::now().checked_add(Duration::from_millis(lasts));
        }
    }

    /// Limits for the services of which something was seen.
    ///
    /// # Errors
    /// When the headroom is less than 1.
    pub fn recommend(&self, query: &RecommendQuery) -> Result<Vec<Proposal>> {
        let headroom = (1.0..=1000.0).contains(&query.headroom).then_some(query.headroom);
        let headroom = headroom.context("the headroom is from 1 to 1000")?;
        let observer = lock(&self.observer);
        let policies = self.policies();
        let services = policies.live().services.iter().filter_map(|service| {
            let profile = observer.seen.services.get(&service.name)?;
            let name = service.limits.as_ref().unwrap_or(&service.name);
            Some(propose(&service.name, name, profile, headroom))
        });
        Ok(services.collect())
    }
}
