//! What allowed clients get while a flood of strangers runs, behind guard and behind what people use instead.
//!
//! Each filter has a host with nginx at the end of a wire, by which clients and strangers come, as they do to a server in the world. Of the two
//! CPUs, which are the same for every filter,
//!
//! - one is the host's: what its interface receives (`interrupts`), so the filter and TCP, and guard's agent, nginx, and the server of streams
//!   behind that. What the filter spends on the flood is not there for the servers;
//! - one is the world's: the sender of the flood, wrk, and those who listen to streams.
//!
//! The sender keeps a pace that is the same for all filters: what it can send to whichever host it is slowest with, but for a share of its CPU that
//! the clients need. Otherwise a filter behind which clients get less would get more of the flood.
//!
//! Without a flood the clients have the world's CPU to themselves, so not all that they lose by a flood is lost at the host: filters are to be held
//! against each other.
//!
//! wrk asks anew when it is answered. So a host that answers nothing for a while is asked less in that time, and latencies look better than for
//! clients that come when they like; requests a second and stalls do not.

mod clients;
mod interrupts;
mod sender;
mod servers;
mod site;
mod wrk;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::Cpus;
use super::cost::Size;
use super::filters::Kind;
use super::spread::Spread;
use super::strangers::received;
use crate::cpu;
use crate::net::Network;
use clients::Served;
use sender::{Sender, Sent};
use site::Site;

/// How often and how long each is measured, and by how large a flood.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub rounds: u32,
    pub time: Duration,
    /// Of what the machine can send. The clients need the same CPU: with less than half, the sender has its share whatever they want.
    pub share: f64,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Goodput {
    /// Frames of strangers a second that were meant.
    pub pace: f64,
    pub rows: Vec<Row>,
}

/// What clients got.
#[derive(Clone, Debug)]
pub struct Row {
    pub filter: &'static str,
    pub flooded: bool,
    /// Frames of strangers a second.
    pub offered: Spread,
    /// What got as far as the filter, in percent of those, what clients sent included. The others found the interface's ring full.
    pub received: Spread,
    /// A second.
    pub requests: Spread,
    /// Milliseconds until an answer. A round without any counts as its length.
    pub p50: Spread,
    pub p99: Spread,
    /// Milliseconds: the longest that one of the streams was silent, or did not begin. Between tokens are 10.
    pub stall: Spread,
}

/// The filters; each is flooded, and those of [`CALM`] are measured without a flood, too.
const FILTERS: [Kind; 7] = [
    Kind::Nothing,
    Kind::Guard,
    Kind::XdpFilter,
    Kind::IptablesRaw,
    Kind::IptablesInput,
    Kind::NftablesIngress,
    Kind::NftablesInput,
];
const CALM: [Kind; 2] = [Kind::Nothing, Kind::Guard];

/// Measures all filters, round by round. `streaming_server` is the path of that program.
///
/// # Errors
/// When a tool or a second CPU is missing, or a server does not start.
pub fn measure(size: Size, effort: Effort, streaming_server: &Path) -> Result<Goodput> {
    let cpus = Cpus::find()?;
    let network = Network::new()?;
    let ends = (0..FILTERS.len()).map(|number| site::Ends::new(&network, number as u8, cpus));
    let ends: Vec<site::Ends> = ends.collect::<Result<_>>()?;
    let sites = FILTERS.iter().zip(&ends);
    // What a host does, its CPU does.
    let sites = cpu::on(cpus.host, || {
        sites.map(|(kind, ends)| Site::new(*kind, ends, size, streaming_server)).collect::<Result<Vec<_>>>()
    })?;
    let sender = Sender::new(cpus)?;
    let pace = sender.fastest(&ends)? * effort.share;
    let turns = || {
        let calm = sites.iter().filter(|site| CALM.contains(&site.kind()));
        calm.map(|site| (site, None)).chain(sites.iter().map(|site| (site, Some(pace))))
    };
    let mut measured: Vec<Vec<Turn>> = turns().map(|_| Vec::new()).collect();
    // The first round warms up.
    for round in 0..=effort.rounds {
        for ((site, pace), measured) in turns().zip(&mut measured) {
            let turn = turn(site, &sender, pace, effort.time)
                .with_context(|| format!("behind {}", site.kind().name()))?;
            if round > 0 {
                measured.push(turn);
            }
        }
    }
    let row = |((site, pace), turns): ((&Site<'_>, Option<f64>), Vec<Turn>)| row(site.kind(), pace, &turns);
    Ok(Goodput { pace, rows: turns().zip(measured).map(row).collect() })
}

/// What was measured once.
struct Turn {
    offered: f64,
    received: f64,
    served: Served,
}

/// How long a flood runs before the clients come.
const AHEAD: Duration = Duration::from_millis(100);

fn turn(site: &Site<'_>, sender: &Sender, pace: Option<f64>, time: Duration) -> Result<Turn> {
    let _interrupts = sender.interrupt(site.ends)?;
    let before = received(&site.ends.host)?;
    let stop = AtomicBool::new(false);
    let (sent, served) = thread::scope(|scope| {
        let stop = &stop;
        let flood = pace.map(|pace| {
            scope.spawn(move || sender.send(site.ends, pace, stop, AHEAD + wrk::limit(time) * 2))
        });
        thread::sleep(AHEAD);
        let served = clients::run(site.ends, sender.cpus(), time);
        stop.store(true, Ordering::Relaxed);
        let sent = flood.map(|flood| flood.join().map_err(|_| anyhow!("the sender panicked"))?);
        anyhow::Ok((sent.transpose()?, served?))
    })?;
    let received = received(&site.ends.host)? - before;
    let (offered, received) = sent.map_or((0.0, 100.0), |Sent { frames, took }| {
        (frames as f64 / took.as_secs_f64(), 100.0 * received as f64 / frames as f64)
    });
    Ok(Turn { offered, received, served })
}

fn row(kind: Kind, pace: Option<f64>, turns: &[Turn]) -> Row {
    let spread = |figure: fn(&Turn) -> f64| Spread::of(turns.iter().map(figure).collect());
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    let latencies = |figure: fn(&Served) -> Duration| {
        Spread::of(turns.iter().map(|turn| milliseconds(figure(&turn.served))).collect())
    };
    Row {
        filter: kind.name(),
        flooded: pace.is_some(),
        offered: spread(|turn| turn.offered),
        received: spread(|turn| turn.received),
        requests: spread(|turn| turn.served.answers.a_second),
        p50: latencies(|served| served.answers.p50),
        p99: latencies(|served| served.answers.p99),
        stall: latencies(|served| served.stall),
    }
}
