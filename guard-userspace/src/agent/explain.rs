//! `guard explain`, over the maps of the kernel: with an agent and without.

use std::collections::BTreeMap;
use std::net::IpAddr;

use guard_common::parse::Protocol;
use serde::{Deserialize, Serialize};

use crate::datapath::live::Live;
use crate::datapath::publish::boot_now;
use crate::datapath::{Error, Maps};
use crate::explain::{self, Background, Explanation, Question};

/// What is asked, as it goes over the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainQuery {
    pub source: IpAddr,
    /// Without: one port of each guarded service.
    pub port: Option<u16>,
    /// `tcp` or `udp`.
    pub protocol: String,
}

impl ExplainQuery {
    /// As the query of a URL.
    pub fn to_query(&self) -> String {
        let port = self.port.map(|port| format!("&port={port}")).unwrap_or_default();
        format!("source={}&protocol={}{port}", self.source, self.protocol)
    }
}

pub const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// # Errors
/// When the maps cannot be read.
pub fn explain(
    maps: &Maps,
    query: &ExplainQuery,
    background: &Background<'_>,
) -> Result<Vec<Explanation>, Error> {
    maps.check_rules_can_be_read()?;
    let names: BTreeMap<_, _> = maps.service_names()?.into_iter().map(|(name, id)| (id, name)).collect();
    let protocol = if query.protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
    let ports = match query.port {
        Some(port) => vec![(protocol, port)],
        None => maps.first_ports()?.into_values().collect(),
    };
    let now = boot_now();
    let ask = |(protocol, port)| {
        let question = Question { source: query.source, protocol, port };
        explain::explain(&question, &Live(maps), &names, background, now)
    };
    Ok(ports.into_iter().map(ask).collect())
}
