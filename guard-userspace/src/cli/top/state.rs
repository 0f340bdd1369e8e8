//! What is known, and what the person at the keys wants to see of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use anyhow::Result;
use ipnet::IpNet;

use super::style::Style;
use crate::agent::top::{SourceRate, Top, TopQuery};
use crate::blocks::{Scope, Unblocked};
use crate::cli::Global;
use crate::cli::caller::login_address;
use crate::control::{BlockAnswer, BlockRequest, UnblockRequest, path};

/// Seconds that a sparkline shows.
pub(super) const HISTORY: usize = 60;

/// How long a block made here lasts.
const BLOCKED_FOR: Duration = Duration::from_secs(3600);

/// Service, verdict and reason.
pub(super) type Kind = (String, String, String);

pub(super) struct State {
    pub(super) query: TopQuery,
    pub(super) style: Style,
    pub(super) top: Option<Top>,
    /// Packets a second of each kind, the newest last.
    pub(super) history: BTreeMap<Kind, VecDeque<u64>>,
    pub(super) events: Vec<String>,
    /// Why the agent does not answer.
    pub(super) failed: Option<String>,
    pub(super) filter: String,
    pub(super) is_typing: bool,
    pub(super) is_reversed: bool,
    pub(super) is_paused: bool,
    pub(super) shows_help: bool,
    /// Which source is selected: it stays so wherever it goes.
    pub(super) selected: Option<(IpNet, String)>,
    /// What waits for a confirmation.
    pub(super) order: Option<Order>,
    /// What became of the last order.
    pub(super) said: Option<String>,
}

impl State {
    pub(super) fn new(query: TopQuery, style: Style) -> Self {
        Self {
            query,
            style,
            top: None,
            history: BTreeMap::new(),
            events: Vec::new(),
            failed: None,
            filter: String::new(),
            is_typing: false,
            is_reversed: false,
            is_paused: false,
            shows_help: false,
            selected: None,
            order: None,
            said: None,
        }
    }

    pub(super) fn take(&mut self, top: Top) {
        self.failed = None;
        if self.is_paused {
            return;
        }
        let mut rates: BTreeMap<Kind, u64> = BTreeMap::new();
        for rate in &top.counters {
            let kind = (rate.service.clone(), rate.verdict.clone(), rate.reason.clone());
            rates.insert(kind, rate.packets_per_second.round() as u64);
        }
        for kind in rates.keys() {
            self.history.entry(kind.clone()).or_default();
        }
        for (kind, history) in &mut self.history {
            history.push_back(rates.get(kind).copied().unwrap_or(0));
            history.drain(..history.len().saturating_sub(HISTORY));
        }
        self.history.retain(|_, history| history.iter().any(|rate| *rate > 0));
        self.top = Some(top);
    }

    pub(super) fn take_events(&mut self, events: Vec<String>) {
        if !self.is_paused {
            self.events = events;
        }
    }

    pub(super) fn fail(&mut self, why: String) {
        self.failed = Some(why);
    }

    pub(super) fn say(&mut self, said: String) {
        self.said = Some(said);
    }

    /// The sources that are to be seen, in their order.
    pub(super) fn sources(&self) -> Vec<&SourceRate> {
        let all = self.top.iter().flat_map(|top| &top.sources);
        let mut sources: Vec<_> = all.filter(|source| self.is_wanted(source)).collect();
        if self.is_reversed {
            sources.reverse();
        }
        sources
    }

    /// A prefix wants what is in it, other text what has it in it.
    fn is_wanted(&self, source: &SourceRate) -> bool {
        if let Ok(net) = self.filter.parse::<IpNet>() {
            return net.contains(&source.source);
        }
        source.source.to_string().contains(&self.filter) || source.service.contains(&self.filter)
    }

    /// The place of the selected source among those that are seen.
    pub(super) fn place(&self) -> Option<usize> {
        let (net, service) = self.selected.as_ref()?;
        self.sources().iter().position(|source| source.source == *net && source.service == *service)
    }

    /// Selects another source, so many places on.
    pub(super) fn move_by(&mut self, places: isize) {
        let sources = self.sources();
        let Some(last) = sources.len().checked_sub(1) else { return };
        let next = self.place().map_or(0, |place| place.saturating_add_signed(places).min(last));
        self.selected = sources.get(next).map(|source| (source.source, source.service.clone()));
    }

    pub(super) fn selected_source(&self) -> Option<&SourceRate> {
        self.place().and_then(|place| self.sources().get(place).copied())
    }
}

/// Something to do about a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Block(IpNet),
    Unblock(IpNet),
}

impl Order {
    /// The command that does the same.
    pub(super) fn command(&self) -> String {
        match self {
            Self::Block(net) => {
                let time = humantime::format_duration(BLOCKED_FOR);
                format!("guard block {net} --for {time} --scope services --kill")
            }
            Self::Unblock(net) => format!("guard unblock {net}"),
        }
    }

    /// Returns what became of it.
    pub(super) fn carry_out(&self, global: &Global) -> Result<String> {
        match self {
            Self::Block(net) => {
                let request = BlockRequest {
                    nets: vec![*net],
                    scope: Scope::Services,
                    lasts: u64::try_from(BLOCKED_FOR.as_millis()).ok(),
                    reason: Some("guard top".into()),
                    caller: login_address(),
                    force: false,
                    kill: true,
                    skip_protected: false,
                };
                let answer: BlockAnswer = global.client().post(path::BLOCK, &request)?;
                let closed = answer.killed.map_or_else(
                    || {
                        answer
                            .not_killed
                            .map(|why| format!("; its connections go on: {why}"))
                            .unwrap_or_default()
                    },
                    |killed| format!("; connections closed: {killed}"),
                );
                Ok(format!("{net} is blocked{closed}"))
            }
            Self::Unblock(net) => {
                let request = UnblockRequest { nets: vec![*net] };
                global.client().post::<Unblocked>(path::UNBLOCK, &request)?;
                Ok(format!("{net} is not blocked any longer"))
            }
        }
    }
}
