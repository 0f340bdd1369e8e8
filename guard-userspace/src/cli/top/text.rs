//! All of it as text, once, for `--once`.

use super::figures::{name, percent, short};
use crate::agent::top::{Sort, Top};
use crate::cli::output::table;

pub(super) fn text(top: &Top, sort: Sort) -> String {
    let mut rates = vec![["service", "verdict", "reason", "packets/s", "bytes/s"].map(String::from).to_vec()];
    rates.extend(top.counters.iter().map(|rate| {
        let service = if rate.service.is_empty() { "-" } else { &rate.service };
        vec![
            service.into(),
            rate.verdict.clone(),
            rate.reason.clone(),
            short(rate.packets_per_second),
            short(rate.bytes_per_second),
        ]
    }));
    let heading = ["source", "service", "packets/s", "bytes/s", "new/s", "dropped/s", "open", "limit"];
    let mut sources = vec![heading.map(String::from).to_vec()];
    sources.extend(top.sources.iter().map(|source| {
        vec![
            name(source),
            source.service.clone(),
            short(source.packets_per_second),
            short(source.bytes_per_second),
            short(source.openings_per_second),
            short(source.dropped_per_second),
            source.connections.to_string(),
            if source.blocked { "blocked".into() } else { percent(source) },
        ]
    }));
    format!(
        "{}\n{}\n{} of {} sources, by {}; rates of {:.1} s\n",
        table(&rates),
        table(&sources),
        top.sources.len(),
        top.source_count,
        sort.name(),
        top.seconds
    )
}
