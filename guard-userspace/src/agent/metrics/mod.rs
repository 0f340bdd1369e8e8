//! The metrics.
//!
//! | module | what it does |
//! | --- | --- |
//! | `format` | the formats, and which of them is asked for |
//! | `openmetrics` | writes one of them |
//!
//! The maps of the kernel are the counters; each scrape reads them once into a registry of its own. So a counter outlives the agent, and
//! one scrape is of one moment. docs/metrics.md says of each metric what it means.

mod format;
mod openmetrics;

use ipnet::IpNet;
use nix::time::{ClockId, clock_gettime};
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::status::{NOT_ATTACHED, Status};

pub use format::Format;

/// What is told of a source by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceCounts {
    pub source: IpNet,
    pub service: String,
    pub packets: u64,
    /// Those of them that were dropped, or would have been.
    pub dropped: u64,
    pub connections: u64,
}

/// The values of `status`, those of sources that are asked for by name, and what this process takes.
///
/// # Errors
/// When a metric is refused by the registry: a bug.
pub fn gather(status: &Status, leaders: &[SourceCounts]) -> prometheus::Result<Vec<MetricFamily>> {
    let registry = Registry::new();
    add(&registry, counters(status)?)?;
    add(&registry, interfaces(status)?)?;
    add(&registry, policy(status)?)?;
    add(&registry, maps(status)?)?;
    add(&registry, connections(status)?)?;
    add(&registry, blocks(status)?)?;
    if !leaders.is_empty() {
        let (counters, gauge) = sources(leaders)?;
        add(&registry, counters)?;
        add(&registry, [gauge])?;
    }
    add(&registry, [blocks_added(status)?])?;
    add(&registry, lost(status)?)?;
    add(&registry, [build_info(status)?])?;
    registry.register(Box::new(ProcessCollector::for_self()))?;
    let mut families = registry.gather();
    for family in families.iter_mut().filter(|family| family.name() == CPU_TIME) {
        family.set_metric(cpu_time()?.collect().iter_mut().flat_map(MetricFamily::take_metric).collect());
    }
    Ok(families)
}

const CPU_TIME: &str = "process_cpu_seconds_total";

/// What this process has spent of a CPU. The library's own counts whole seconds, and the agent takes minutes to spend one.
fn cpu_time() -> prometheus::Result<Counter> {
    let spent = Counter::new(CPU_TIME, "Total user and system CPU time spent in seconds.")?;
    if let Ok(time) = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID) {
        spent.inc_by(std::time::Duration::from(time).as_secs_f64());
    }
    Ok(spent)
}

fn add<C: Collector + 'static>(
    registry: &Registry,
    metrics: impl IntoIterator<Item = C>,
) -> prometheus::Result<()> {
    metrics.into_iter().try_for_each(|metric| registry.register(Box::new(metric)))
}

fn counters(status: &Status) -> prometheus::Result<[IntCounterVec; 2]> {
    let labels = ["service", "verdict", "reason"];
    let packets = IntCounterVec::new(
        Opts::new("guard_packets_total", "Packets by service (none: \"\"), verdict and reason."),
        &labels,
    )?;
    let bytes = IntCounterVec::new(
        Opts::new("guard_bytes_total", "Bytes of frames by service (none: \"\"), verdict and reason."),
        &labels,
    )?;
    for counter in &status.counters {
        let labels = [counter.service.as_str(), &counter.verdict, &counter.reason];
        packets.with_label_values(&labels).inc_by(counter.packets);
        bytes.with_label_values(&labels).inc_by(counter.bytes);
    }
    Ok([packets, bytes])
}

fn interfaces(status: &Status) -> prometheus::Result<[IntGaugeVec; 1]> {
    let attached = IntGaugeVec::new(
        Opts::new(
            "guard_attached",
            "1 for each interface that the program is on, by its mode; 0 for one that it should be on and is not.",
        ),
        &["interface", "mode"],
    )?;
    for interface in &status.interfaces {
        let is_there = interface.mode != NOT_ATTACHED;
        attached.with_label_values(&[&interface.name, &interface.mode]).set(i64::from(is_there));
    }
    Ok([attached])
}

fn maps(status: &Status) -> prometheus::Result<[IntGaugeVec; 2]> {
    let gauge = |name, help| IntGaugeVec::new(Opts::new(name, help), &["map"]);
    let entries =
        gauge("guard_map_entries", "Entries of a table in the kernel; above 4,096 within a few percent.")?;
    let capacity = gauge("guard_map_capacity", "Room of a table in the kernel, in entries.")?;
    for map in &status.maps {
        entries.with_label_values(&[&map.map]).set(signed(map.entries));
        if let Some(room) = map.capacity {
            capacity.with_label_values(&[&map.map]).set(signed(room));
        }
    }
    Ok([entries, capacity])
}

fn connections(status: &Status) -> prometheus::Result<[IntGaugeVec; 2]> {
    let gauge = |name, help| IntGaugeVec::new(Opts::new(name, help), &["service"]);
    let open = gauge("guard_connections", "TCP connections of clients that servers of the service hold.")?;
    let sources = gauge("guard_sources", "Sources that have connections to the service.")?;
    for count in &status.connections {
        open.with_label_values(&[&count.service]).set(signed(count.connections));
        sources.with_label_values(&[&count.service]).set(signed(count.sources));
    }
    Ok([open, sources])
}

fn sources(leaders: &[SourceCounts]) -> prometheus::Result<([IntCounterVec; 2], IntGaugeVec)> {
    let labels = ["service", "source"];
    let counter = |name, help| IntCounterVec::new(Opts::new(name, help), &labels);
    let packets = counter(
        "guard_source_packets_total",
        "Packets of a source that is among the first of its service, since it was first seen; [metrics] top_sources.",
    )?;
    let dropped = counter(
        "guard_source_dropped_packets_total",
        "Packets of such a source that were dropped, or would have been.",
    )?;
    let open = IntGaugeVec::new(
        Opts::new("guard_source_connections", "TCP connections that such a source has open."),
        &labels,
    )?;
    for counts in leaders {
        let source = counts.source.to_string();
        let labels = [counts.service.as_str(), &source];
        packets.with_label_values(&labels).inc_by(counts.packets);
        dropped.with_label_values(&labels).inc_by(counts.dropped);
        open.with_label_values(&labels).set(signed(counts.connections));
    }
    Ok(([packets, dropped], open))
}

fn blocks(status: &Status) -> prometheus::Result<[IntGaugeVec; 1]> {
    let blocks =
        IntGaugeVec::new(Opts::new("guard_blocks", "Addresses and prefixes that are blocked."), &["origin"])?;
    blocks.with_label_values(&["manual"]).set(signed(status.blocks.manual));
    blocks.with_label_values(&["auto"]).set(signed(status.blocks.auto));
    Ok([blocks])
}

fn blocks_added(status: &Status) -> prometheus::Result<IntCounterVec> {
    let help = "Blocks that were added since the agent started.";
    let added = IntCounterVec::new(Opts::new("guard_blocks_added_total", help), &["origin"])?;
    added.with_label_values(&["manual"]).inc_by(status.blocks.added_manual);
    added.with_label_values(&["auto"]).inc_by(status.blocks.added_auto);
    Ok(added)
}

fn lost(status: &Status) -> prometheus::Result<[IntCounter; 6]> {
    Ok([
        counter(
            "guard_sockets_killed_total",
            "Connections of blocked sources that were closed since the agent started.",
            status.sockets_killed,
        )?,
        counter(
            "guard_connection_drift_total",
            "Connections that were counted wrongly and corrected since the agent started: normally 0.",
            status.connection_drift,
        )?,
        counter(
            "guard_block_drift_total",
            "Entries of blocks that another program had changed in the kernel and that were mended since the agent started: normally 0.",
            status.block_drift,
        )?,
        counter(
            "guard_events_lost_total",
            "Events that the kernel could not tell the agent: it reads too slowly, or does not run.",
            status.lost.events,
        )?,
        counter(
            "guard_connections_untracked_total",
            "Connections that are not counted, since the table of them is full: raise [capacity] connections.",
            status.lost.connections,
        )?,
        counter(
            "guard_log_lines_lost_total",
            "Lines of the agent's log that were lost since it started: the reader of its stderr is too slow.",
            status.lost.log_lines,
        )?,
    ])
}

fn counter(name: &str, help: &str, value: u64) -> prometheus::Result<IntCounter> {
    let counter = IntCounter::new(name, help)?;
    counter.inc_by(value);
    Ok(counter)
}

fn policy(status: &Status) -> prometheus::Result<[IntGauge; 4]> {
    let policy = &status.policy;
    Ok([
        set(
            "guard_problems",
            "What is not as it should be and could not be mended: guard status names each.",
            status.problems.len() as u64,
        )?,
        set(
            "guard_policy_generation",
            "Counts the policies that were made live; grows with each.",
            policy.generation,
        )?,
        set(
            "guard_policy_last_reload_successful",
            "0 if the policy that was read last was refused; the one before is live.",
            u64::from(policy.reload_error.is_none()),
        )?,
        set(
            "guard_policy_last_reload_success_timestamp_seconds",
            "When a policy was made live last, in seconds since the epoch.",
            policy.loaded_at.unwrap_or(0),
        )?,
    ])
}

fn set(name: &str, help: &str, value: u64) -> prometheus::Result<IntGauge> {
    let gauge = IntGauge::new(name, help)?;
    gauge.set(signed(value));
    Ok(gauge)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn build_info(status: &Status) -> prometheus::Result<IntGaugeVec> {
    let info = IntGaugeVec::new(
        Opts::new("guard_build_info", "1; the labels say what runs."),
        &["version", "revision"],
    )?;
    info.with_label_values(&[&status.version, &status.revision]).set(1);
    Ok(info)
}
