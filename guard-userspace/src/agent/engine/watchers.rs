//! Who watches drops: captures, and the log.
//!
//! The kernel is told what all of them want together, for a few seconds at a time: when this agent dies nothing stays switched on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use guard_common::Address;
use guard_common::abi::{Captured, Sample, ServiceId, Watch};
use guard_common::watch::{Reasons, Wanted};
use nix::net::if_::if_indextoname;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tracing::info;

use super::{Engine, lock};
use crate::blocks;
use crate::capture::{CaptureQuery, CapturedPacket, Line, Missed, mapped, named, reasons};
use crate::datapath::{KernelLog, boot_now};
use crate::drops::Dropped;
use crate::limited::{self, Kind};

/// How long the kernel shows drops without being told again.
const LEASE: Duration = Duration::from_secs(3);
/// So many captures at a time.
const MOST: usize = 8;
/// So many lines wait for a reader that is slow: about 2 MB.
const WAITING: usize = 4096;

/// Those who watch at this moment.
#[derive(Default)]
pub(super) struct Watchers {
    captures: Vec<Capture>,
    next: u64,
    log: Log,
}

struct Capture {
    id: u64,
    wanted: Wanted,
    lines: Sender<Line>,
    /// What the kernel had not shown when it began: past the allowance, and for want of room.
    before: (u64, u64),
    /// For want of room on the way to the reader.
    lost: u64,
    told: Missed,
}

/// Whether drops are logged.
#[derive(Clone, Copy, Debug, Default)]
enum Log {
    #[default]
    Off,
    Until(Instant),
    Always,
}

/// Why a capture does not begin.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("there is no reason {name:?}: {}", reasons().map(guard_common::Reason::name).collect::<Vec<_>>().join(", "))]
    NoReason { name: String },
    #[error("there is no service {name:?} in the policy: {}", known.join(", "))]
    NoService { name: String, known: Vec<String> },
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// A capture that runs until this is dropped.
pub struct Capturing {
    engine: Arc<Engine>,
    id: u64,
    pub lines: Receiver<Line>,
}

impl Drop for Capturing {
    fn drop(&mut self) {
        let mut watchers = lock(&self.engine.watchers);
        watchers.captures.retain(|capture| capture.id != self.id);
        // If it fails the kernel ends it by itself.
        let _ = self.engine.tell_kernel(&mut watchers);
    }
}

impl Watchers {
    /// Nobody watches yet; drops are logged from the start, or not.
    pub(super) fn begin(log_drops: bool) -> Self {
        Self { log: if log_drops { Log::Always } else { Log::Off }, ..Self::default() }
    }

    fn logs(&self) -> bool {
        match self.log {
            Log::Off => false,
            Log::Until(end) => Instant::now() < end,
            Log::Always => true,
        }
    }

    /// What the kernel is told.
    fn watch(&self) -> Watch {
        let wanted = self.captures.iter().map(|capture| capture.wanted).reduce(Wanted::or);
        let until = boot_now().saturating_add(u64::try_from(LEASE.as_nanos()).unwrap_or(u64::MAX));
        Watch::new(until, wanted, self.logs())
    }
}

impl Capture {
    fn wants(&self, drop: &Sample) -> bool {
        let watch = Watch::new(u64::MAX, Some(self.wanted), false);
        watch.wants(watch.word, drop)
    }

    /// Tells the reader how much is missing, if that is more than it knows.
    fn tell_missed(&mut self, not_shown: (u64, u64)) {
        let missed = Missed {
            left_out: not_shown.0.saturating_sub(self.before.0),
            lost: not_shown.1.saturating_sub(self.before.1) + self.lost,
        };
        if missed != self.told && self.lines.try_send(Line::Missed(missed)).is_ok() {
            self.told = missed;
        }
    }
}

impl Engine {
    /// Begins a capture of what is dropped from now on.
    ///
    /// # Errors
    /// When there is no such reason or service, or when too many run already.
    pub fn capture(self: &Arc<Self>, query: &CaptureQuery) -> Result<Capturing, CaptureError> {
        let wanted = self.wanted(query)?;
        let interfaces = self.status()?.interfaces.into_iter().map(|interface| interface.name).collect();
        let before = self.maps.not_shown().context("what is not shown cannot be read")?;
        let (sender, lines) = mpsc::channel(WAITING);
        let mut watchers = lock(&self.watchers);
        if watchers.captures.len() >= MOST {
            return Err(anyhow!("{MOST} captures run already: end one of them").into());
        }
        let id = watchers.next;
        watchers.next += 1;
        // There is room for the first line.
        let _ = sender.try_send(Line::Begin { interfaces });
        watchers.captures.push(Capture {
            id,
            wanted,
            lines: sender,
            before,
            lost: 0,
            told: Missed::default(),
        });
        let told = self.tell_kernel(&mut watchers);
        drop(watchers);
        // From here on it ends with this.
        let capturing = Capturing { engine: Arc::clone(self), id, lines };
        told?;
        Ok(capturing)
    }

    fn wanted(&self, query: &CaptureQuery) -> Result<Wanted, CaptureError> {
        let reasons = match &query.reasons {
            None => Reasons::all(),
            Some(names) => {
                named(names.split(',')).map_err(|name| CaptureError::NoReason { name: name.to_owned() })?
            }
        };
        let service = match &query.service {
            None => ServiceId::NONE,
            Some(name) => {
                let known = self.maps.service_names().context("the services cannot be read")?;
                let id = known.get(name).copied();
                id.ok_or_else(|| CaptureError::NoService {
                    name: name.clone(),
                    known: known.into_keys().collect(),
                })?
            }
        };
        let wanted = Wanted { reasons, service, ..Wanted::default() };
        Ok(match query.source.map(mapped) {
            Some((source, bits)) => wanted.only_from(Address::from(source), bits),
            None => wanted,
        })
    }

    /// Hands on what the kernel shows.
    pub fn take_captures(&self, batch: &[Captured]) {
        let services = self.services_by_id();
        let (day, now) = (nanoseconds_since_epoch(), boot_now());
        let not_shown = self.maps.not_shown().unwrap_or_default();
        let mut names = BTreeMap::new();
        let mut watchers = lock(&self.watchers);
        for capture in &mut watchers.captures {
            // Before the packets: who has enough packets reads no further.
            capture.tell_missed(not_shown);
        }
        for captured in batch {
            let at = day.saturating_sub(now.saturating_sub(captured.drop.at));
            let Some(dropped) = Dropped::of_sample(&captured.drop, at / 1_000_000, &services) else {
                continue;
            };
            let interface = names.entry(captured.interface).or_insert_with(|| name_of(captured.interface));
            let packet = CapturedPacket {
                at,
                interface: interface.clone(),
                verdict: dropped.verdict,
                reason: dropped.reason,
                service: dropped.service,
                length: dropped.length,
                frame: captured.frame().to_vec(),
            };
            for capture in watchers.captures.iter_mut().filter(|capture| capture.wants(&captured.drop)) {
                if capture.lines.try_send(Line::Packet(packet.clone())).is_err() {
                    capture.lost += 1;
                }
            }
        }
    }

    /// Begins to log drops, for a time, or ends it (`None`). Returns when it ends, in milliseconds since the epoch.
    ///
    /// # Errors
    /// When the kernel cannot be told.
    pub fn log_drops(&self, lasts: Option<Duration>, by: &str) -> Result<Option<u64>> {
        let mut watchers = lock(&self.watchers);
        watchers.log = match lasts.map(|lasts| Instant::now().checked_add(lasts)) {
            None => Log::Off,
            Some(Some(end)) => Log::Until(end),
            Some(None) => Log::Always,
        };
        self.tell_kernel(&mut watchers)?;
        drop(watchers);
        match lasts {
            Some(lasts) => info!("{by} has drops logged for {}", humantime::format_duration(lasts)),
            None => info!("{by} has drops logged no longer"),
        }
        let millis = |lasts: Duration| u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        Ok(lasts.map(|lasts| blocks::now().saturating_add(millis(lasts))))
    }

    /// Writes drops that the kernel has logged to the log of this agent.
    pub fn write_drops(&self, drops: &[Sample]) {
        let services = self.services_by_id();
        let now = blocks::now();
        for dropped in drops.iter().filter_map(|drop| Dropped::of_sample(drop, now, &services)) {
            info!("{dropped}");
        }
    }

    /// What the program logs.
    ///
    /// # Errors
    /// When it was taken before.
    pub fn kernel_log(&self) -> Result<KernelLog> {
        self.kernel().datapath.kernel_log().context("the log of the program cannot be read")
    }

    /// Tells the kernel once more what is wanted, and those who watch what they miss.
    pub fn renew_watch(&self) {
        let mut watchers = lock(&self.watchers);
        if let Log::Until(end) = watchers.log
            && Instant::now() >= end
        {
            info!("drops are logged no longer: the time is over");
            watchers.log = Log::Off;
        } else if watchers.captures.is_empty() && !watchers.logs() {
            return;
        }
        if let Err(error) = self.tell_kernel(&mut watchers) {
            limited::warn(Kind::NoDrops, || format!("the kernel shows no drops: {error:#}"));
        }
        let not_shown = self.maps.not_shown().unwrap_or_default();
        for capture in &mut watchers.captures {
            capture.tell_missed(not_shown);
        }
    }

    /// Nobody watches any longer: the agent ends.
    pub fn end_watch(&self) {
        let mut watchers = lock(&self.watchers);
        watchers.captures.clear();
        watchers.log = Log::Off;
        // If it fails the kernel ends it by itself.
        let _ = self.tell_kernel(&mut watchers);
    }

    /// Under the lock, so that the last word is that of the last change.
    fn tell_kernel(&self, watchers: &mut Watchers) -> Result<()> {
        self.maps.set_watch(&watchers.watch()).context("the kernel cannot be told what to show of drops")
    }
}

fn name_of(interface: u32) -> String {
    let name = if_indextoname(interface).ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| format!("index {interface}"))
}

fn nanoseconds_since_epoch() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
