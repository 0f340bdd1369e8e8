//! A policy as the entries of the tables: pure data, which the kernel's maps and the tables in memory are filled from.

mod compile;
mod rules;

use guard_common::abi::{self, LimitsId, PORT_WORDS, PortWord, Rule, ServiceId, Thresholds, port_word};
use guard_common::epoch::Slot;
use guard_common::parse::Protocol;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use compile::{CompileError, compile};

/// The entries of one generation of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub services: Vec<PlannedService>,
    /// The port table of one slot.
    pub ports: Vec<PortWord>,
    /// By their number; the first, [`LimitsId::NONE`], is without limits.
    pub limits: Vec<abi::Limits>,
    pub rules_v4: Vec<PlannedRule<Ipv4Net>>,
    pub rules_v6: Vec<PlannedRule<Ipv6Net>>,
    /// The addresses that services are reached at, of those that name some.
    pub destinations: Vec<(ServiceId, IpNet)>,
    /// Whether any service enforces its policy.
    pub enforces: bool,
    /// From what on the agent is told of a source.
    pub thresholds: Thresholds,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedService {
    pub id: ServiceId,
    pub name: String,
    pub entry: abi::Service,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedRule<N> {
    pub service: ServiceId,
    pub net: N,
    pub rule: Rule,
}

impl Plan {
    /// A plan that guards nothing.
    pub fn empty() -> Self {
        Self {
            services: Vec::new(),
            ports: vec![[0; 8]; PORT_WORDS as usize / 2],
            limits: vec![abi::Limits::default()],
            rules_v4: Vec::new(),
            rules_v6: Vec::new(),
            destinations: Vec::new(),
            enforces: false,
            thresholds: Thresholds::default(),
        }
    }

    fn guard_port(&mut self, protocol: Protocol, port: u16, service: ServiceId) {
        let (word, place) = port_word(Slot::A, protocol, port);
        self.ports[word as usize][place] = service.get();
    }

    /// The service of a port.
    pub fn service_at(&self, protocol: Protocol, port: u16) -> Option<ServiceId> {
        let (word, place) = port_word(Slot::A, protocol, port);
        match self.ports[word as usize][place] {
            0 => None,
            id => Some(ServiceId::new(id)),
        }
    }

    pub fn limits(&self, id: LimitsId) -> Option<&abi::Limits> {
        self.limits.get(usize::from(id.get()))
    }
}
