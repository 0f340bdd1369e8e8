//! Limits that would have let all of it through, with headroom.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::limits::Limits;
use super::lines::lines;
use super::seen::{Dimension, Peaks, Profile};
use crate::autoblock::Hypothetical;

/// A source that has so many times what the others have gets limits of its own.
const FAR_ABOVE: u64 = 8;
/// What is told of: so many times the proposed limits.
const TIMES: [f64; 5] = [2.0, 1.0, 0.5, 0.25, 0.1];

/// Sources with what they had at most.
type Leaders = Vec<(IpNet, Peaks)>;

/// What is proposed for a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    pub service: String,
    /// Since when it was watched, in milliseconds since the epoch.
    pub since_ms: u64,
    pub watched_seconds: u64,
    pub sources: u64,
    pub packets: u64,
    /// Who sent most, if anybody sent something.
    pub busiest: Option<Busiest>,
    /// What the limits of that time have dropped, or would have where the service only monitors, as the kernel has counted it.
    pub dropped_meanwhile: DroppedMeanwhile,
    pub limits: Limits,
    /// Sources far above the others, with limits of their own.
    pub own: Vec<OwnLimits>,
    /// What limits that are so many times the proposed ones would have dropped.
    pub would_have_dropped: Vec<Dropped>,
    /// Why it is to be taken with care.
    pub doubts: Vec<String>,
    /// Sources that would have been blocked, had the service not only monitored.
    #[serde(default)]
    pub would_block: Vec<Hypothetical>,
    /// The lines for the policy file.
    pub lines: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Busiest {
    pub source: IpNet,
    pub packets_in_ten_seconds: u64,
    /// When these ended, in milliseconds since the epoch.
    pub at_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedMeanwhile {
    pub packets: u64,
    pub sources: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnLimits {
    pub prefix: IpNet,
    pub limits: Limits,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    pub times_the_proposed: f64,
    /// By the limit of packets; 0 is exact.
    pub packets_at_most: u64,
    /// By the limit of new connections; 0 is exact.
    pub new_connections_at_most: u64,
    pub sources_at_most: u64,
    /// The reasons, as in counters, for which the busiest source may have lost something; none: nothing would have been dropped. Of bytes and
    /// open connections it is not known how much.
    pub reasons: Vec<String>,
}

impl Proposal {
    /// Why these limits do not fit a number of connections at which sources are blocked.
    pub fn doubt_of(&self, threshold: u32) -> Option<String> {
        let own = self.own.iter().map(|own| own.limits.max_connections);
        let most = own.fold(self.limits.max_connections, u64::max);
        (most >= threshold.into()).then(|| {
            format!("raise connections = {threshold} in [autoblock] above {most}, or leave it out: `guard check` refuses both together")
        })
    }
}

/// Proposes limits for a service. `name` is what they are to be called.
pub fn propose(service: &str, name: &str, profile: &Profile, headroom: f64) -> Proposal {
    let (far, near) = apart(profile);
    let most = near.iter().fold(profile.rest, |most, (_, peaks)| most.max(peaks));
    let covering = |peaks: &Peaks| Limits::covering(peaks, headroom, profile.seconds);
    // Who needs no more than what is proposed for the others is none of its own.
    let needs_more =
        |(_, peaks): &&(IpNet, Peaks)| !covering(&most).too_small_for(peaks, 1.0 / headroom).is_empty();
    let own: Vec<_> = far.iter().filter(needs_more).collect();
    let of_own = |(prefix, peaks): &&(IpNet, Peaks)| OwnLimits { prefix: *prefix, limits: covering(peaks) };
    let limits =
        covering(&far.iter().filter(|far| !own.contains(far)).fold(most, |most, (_, peaks)| most.max(peaks)));
    let own: Vec<OwnLimits> = own.iter().map(of_own).collect();
    let dropped = |times| dropped(profile, &limits, &most, times);
    let mut would_have_dropped = TIMES.map(dropped).to_vec();
    // The windows of those far above are among the others, and would be counted into what is not theirs.
    would_have_dropped.retain(|dropped| own.is_empty() || dropped.reasons.is_empty());
    Proposal {
        service: service.into(),
        since_ms: profile.since,
        watched_seconds: profile.seconds,
        sources: profile.sources,
        packets: profile.packets,
        busiest: busiest(profile),
        dropped_meanwhile: DroppedMeanwhile { packets: profile.dropped, sources: profile.sources_dropped },
        limits,
        would_have_dropped,
        doubts: doubts(profile),
        would_block: Vec::new(),
        lines: lines(service, name, &limits, &own),
        own,
    }
}

/// Those far above the others, and the others, of those known by name.
///
/// The others are 99 of 100 sources; where there are fewer the one far above would be among them. So it is enough as well to be far above
/// the next one, for no more than one of four sources.
fn apart(profile: &Profile) -> (Leaders, Leaders) {
    let mut leaders: Vec<_> = profile.leaders.iter().map(|(source, peaks)| (*source, *peaks)).collect();
    leaders.sort_by_key(|(_, peaks)| std::cmp::Reverse(peaks.packets()));
    let is_far = |packets: u64, others: u64| packets > others.saturating_mul(FAR_ABOVE);
    let usual = profile.most_packets.quantile(0.99);
    let above_usual =
        leaders.iter().take_while(|(_, peaks)| usual > 0 && is_far(peaks.packets(), usual)).count();
    let is_gap = |count: &usize| {
        let next = leaders.get(*count).map_or(profile.rest.packets(), |(_, peaks)| peaks.packets());
        next > 0 && is_far(leaders[count - 1].1.packets(), next.max(profile.rest.packets()))
    };
    let few = usize::try_from(profile.sources / 4).unwrap_or(usize::MAX).min(leaders.len());
    let above_gap = (1..=few).rev().find(is_gap).unwrap_or(0);
    let near = leaders.split_off(above_usual.max(above_gap).min(few));
    (leaders, near)
}

fn dropped(profile: &Profile, limits: &Limits, most: &Peaks, times: f64) -> Dropped {
    let reasons: Vec<String> = limits.too_small_for(most, times).into_iter().map(String::from).collect();
    let drops = |reason: guard_common::Reason| reasons.iter().any(|found| found == reason.name());
    let (mut packets, mut connections, mut sources) = (0, 0, 0);
    if drops(guard_common::Reason::PacketRate) {
        let passes = limits.surely_passes(Dimension::Packets, times);
        packets = profile.packets_in_ten_seconds.beyond(passes).min(profile.packets);
        sources += profile.most_packets.count_beyond(passes);
    }
    if drops(guard_common::Reason::ConnectionRate) {
        let passes = limits.surely_passes(Dimension::Openings, times);
        connections = profile.openings_in_ten_seconds.beyond(passes);
        sources += profile.most_openings.count_beyond(passes);
    }
    Dropped {
        times_the_proposed: times,
        packets_at_most: packets,
        new_connections_at_most: connections,
        sources_at_most: sources.min(profile.sources),
        reasons,
    }
}

fn busiest(profile: &Profile) -> Option<Busiest> {
    let (source, peaks) = profile.leaders.iter().max_by_key(|(_, peaks)| peaks.packets())?;
    Some(Busiest { source: *source, packets_in_ten_seconds: peaks.packets(), at_ms: peaks.at })
}

fn doubts(profile: &Profile) -> Vec<String> {
    const HOUR: u64 = 3600;
    const FEW: u64 = 5;
    let mut doubts = Vec::new();
    if profile.seconds < HOUR {
        let time = humantime::format_duration(std::time::Duration::from_secs(profile.seconds));
        doubts.push(format!("it was watched for {time} only: watch for a day"));
    }
    if profile.sources < FEW {
        doubts.push(format!("only {} sources sent something", profile.sources));
    }
    doubts
}
