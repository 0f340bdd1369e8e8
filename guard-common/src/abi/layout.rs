//! The committed layout. A change here needs a new [`super::VERSION`].

use super::*;
use core::mem::{align_of, offset_of, size_of};

#[test]
fn layouts_are_those_of_version_7() {
    assert_eq!(VERSION, 7);
    let sizes = [
        ("Policy", size_of::<Policy>(), 40),
        ("Service", size_of::<Service>(), 24),
        ("Rule", size_of::<Rule>(), 4),
        ("Limits", size_of::<Limits>(), 56),
        ("RuleKeyV4", size_of::<RuleKeyV4>(), 8),
        ("RuleKeyV6", size_of::<RuleKeyV6>(), 20),
        ("SourceKey", size_of::<SourceKey>(), 20),
        ("State", size_of::<State>(), 24),
        ("Admitted", size_of::<Admitted>(), 32),
        ("Meter", size_of::<Meter>(), 32),
        ("Block", size_of::<Block>(), 16),
        ("Counter", size_of::<Counter>(), 16),
        ("PortWord", size_of::<PortWord>(), 8),
        ("FlowKey", size_of::<FlowKey>(), 20),
        ("OpeningKey", size_of::<OpeningKey>(), 24),
        ("Opening", size_of::<Opening>(), 24),
        ("OpenCount", size_of::<OpenCount>(), 8),
        ("Home", size_of::<Home>(), 36),
        ("Surplus", size_of::<Surplus>(), 16),
        ("Tracked", size_of::<Tracked>(), 48),
        ("Budget", size_of::<Budget>(), 32),
        ("Evidence", size_of::<Evidence>(), 56),
        ("SampleKey", size_of::<SampleKey>(), 20),
        ("Sampled", size_of::<Sampled>(), 16),
        ("Sample", size_of::<Sample>(), 48),
        ("Offence", size_of::<Offence>(), 48),
        ("Traffic", size_of::<Traffic>(), 32),
        ("Watch", size_of::<Watch>(), 40),
        ("Allowance", size_of::<Allowance>(), 32),
        ("Captured", size_of::<Captured>(), 184),
        ("FragmentKey", size_of::<FragmentKey>(), 40),
        ("Fate", size_of::<Fate>(), 24),
        (
            "align of keys",
            align_of::<RuleKeyV4>() * align_of::<RuleKeyV6>() * align_of::<SourceKey>(),
            4 * 4 * 4,
        ),
    ];
    for (name, size, expected) in sizes {
        assert_eq!(size, expected, "{name}");
    }
    let offsets = [
        ("Policy.thresholds", offset_of!(Policy, thresholds), 16),
        ("Tracked.flow", offset_of!(Tracked, flow), 20),
        ("Tracked.namespace", offset_of!(Tracked, namespace), 40),
        ("Tracked.marks", offset_of!(Tracked, marks), 44),
        ("Evidence.limited", offset_of!(Evidence, limited), 16),
        ("Sample.source", offset_of!(Sample, source), 16),
        ("Sample.protocol", offset_of!(Sample, protocol), 40),
        ("Traffic.dropped", offset_of!(Traffic, dropped), 24),
        ("Offence.source", offset_of!(Offence, source), 24),
        ("Watch.mask", offset_of!(Watch, mask), 24),
        ("Allowance.lost", offset_of!(Allowance, lost), 24),
        ("Captured.shown", offset_of!(Captured, shown), 52),
        ("Captured.bytes", offset_of!(Captured, bytes), 56),
        ("Limits.bytes", offset_of!(Limits, bytes), 16),
        ("Limits.connections", offset_of!(Limits, connections), 32),
        ("Limits.max_connections", offset_of!(Limits, max_connections), 48),
        ("State.changes", offset_of!(State, changes), 16),
        ("Meter.bytes", offset_of!(Meter, bytes), 8),
        ("Meter.connections", offset_of!(Meter, connections), 16),
        ("Meter.suspected_until", offset_of!(Meter, suspected_until), 24),
        ("Evidence.bytes", offset_of!(Evidence, bytes), 40),
        ("Block.services_until", offset_of!(Block, services_until), 4),
        ("Block.dropped", offset_of!(Block, dropped), 8),
        ("Fate.verdict", offset_of!(Fate, verdict), 8),
        ("Fate.owed", offset_of!(Fate, owed), 16),
        ("Counter.bytes", offset_of!(Counter, bytes), 8),
    ];
    for (name, offset, expected) in offsets {
        assert_eq!(offset, expected, "{name}");
    }
}
