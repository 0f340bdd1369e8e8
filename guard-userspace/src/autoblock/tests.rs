use std::collections::HashMap;
use std::time::Duration;

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::blocks::{Protected, Scope};
use crate::config::{Autoblock, BlockScope, Prefix};

const MINUTE: Duration = Duration::from_secs(60);

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    Prefix { net: net(text), line: None }
}

fn offence(source: &str) -> Offence {
    let service = "vllm".into();
    Offence {
        source: net(source),
        service,
        kind: Kind::Connections,
        count: 312,
        threshold: 256,
        window: None,
        holders: Vec::new(),
    }
}

fn policy() -> Autoblock {
    Autoblock { never: vec![prefix("10.3.0.0/16"), prefix("fd00:3::1/128")], ..Autoblock::default() }
}

fn protected() -> Protected {
    let mut protected = Protected::default();
    protected.add(Some("10.4.0.1".parse().unwrap()), "a gateway of this host");
    protected
}

/// A host with time, which blocks for as long as it was decided.
struct Host {
    policy: Autoblock,
    trusted: Vec<Prefix>,
    protected: Protected,
    memory: Memory,
    blocked_until: HashMap<IpNet, i64>,
    now: i64,
}

impl Host {
    fn new(policy: Autoblock) -> Self {
        let trusted = vec![prefix("10.2.0.0/24")];
        Self {
            policy,
            trusted,
            protected: protected(),
            memory: Memory::default(),
            blocked_until: HashMap::new(),
            now: 5,
        }
    }

    fn judge(&mut self, offence: &Offence) -> Decision {
        let rules = Rules { autoblock: &self.policy, trusted: &self.trusted, protected: &self.protected };
        let until = self.blocked_until.get(&offence.source).copied().unwrap_or(i64::MIN);
        let services = Duration::from_millis(until.saturating_sub(self.now).max(0).unsigned_abs());
        let in_force = InForce { host: Duration::ZERO, services };
        let decision = decide(&rules, offence, &self.memory, in_force, self.now);
        if let Decision::Block(block) = &decision {
            let until = self.now + block.lasts.as_millis() as i64;
            self.memory.note(block, self.now, until, self.policy.forget_after);
            self.blocked_until.insert(block.net, until);
        }
        decision
    }

    fn wait(&mut self, time: Duration) {
        self.now += time.as_millis() as i64;
    }
}

fn lasts(decision: &Decision) -> Option<(u32, Duration)> {
    match decision {
        Decision::Block(block) => Some((block.strike, block.lasts)),
        Decision::Exempt(_) => None,
    }
}

#[test]
fn who_is_spared() {
    let in_trusted = Exemption::Trusted(net("10.2.0.0/24"));
    let gateway = Exemption::Protected { hit: net("10.4.0.1/32"), why: "a gateway of this host" };
    let cases = [
        ("10.1.0.1/32", None),
        ("10.2.0.7/32", Some(in_trusted.clone())),
        ("10.2.0.0/16", Some(in_trusted)),
        ("10.3.9.9/32", Some(Exemption::Never(net("10.3.0.0/16")))),
        ("10.0.0.0/12", Some(Exemption::Trusted(net("10.2.0.0/24")))),
        ("fd00:3::/64", Some(Exemption::Never(net("fd00:3::1/128")))),
        ("fd00:4::/64", None),
        ("10.4.0.1/32", Some(gateway.clone())),
        ("10.4.0.0/24", Some(gateway)),
        ("10.4.0.2/32", None),
        ("64.0.0.0/7", Some(Exemption::Wide { widest: 8 })),
    ];
    for (source, expected) in cases {
        let decision = Host::new(policy()).judge(&offence(source));
        let exemption = match decision {
            Decision::Exempt(exemption) => Some(exemption),
            Decision::Block(_) => None,
        };
        assert_eq!(exemption, expected, "{source}");
    }
    let mut off = Host::new(Autoblock { enabled: false, ..policy() });
    assert_eq!(off.judge(&offence("10.1.0.1/32")), Decision::Exempt(Exemption::Disabled));
}

#[test]
fn a_block_says_what_it_goes_by() {
    let mut host = Host::new(Autoblock { scope: BlockScope::Host, ..policy() });
    let decision = host.judge(&offence("10.1.0.1/32"));
    let Decision::Block(block) = decision else { panic!("{decision:?}") };
    assert_eq!(
        (block.net, block.scope, block.strike, block.kill),
        (net("10.1.0.1/32"), Scope::Host, 1, true)
    );
    assert_eq!(block.reason, "312 connections at once (limit 256)");
    assert_eq!(block.evidence.to_string(), "service vllm, 1st block");
    let json = serde_json::to_value(&block.evidence).unwrap();
    let expected = serde_json::json!({
        "kind": "connections", "service": "vllm", "count": 312, "threshold": 256, "strike": 1
    });
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_value::<Evidence>(json).unwrap(), block.evidence);
    for (kind, reason) in [
        (Kind::Refused, "9000 packets refused by allow or deny in 1m (limit 6000)"),
        (Kind::Limited, "9000 packets over its limits in 1m (limit 6000)"),
    ] {
        let offence =
            Offence { kind, count: 9000, threshold: 6000, window: Some(MINUTE), ..offence("10.1.0.1/32") };
        assert_eq!(offence.reason(), reason);
        assert_eq!(serde_json::to_value(offence.evidence(2)).unwrap()["window"], 60);
    }
    let ordinals =
        [1, 2, 3, 4, 11, 12, 13, 21, 112].map(|strike| offence("10.1.0.1/32").evidence(strike).to_string());
    let ordinals = ordinals.map(|text| text.split(' ').nth(2).unwrap().to_owned());
    assert_eq!(ordinals, ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "112th"]);
}

#[test]
fn one_block_for_all_reports() {
    let mut host = Host::new(policy());
    assert_eq!(lasts(&host.judge(&offence("10.1.0.1/32"))), Some((1, 10 * MINUTE)));
    let late = Offence { kind: Kind::Limited, count: 7000, ..offence("10.1.0.1/32") };
    for late in [offence("10.1.0.1/32"), late] {
        assert_eq!(host.judge(&late), Decision::Exempt(Exemption::Blocked));
    }
    assert_eq!(lasts(&host.judge(&offence("10.1.0.2/32"))), Some((1, 10 * MINUTE)), "others are others");
    host.wait(10 * MINUTE);
    assert_eq!(lasts(&host.judge(&offence("10.1.0.1/32"))), Some((2, 20 * MINUTE)));
}

#[test]
fn other_blocks_count_as_far_as_they_reach() {
    for (scope, host, services, blocked) in [
        (BlockScope::Services, 0, 10, false),
        (BlockScope::Services, 0, 9, true),
        (BlockScope::Services, 10, 10, false),
        (BlockScope::Host, 0, 10, true),
        (BlockScope::Host, 9, 20, true),
        (BlockScope::Host, 10, 10, false),
    ] {
        let policy = Autoblock { scope, ..policy() };
        let rules = Rules { autoblock: &policy, trusted: &[], protected: &Protected::default() };
        let in_force = InForce { host: host * MINUTE, services: services * MINUTE };
        let decision = decide(&rules, &offence("10.1.0.1/32"), &Memory::default(), in_force, 0);
        assert_eq!(matches!(decision, Decision::Block(_)), blocked, "{scope:?}, {host}, {services}");
    }
}

#[test]
fn who_is_let_in_by_hand_is_in_and_not_forgotten() {
    let mut host = Host::new(policy());
    host.judge(&offence("10.1.0.1/32"));
    host.wait(MINUTE);
    host.blocked_until.clear();
    let changed = host.memory.let_in(&[net("10.1.0.1/32"), net("10.1.0.2/32")].into(), host.now);
    assert_eq!(changed, [(net("10.1.0.1/32"), Some(Offender { strikes: 1, until: host.now }))].into());
    assert_eq!(
        lasts(&host.judge(&offence("10.1.0.1/32"))),
        Some((2, 20 * MINUTE)),
        "it goes on, and is blocked again"
    );
}

#[test]
fn the_memory_is_bounded_and_forgets_the_oldest() {
    let mut memory = Memory::with_room(80);
    let block = |number: u32, strike| {
        let offence = offence(&format!("10.{}.{}.1/32", number >> 8, number & 255));
        let evidence = offence.evidence(strike);
        let (lasts, reason) = (MINUTE, offence.reason());
        Automatic { net: offence.source, scope: Scope::Host, lasts, strike, evidence, kill: true, reason }
    };
    let mut persisted = HashMap::new();
    for number in 0..1000 {
        let now = i64::from(number);
        for (net, offender) in memory.note(&block(number, 1), now, now + 60_000, MINUTE * 1000) {
            match offender {
                Some(offender) => persisted.insert(net, offender),
                None => persisted.remove(&net),
            };
        }
        assert!(memory.len() <= 80 && memory.len() == persisted.len(), "{number}");
    }
    for number in 990..1000 {
        let known = memory.get(&block(number, 1).net, 1000, MINUTE * 1000);
        assert_eq!(known, persisted.get(&block(number, 1).net).copied());
        assert!(known.is_some(), "{number}");
    }
    assert_eq!(memory.get(&block(0, 1).net, 1000, MINUTE * 1000), None);
    let changed = memory.note(&block(5000, 1), 1_000_000, 1_060_000, MINUTE);
    assert_eq!(memory.len(), 1, "all others are forgotten");
    assert_eq!(changed.values().filter(|offender| offender.is_some()).count(), 1);
}

proptest! {
    /// Whatever a source does when: its blocks double from the first to the longest, none is made while one is in force, and only who was
    /// quiet for long enough begins anew.
    #[test]
    fn blocks_double_and_are_forgotten(
        first in 1_u64..10_000,
        longest in 1_u64..1_000_000,
        forget in 1_u64..1_000_000,
        begin in -1_000_000_000_i64..1_000_000_000,
        steps in prop::collection::vec(prop_oneof![0_u64..100, 0_u64..20_000, 0_u64..2_000_000], 1..60),
    ) {
        let [duration, max_duration, forget_after] = [first, longest, forget].map(Duration::from_millis);
        let mut host = Host::new(Autoblock { duration, max_duration, forget_after, ..Autoblock::default() });
        host.now = begin;
        // Strikes, and the end of the last block.
        let mut expected: Option<(u32, i64)> = None;
        for step in steps {
            host.wait(Duration::from_millis(step));
            let found = lasts(&host.judge(&offence("10.1.0.1/32")));
            if let Some((_, until)) = expected && host.now < until {
                prop_assert_eq!(found, None, "it is blocked");
                continue;
            }
            let known = expected.filter(|(_, until)| host.now < until + forget as i64);
            let strike = known.map_or(0, |(strikes, _)| strikes) + 1;
            let time = (0..strike - 1).fold(u128::from(first), |time, _| (time * 2).min(longest.into()));
            let time = u64::try_from(time.min(longest.into())).unwrap();
            prop_assert_eq!(found, Some((strike, Duration::from_millis(time))));
            expected = Some((strike, host.now + time as i64));
        }
    }
}
