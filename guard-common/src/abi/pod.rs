//! Lets the loader copy these types into maps.
#![expect(unsafe_code, reason = "aya's marker for plain data is an unsafe trait")]

use super::{
    Allowance, Block, Captured, Counter, Evidence, FlowKey, Home, Limits, Meter, Offence, OpenCount, Policy,
    Rule, RuleKeyV4, RuleKeyV6, Sample, Service, SourceKey, State, Surplus, Tracked, Traffic, Watch,
};

// SAFETY: each is `repr(C)`, has no padding (the test `layout` adds up their fields), and is valid for any bytes.
unsafe impl aya::Pod for Allowance {}
unsafe impl aya::Pod for Block {}
unsafe impl aya::Pod for Captured {}
unsafe impl aya::Pod for Counter {}
unsafe impl aya::Pod for Evidence {}
unsafe impl aya::Pod for FlowKey {}
unsafe impl aya::Pod for Home {}
unsafe impl aya::Pod for Limits {}
unsafe impl aya::Pod for Meter {}
unsafe impl aya::Pod for Offence {}
unsafe impl aya::Pod for OpenCount {}
unsafe impl aya::Pod for Policy {}
unsafe impl aya::Pod for Rule {}
unsafe impl aya::Pod for RuleKeyV4 {}
unsafe impl aya::Pod for RuleKeyV6 {}
unsafe impl aya::Pod for Sample {}
unsafe impl aya::Pod for Service {}
unsafe impl aya::Pod for SourceKey {}
unsafe impl aya::Pod for State {}
unsafe impl aya::Pod for Surplus {}
unsafe impl aya::Pod for Tracked {}
unsafe impl aya::Pod for Traffic {}
unsafe impl aya::Pod for Watch {}
