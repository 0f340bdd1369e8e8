//! What sources send over time, for `guard recommend`.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use guard_common::Tables;
use guard_common::abi::{Class, ServiceId, SourceKey};
use tracing::warn;

use super::{Engine, lock, top};
use crate::autoblock::Hypothetical;
use crate::blocks;
use crate::config::ServiceMode;
use crate::datapath::boot_now;
use crate::datapath::live::Live;
use crate::explain::Background;
use crate::recommend::{
    Known, Look, ObserveRequest, Proposal, RecommendQuery, Sampler, Seen, names, propose,
};

/// The kernel counts for so long after this was said.
const LEASE: Duration = Duration::from_secs(5);
/// Seconds that are watched between two times that what was seen is written.
const SECONDS_A_WRITE: u64 = 60;
/// Seconds between looks: with so many sources that a look takes long there are fewer of them, so that they take no more than this part of a
/// CPU.
const STEPS: [u64; 4] = [1, 2, 5, 10];
const SHARE: f64 = 0.01;

/// What was seen, and how it is added to.
#[derive(Debug)]
pub(super) struct Observer {
    sampler: Sampler,
    seen: Seen,
    /// Asked for until then.
    until: Option<Instant>,
    /// Of the policy by which sources are judged.
    generation: u64,
    /// Seconds that were watched since nobody did.
    seconds: u64,
    /// Seconds since the last look, and how many there are to be.
    waited: u64,
    step: u64,
    file: PathBuf,
}

impl Observer {
    /// Goes on where the last agent ended. `state` is the ledger: what was seen lies beside it.
    pub(super) fn begin(state: &std::path::Path) -> Self {
        let file = state.with_extension("seen.json");
        let seen = fs::read(&file).ok().and_then(|text| Seen::read(&text)).unwrap_or_default();
        Self {
            sampler: Sampler::default(),
            seen,
            until: None,
            generation: 0,
            seconds: 0,
            waited: 0,
            step: 1,
            file,
        }
    }

    /// By a rename, so that there is a whole file at any time. Addresses of clients are in it: as the ledger it is not for everybody.
    fn write(&self) {
        let next = self.file.with_extension("json-next");
        let text = serde_json::to_vec(&self.sampler.up_to_now(&self.seen, blocks::now())).unwrap_or_default();
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&next);
        let written =
            file.and_then(|mut file| file.write_all(&text)).and_then(|()| fs::rename(&next, &self.file));
        if let Err(error) = written {
            warn!(
                "what was seen for `guard recommend` is lost if this agent ends: {}: {error}",
                self.file.display()
            );
        }
    }

    /// Ends the watching, if there was some.
    fn end(&mut self) {
        if self.seconds > 0 {
            self.sampler.end(&mut self.seen, blocks::now());
            self.write();
        }
        (self.seconds, self.waited, self.step, self.until) = (0, 0, 1, None);
    }

    /// Whether this second is one of a look. The kernel's windows end with one.
    fn is_due(&mut self) -> bool {
        self.waited += 1;
        self.waited >= self.step
    }

    /// The next look comes the later the longer this one took; a look falls on each tenth second. Who waits for an answer has one a second.
    fn pace(&mut self, took: Duration) {
        let wanted = if self.until.is_some() { 0.0 } else { took.as_secs_f64() / SHARE };
        let step = STEPS.into_iter().find(|step| *step as f64 >= wanted).unwrap_or(10);
        // Each divides the ten, but from where another has led to.
        let left = 10 - self.seconds % 10;
        self.step = step.min(left);
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
        if observer.until.is_some_and(|until| Instant::now() >= until) {
            observer.until = None;
        }
        if !monitors && observer.until.is_none() {
            observer.end();
            return Ok(());
        }
        self.maps.count_traffic(LEASE)?;
        if !observer.is_due() {
            return Ok(());
        }
        let begin = Instant::now();
        self.look(&mut observer)?;
        observer.pace(begin.elapsed());
        Ok(())
    }

    fn look(&self, observer: &mut Observer) -> Result<()> {
        let (generation, names) = (self.maps.live()?.generation, self.services_by_id());
        let traffic = self.maps.traffic()?;
        let open: HashMap<SourceKey, u64> = self.maps.connections()?.into_iter().collect();
        let reads_rules = self.maps.check_rules_can_be_read().is_ok();
        let who = |key: &SourceKey| self.known(key, &names, reads_rules);
        let (live, boot) = (Live(&self.maps), boot_now());
        let is_blocked = |key: &SourceKey| top::is_blocked(&live, key.address(), boot);
        if observer.generation != generation {
            observer.generation = generation;
            observer.sampler.ask_again(who);
        }
        let seconds = std::mem::take(&mut observer.waited);
        let look = Look { traffic: &traffic, open: &open, seconds, now: blocks::now() };
        let Observer { sampler, seen, .. } = &mut *observer;
        sampler.look(look, who, is_blocked, seen);
        let before = observer.seconds;
        observer.seconds += seconds;
        if before / SECONDS_A_WRITE != observer.seconds / SECONDS_A_WRITE {
            observer.write();
        }
        Ok(())
    }

    /// Who a source is. Limits concern those who are let in, and are not trusted.
    fn known(&self, key: &SourceKey, names: &BTreeMap<ServiceId, String>, reads_rules: bool) -> Known {
        let service = names.get(&key.service()).cloned().unwrap_or_default();
        let counts = if reads_rules {
            let live = Live(&self.maps);
            let rule = live.rule(live.epoch().live(boot_now), key.service(), key.address());
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
        lock(&self.observer).end();
    }

    /// Watches all services for a time, or forgets what was seen.
    pub fn set_observing(&self, request: ObserveRequest) {
        let mut observer = lock(&self.observer);
        if request.reset {
            observer.seen = Seen::default();
            observer.sampler = Sampler::default();
            (observer.seconds, observer.waited, observer.step) = (0, 0, 1);
            observer.write();
        }
        if let Some(lasts) = request.lasts {
            observer.until = Instant::now().checked_add(Duration::from_millis(lasts));
            observer.step = 1;
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
        let seen = observer.sampler.up_to_now(&observer.seen, blocks::now());
        drop(observer);
        let would_block = self.would_block();
        let policies = self.policies();
        let services = &policies.live().services;
        let names = names(services.iter().map(|service| (service.name.as_str(), service.limits.as_deref())));
        let threshold = policies.live().autoblock.connections;
        let proposals = services.iter().zip(&names).filter_map(|(service, name)| {
            let profile = seen.services.get(&service.name)?;
            let mut proposal = propose(&service.name, name, profile, headroom);
            proposal.doubts.extend(threshold.and_then(|threshold| proposal.doubt_of(threshold)));
            let of_service = |block: &&Hypothetical| block.service == service.name;
            proposal.would_block = would_block.iter().filter(of_service).cloned().collect();
            Some(proposal)
        });
        Ok(proposals.collect())
    }
}
