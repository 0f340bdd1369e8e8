//! The count of connections: held against the sockets that exist, and shown.

use std::collections::{BTreeSet, HashMap};

use anyhow::Result;
use guard_common::abi::{FlowKey, Tracked};
use tracing::{debug, warn};

use super::{Engine, lock};
use crate::config::{Policy, Protocol};
use crate::connections::{self, Reconciler, Seen, SourceConnections};
use crate::sockets::{Listing, Sockets, State};

/// What is needed to look at the sockets, and what was found at the last look.
#[derive(Default)]
pub(super) struct Watch {
    sockets: Option<Sockets>,
    reconciler: Reconciler,
    /// Connections that were counted wrongly.
    drift: u64,
    /// Namespaces that could not be looked into, and why.
    notes: Vec<String>,
}

impl Engine {
    /// Holds the count against the sockets and corrects it.
    ///
    /// # Errors
    /// When the sockets or the maps cannot be read.
    pub fn reconcile(&self) -> Result<()> {
        let ports = self.guarded_ports();
        let mut watch = lock(&self.watch);
        let counts = self.maps.connections()?.into_iter().collect();
        let tracked = self.maps.tracked()?.into_iter().collect();
        let listing = watch.list(&ports)?;
        let sockets = self.tracked_of(&listing);
        let all_sockets = listing.notes.is_empty();
        let repair = watch.reconciler.compare(&Seen { counts, tracked, sockets, all_sockets });
        if repair.drift > 0 {
            warn!("{} connections were counted wrongly, and are counted right now", repair.drift);
        }
        watch.drift += repair.drift;
        watch.note(listing.notes);
        drop(watch);
        let mut kernel = self.kernel();
        for correction in &repair.corrections {
            kernel.datapath.correct(correction)?;
        }
        for source in repair.idle {
            kernel.datapath.forget_source(source)?;
        }
        Ok(())
    }

    /// What each source has open, the one with most first.
    ///
    /// # Errors
    /// When the sockets or the maps cannot be read.
    pub fn connections(&self) -> Result<Vec<SourceConnections>> {
        let listing = lock(&self.watch).list(&self.guarded_ports())?;
        Ok(connections::by_source(&self.maps, &listing)?)
    }

    /// Connections that were counted wrongly since the agent started.
    pub(super) fn drift(&self) -> u64 {
        lock(&self.watch).drift
    }

    /// The TCP ports of the live policy.
    pub(super) fn guarded_ports(&self) -> BTreeSet<u16> {
        tcp_ports(self.policies().live())
    }

    /// The established connections, as the kernel's program would count them.
    fn tracked_of(&self, listing: &Listing) -> HashMap<u64, Tracked> {
        let established =
            listing.connections.iter().filter(|connection| connection.state == State::Established);
        let tracked = |connection: &crate::sockets::Connection| {
            let source = self.maps.source_of(connection.client.ip(), connection.service_port)?;
            let flow = FlowKey::new(connection.client.ip().into(), connection.client.port());
            Some((connection.cookie, Tracked { source, flow }))
        };
        established.filter_map(tracked).collect()
    }
}

impl Watch {
    /// The connections to these ports, in every namespace.
    pub(super) fn list(&mut self, ports: &BTreeSet<u16>) -> Result<Listing> {
        Ok(self.sockets()?.list(ports)?)
    }

    pub(super) fn sockets(&mut self) -> Result<&mut Sockets> {
        if self.sockets.is_none() {
            self.sockets = Some(Sockets::new()?);
        }
        // It was just put there.
        self.sockets.as_mut().ok_or_else(|| anyhow::anyhow!("no sockets"))
    }

    fn note(&mut self, notes: Vec<String>) {
        if self.notes != notes {
            notes.iter().for_each(|note| debug!("{note}"));
            self.notes = notes;
        }
    }
}

fn tcp_ports(policy: &Policy) -> BTreeSet<u16> {
    let services = policy.services.iter().filter(|service| service.protocols.contains(&Protocol::Tcp));
    services.flat_map(|service| service.ports.iter().cloned().flatten()).collect()
}
