//! The limits.

use guard_common::gcra::{
    self, MAX_BYTES_PER_SECOND, MAX_EVENTS_PER_SECOND, MIN_BYTES_PER_SECOND, RateError,
};

use super::table::{self, Table};
use super::value::{Entry, Value};
use crate::config::findings::{Fault, Findings, Span};
use crate::config::policy::{Limits, Rate};
use crate::config::units;
use crate::config::written::WrittenLimits;

/// The kernel may join the segments of a stream into one packet of this size before guard sees it.
const MIN_BYTE_BURST: u64 = 64 << 10;

/// What eight parallel streams and an upload of 4 MB were measured to send.
const PACKETS_OF_STREAMS: u64 = 1_000;
const PACKETS_OF_UPLOAD: u64 = 2_815;
const UPLOAD_MILLISECONDS: u64 = 350;

/// A rate in the policy: its keys, and what is possible.
struct Meter {
    per_second: &'static str,
    burst: &'static str,
    make: fn(u64, u64) -> Result<gcra::Rate, RateError>,
    max: u64,
    min: u64,
    min_burst: u64,
    in_bytes: bool,
}

const PACKETS: Meter = Meter {
    per_second: "packets_per_second",
    burst: "packet_burst",
    make: gcra::Rate::of_events,
    max: MAX_EVENTS_PER_SECOND,
    min: 1,
    min_burst: 1,
    in_bytes: false,
};
const BYTES: Meter = Meter {
    per_second: "bytes_per_second",
    burst: "byte_burst",
    make: gcra::Rate::of_bytes,
    max: MAX_BYTES_PER_SECOND,
    min: MIN_BYTES_PER_SECOND,
    min_burst: MIN_BYTE_BURST,
    in_bytes: true,
};
const CONNECTIONS: Meter =
    Meter { per_second: "connections_per_second", burst: "connection_burst", ..PACKETS };

pub(super) fn read_all(findings: &mut Findings<'_>, entry: Entry<'_, '_>) -> Vec<WrittenLimits> {
    let Some(entries) = entry.table(findings, "tables, each under a header [limits.NAME]") else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for (key, value) in entries {
        let text: &str = key.get_ref();
        if table::LIMITS.keys.contains(&text) && !value.get_ref().is_table() {
            let fault = Fault::new(format!("{text:?} stands outside of any named limits"));
            findings.error(
                &key.span(),
                fault.help("write it under a header [limits.NAME], for example [limits.client]"),
            );
            continue;
        }
        let name = super::name(findings, text, key.span());
        let (limits, max_connections) = read(findings, text, value);
        all.extend(name.map(|name| WrittenLimits { name, limits, max_connections }));
    }
    all
}

/// The limits, and where their `max_connections` stands.
fn read(findings: &mut Findings<'_>, name: &str, value: &Value<'_>) -> (Limits, Option<Span>) {
    let entry = Entry { key: name, value };
    let Some(entries) = entry.table(findings, "a table of limits") else {
        return (Limits::default(), None);
    };
    let table = Table::new(findings, &table::LIMITS, value.span(), entries);
    let limits = Limits {
        packets: rate(findings, &table, &PACKETS),
        bytes: rate(findings, &table, &BYTES),
        connections: rate(findings, &table, &CONNECTIONS),
        max_connections: table.get("max_connections").and_then(|entry| max_connections(findings, entry)),
    };
    if entries.is_empty() {
        let fault = Fault::new(format!("the limits {name:?} limit nothing"));
        findings.warn(
            &table.span,
            fault.help("add packets_per_second, bytes_per_second, connections_per_second or max_connections"),
        );
    }
    if let (Some(packets), Some(entry)) = (limits.packets, table.get(PACKETS.per_second)) {
        warn_of_low(findings, packets, entry);
    }
    let place = table.get("max_connections").map(|entry| entry.value.span());
    (limits, place)
}

fn rate(findings: &mut Findings<'_>, table: &Table<'_, '_>, meter: &Meter) -> Option<Rate> {
    let (per_second, burst) = (table.get(meter.per_second), table.get(meter.burst));
    let Some(rate_entry) = per_second else {
        return burst?.wrong(
            findings,
            Fault::new(format!("a burst without {}", meter.per_second))
                .help(format!("add {}, or leave {} out for no limit", meter.per_second, meter.burst)),
        );
    };
    let per_second =
        meter.read(findings, rate_entry).and_then(|number| meter.check_rate(findings, rate_entry, number));
    let Some(burst_entry) = burst else {
        let per_second = per_second?;
        return Some(Rate { per_second, burst: per_second.max(meter.min_burst) });
    };
    let burst = meter.read(findings, burst_entry)?;
    if burst < meter.min_burst {
        return burst_entry.wrong(findings, meter.small_burst(burst));
    }
    let per_second = per_second?;
    match (meter.make)(per_second, burst) {
        Ok(_) => Some(Rate { per_second, burst }),
        Err(RateError::Rate | RateError::Burst) => {
            let message = format!("a burst of {burst} would take more than 24 hours to come back");
            let most = meter.amount(per_second.saturating_mul(24 * 3600));
            burst_entry.wrong(
                findings,
                Fault::new(message).help(format!(
                    "at this rate it can be {most} at most; lower it or raise {}",
                    meter.per_second
                )),
            )
        }
    }
}

impl Meter {
    fn read(&self, findings: &mut Findings<'_>, entry: Entry<'_, '_>) -> Option<u64> {
        if self.in_bytes { entry.bytes(findings) } else { entry.number(findings, "a number such as 2000") }
    }

    fn check_rate(&self, findings: &mut Findings<'_>, entry: Entry<'_, '_>, number: u64) -> Option<u64> {
        let fault = match number {
            0 => Fault::new("0 would let nothing through")
                .help(format!("leave {} out for no limit", self.per_second)),
            number if number > self.max => Fault::new(format!(
                "{} is more than {} a second, the most that guard can measure",
                self.amount(number),
                self.amount(self.max)
            ))
            .help(format!("lower it, or leave {} out for no limit", self.per_second)),
            number if number < self.min => Fault::new(format!(
                "{} is less than {} a second, the least that guard can measure",
                self.amount(number),
                self.amount(self.min)
            ))
            .help("raise it"),
            number => return Some(number),
        };
        entry.wrong(findings, fault)
    }

    fn small_burst(&self, burst: u64) -> Fault {
        if !self.in_bytes {
            return Fault::new("a burst of 0 would let nothing through")
                .help(format!("leave {} out: then it is one second's worth", self.burst));
        }
        let least = units::bytes(self.min_burst);
        Fault::new(format!(
            "a burst of {} is smaller than one packet can be: up to {least} where the kernel joins segments",
            units::bytes(burst)
        ))
        .help(format!("make it {least} at least, or leave it out"))
    }

    fn amount(&self, number: u64) -> String {
        if self.in_bytes { units::bytes(number) } else { number.to_string() }
    }
}

fn max_connections(findings: &mut Findings<'_>, entry: Entry<'_, '_>) -> Option<u32> {
    match entry.number(findings, "a number such as 64")? {
        0 => entry.wrong(
            findings,
            Fault::new("0 would let no connection through").help("leave max_connections out for no limit"),
        ),
        number => match u32::try_from(number) {
            Ok(number) => Some(number),
            Err(_) => entry.wrong(
                findings,
                Fault::new(format!("{number} is more connections than can exist"))
                    .help("leave max_connections out for no limit"),
            ),
        },
    }
}

/// Warns of limits that lawful clients run into.
fn warn_of_low(findings: &mut Findings<'_>, packets: Rate, entry: Entry<'_, '_>) {
    let Rate { per_second, burst } = packets;
    let span = entry.value.span();
    if per_second < PACKETS_OF_STREAMS {
        let message = format!(
            "{per_second} packets a second cut lawful clients: eight parallel streams send 1,400 a second, \
             an upload of 4 MB 2,800 in 0.35 s"
        );
        findings.warn(
            &span,
            Fault::new(message).help("packets_per_second = 2000 with packet_burst = 4000 lets them pass"),
        );
    } else if burst.saturating_add(per_second.saturating_mul(UPLOAD_MILLISECONDS) / 1000) < PACKETS_OF_UPLOAD
    {
        let message = format!(
            "a burst of {burst} packets at {per_second} a second cuts an upload of 4 MB: \
             2,800 packets in 0.35 s"
        );
        findings.warn(&span, Fault::new(message).help("packet_burst = 4000 lets it pass"));
    }
}
