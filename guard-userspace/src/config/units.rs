//! Amounts as people write them: bytes, durations, ports.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::findings::Fault;
use crate::duration;

/// The units of bytes, the largest first among those of one base.
const BYTE_UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

/// The longest duration that a policy may name: a leap year.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// `50MiB`, `10MB`, `4096`.
pub(super) fn parse_bytes(text: &str) -> Result<u64, Fault> {
    let fault = |message: &str| {
        Fault::about(format!("{text:?}"), message)
            .help("write bytes as \"50MiB\", \"10MB\", \"64KiB\" or as a plain number")
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    if number.is_empty() {
        return Err(fault("not an amount of bytes"));
    }
    let factor = match BYTE_UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => *factor,
        None if unit.is_empty() => 1,
        None if unit.starts_with('.') => return Err(fault("a whole number is needed; take a smaller unit")),
        None => return Err(fault(&format!("{unit:?} is no unit of bytes"))),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    bytes.ok_or_else(|| fault("more than guard can count"))
}

/// In the largest unit that takes it without a remainder.
pub(super) fn bytes(bytes: u64) -> String {
    let fits = |(_, factor): &&(&str, u64)| bytes >= *factor && bytes.is_multiple_of(*factor);
    match BYTE_UNITS.iter().find(fits) {
        Some((unit, factor)) if *factor > 1 => format!("{}{unit}", bytes / factor),
        _ => format!("{bytes}B"),
    }
}

/// `10m`, `24h`, `1h 30m`: whole seconds, up to a year.
pub(super) fn parse_duration(text: &str) -> Result<Duration, Fault> {
    let fault = |message: &str| {
        Fault::about(format!("{text:?}"), message)
            .help("write a duration as \"90s\", \"10m\", \"24h\" or \"7d\"")
    };
    match duration::parse(text) {
        Err(error) => Err(fault(&format!("not a duration: {error}"))),
        Ok(duration) if duration.is_zero() => Err(fault("must be longer than 0")),
        Ok(duration) if duration.subsec_nanos() != 0 => Err(fault("whole seconds are needed")),
        Ok(duration) if duration > MAX_DURATION => Err(fault("longer than a year (366d)")),
        Ok(duration) => Ok(duration),
    }
}

/// In the largest unit that takes it without a remainder; up to 24 hours in hours.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        s if s > 86_400 && s.is_multiple_of(86_400) => format!("{}d", s / 86_400),
        s if s > 0 && s.is_multiple_of(3600) => format!("{}h", s / 3600),
        s if s > 0 && s.is_multiple_of(60) => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

/// A port as a number: 1 to 65535.
pub(super) fn port(number: u64) -> Result<u16, Fault> {
    match u16::try_from(number) {
        Ok(port @ 1..) => Ok(port),
        Ok(0) | Err(_) => Err(Fault::about(format!("port {number}"), "there is no such port")
            .help("ports are the numbers from 1 to 65535")),
    }
}

/// `8000` or `8100-8103`.
pub(super) fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, Fault> {
    let unreadable = || {
        Fault::about(format!("{text:?}"), "not a port or a range of ports")
            .help("write 8000 or \"8100-8103\"")
    };
    let number = |text: &str| {
        let text = text.trim();
        match text.parse::<u64>() {
            Ok(number) if text.starts_with(|first: char| first.is_ascii_digit()) => port(number),
            Ok(_) | Err(_) => Err(unreadable()),
        }
    };
    let Some((first, last)) = text.split_once('-') else {
        let port = number(text)?;
        return Ok(port..=port);
    };
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(Fault::about(format!("{text:?}"), "the range is empty: it ends before it begins")
            .help(format!("write \"{last}-{first}\"")));
    }
    Ok(first..=last)
}

pub(super) fn port_range(range: &RangeInclusive<u16>) -> String {
    match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

/// Sorted; ranges that overlap or touch become one.
pub(super) fn merge_ports(ports: impl IntoIterator<Item = RangeInclusive<u16>>) -> Vec<RangeInclusive<u16>> {
    let mut sorted: Vec<_> = ports.into_iter().collect();
    sorted.sort_by_key(|range| (*range.start(), *range.end()));
    let mut merged: Vec<RangeInclusive<u16>> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(last) if *range.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => merged.push(range),
        }
    }
    merged
}
