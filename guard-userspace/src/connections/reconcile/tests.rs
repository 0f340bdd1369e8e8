//! The comparison, over rounds that are made up.

use super::*;
use guard_common::Address;
use guard_common::abi::{FlowKey, Service, ServiceId};

const HOME: u32 = 3;

fn tracked(host: u8) -> Tracked {
    let address = Address::v4([10, 0, 0, host]);
    let source = SourceKey::new(ServiceId::new(1), &Service::new(false, 32, 64), address);
    let flow = FlowKey::new(address, 40_000, ServiceId::new(1));
    Tracked { source, flow, namespace: HOME, marks: Marks(0) }
}

fn seen(counts: &[(u8, u32)], counted: &[(u64, u8)], sockets: &[(u64, u8)]) -> Seen {
    let by_cookie =
        |list: &[(u64, u8)]| list.iter().map(|(cookie, host)| (*cookie, tracked(*host))).collect();
    let counts: HashMap<_, _> =
        counts.iter().map(|(host, count)| (tracked(*host).source, OpenCount::new(*count))).collect();
    Seen {
        counts_after: counts.clone(),
        counts,
        tracked: by_cookie(counted),
        sockets: by_cookie(sockets),
        acknowledged: HashMap::new(),
        room: Room::default(),
        namespaces: HashSet::from([HOME]),
        others: Others::Gone,
    }
}

#[test]
fn what_is_there_at_the_start_is_counted_at_once_and_is_no_drift() {
    let repair = Reconciler::default().compare(&seen(&[], &[], &[(7, 1)]));
    let open = Correction::Open { cookie: 7, tracked: tracked(1) };
    assert_eq!(repair, Repair { corrections: vec![open], ..Repair::default() });
}

#[test]
fn a_difference_counts_when_it_is_there_twice() {
    let quiet = seen(&[(1, 1)], &[(7, 1)], &[(7, 1)]);
    let cases = [
        ("a socket that is not counted", seen(&[(1, 1)], &[(7, 1)], &[(7, 1), (8, 2)]), 1),
        ("a socket that is gone", seen(&[(1, 2)], &[(7, 1), (9, 1)], &[(7, 1)]), 1),
        ("a count too low", seen(&[(1, 0)], &[(7, 1)], &[(7, 1)]), 1),
        ("a count too high", seen(&[(1, 4)], &[(7, 1)], &[(7, 1)]), 3),
    ];
    for (name, wrong, drift) in cases {
        let mut reconciler = Reconciler::default();
        assert_eq!(reconciler.compare(&quiet), Repair::default(), "{name}");
        assert_eq!(reconciler.compare(&wrong), Repair::default(), "{name}: once");
        let repair = reconciler.compare(&wrong);
        assert_eq!((repair.drift, repair.corrections.len()), (drift, 1), "{name}: twice");
        let mut reconciler = Reconciler::default();
        for seen in [&quiet, &wrong, &quiet, &wrong] {
            assert_eq!(reconciler.compare(seen), Repair::default(), "{name}: on and off");
        }
    }
}

#[test]
fn numbers_that_differ_while_connections_come_and_go_mean_nothing() {
    let mut reconciler = Reconciler::default();
    for cookie in 7..20 {
        // Two are counted, and one was there when they were read.
        let busy = seen(&[(1, 2)], &[(cookie, 1)], &[(cookie, 1)]);
        assert_eq!(reconciler.compare(&busy), Repair::default(), "{cookie}");
    }
}

/// They come and go within milliseconds, so one may be counted, and in no list.
#[test]
fn a_client_of_short_connections_is_not_counted_below_nothing() {
    let mut reconciler = Reconciler::default();
    for round in 1..20 {
        let word = |opened: u64, open: u64| OpenCount::of_word(opened << 32 | open);
        let of = |count| HashMap::from([(tracked(1).source, count)]);
        let seen = Seen {
            counts: of(word(100 * round, 1)),
            counts_after: of(word(100 * round + 7, 1)),
            ..seen(&[], &[], &[])
        };
        assert_eq!(reconciler.compare(&seen).corrections, [], "{round}");
    }
}

#[test]
fn what_the_policy_has_moved_is_counted_where_it_belongs_and_is_no_drift() {
    let mut reconciler = Reconciler::default();
    let moved = seen(&[(1, 1)], &[(7, 1)], &[(7, 2)]);
    assert_eq!(reconciler.compare(&moved), Repair::default());
    let repair = reconciler.compare(&moved);
    let expected = [Correction::Close { cookie: 7 }, Correction::Open { cookie: 7, tracked: tracked(2) }];
    assert_eq!((repair.drift, repair.corrections.as_slice()), (0, expected.as_slice()));
    let mut spared = repair.clone();
    spared.spare(|_| true);
    assert_eq!(spared, repair, "it exists, and is moved all the same");
}

#[test]
fn what_exists_is_spared() {
    let mut reconciler = Reconciler::default();
    let gone = seen(&[(1, 2)], &[(7, 1), (8, 1)], &[]);
    reconciler.compare(&gone);
    let mut repair = reconciler.compare(&gone);
    assert_eq!((repair.drift, repair.corrections.len()), (2, 2));
    repair.spare(|cookie| cookie == 7);
    assert_eq!((repair.drift, repair.corrections), (1, vec![Correction::Close { cookie: 8 }]));
}

#[test]
fn nothing_is_gone_where_it_could_not_be_read() {
    let absent = seen(&[(1, 1)], &[(7, 1)], &[]);
    for (others, is_read, was_read, closes) in [
        (Others::Gone, false, false, true),
        (Others::Hidden, false, false, false),
        (Others::Hidden, false, true, true),
        (Others::Hidden, true, false, true),
        (Others::Unread, false, true, false),
        (Others::Unread, true, false, true),
    ] {
        let mut reconciler = Reconciler::default();
        if was_read {
            reconciler.compare(&seen(&[(1, 1)], &[(7, 1)], &[(7, 1)]));
        }
        let mut absent = Seen { others, ..absent.clone() };
        absent.namespaces.retain(|_| is_read);
        assert_eq!(reconciler.compare(&absent), Repair::default());
        let closed = reconciler.compare(&absent).corrections;
        assert_eq!(closed.len(), usize::from(closes), "{others:?}, {is_read}, {was_read}: {closed:?}");
    }
}

#[test]
fn a_source_without_connections_is_forgotten_after_a_while() {
    let mut reconciler = Reconciler::default();
    let idle = seen(&[(1, 0)], &[], &[]);
    assert_eq!(reconciler.compare(&idle).idle, []);
    assert_eq!(reconciler.compare(&idle).idle, [tracked(1).source]);
}

#[test]
fn what_does_not_fit_is_known_and_counted_once() {
    let mut reconciler = Reconciler::default();
    let room = Room { connections: 2, sources: 9 };
    let full = Seen { room, ..seen(&[(1, 2)], &[(7, 1), (8, 1)], &[(7, 1), (8, 1), (9, 2), (10, 2)]) };
    let quiet = Seen { room, ..seen(&[(1, 2)], &[(7, 1), (8, 1)], &[(7, 1), (8, 1)]) };
    assert_eq!(reconciler.compare(&quiet), Repair::default());
    reconciler.compare(&full);
    for round in 0..5 {
        assert_eq!(reconciler.compare(&full), Repair { without_room: 2, ..Repair::default() }, "{round}");
    }
    let room = Seen { room, ..seen(&[(1, 1)], &[(7, 1)], &[(7, 1), (9, 2), (10, 2)]) };
    let repair = reconciler.compare(&room);
    let expected = [Correction::Open { cookie: 9, tracked: tracked(2) }];
    assert_eq!((repair.drift, repair.without_room, repair.corrections), (0, 1, expected.to_vec()));
}

#[test]
fn a_source_without_room_does_not_fit_either() {
    let mut reconciler = Reconciler::default();
    let room = Room { connections: 9, sources: 1 };
    let seen = Seen { room, ..seen(&[(1, 1)], &[(7, 1)], &[(7, 1), (8, 1), (9, 2)]) };
    let repair = reconciler.compare(&seen);
    let expected = [Correction::Open { cookie: 8, tracked: tracked(1) }];
    assert_eq!((repair.without_room, repair.corrections), (1, expected.to_vec()));
}

#[test]
fn what_the_client_has_closed_takes_no_place() {
    let closed = |mut seen: Seen, of: &mut dyn FnMut(&mut Seen) -> &mut HashMap<u64, Tracked>| {
        of(&mut seen).values_mut().for_each(|tracked| tracked.marks = Marks(Marks::CLOSED_BY_CLIENT));
        seen
    };
    let of_sockets: &mut dyn FnMut(&mut Seen) -> &mut HashMap<u64, Tracked> = &mut |seen| &mut seen.sockets;
    let missed = closed(seen(&[(1, 1)], &[(7, 1)], &[(7, 1)]), of_sockets);
    let mut reconciler = Reconciler::default();
    assert_eq!(reconciler.compare(&missed), Repair::default());
    let mark = Correction::Mark { cookie: 7, marks: Marks(Marks::CLOSED_BY_CLIENT) };
    let repair = reconciler.compare(&missed);
    assert_eq!((repair.drift, repair.corrections), (1, vec![mark]));
    let right = closed(seen(&[(1, 0)], &[(7, 1)], &[(7, 1)]), &mut |seen| &mut seen.tracked);
    let right = closed(right, &mut |seen| &mut seen.sockets);
    for _ in 0..3 {
        assert_eq!(reconciler.compare(&right).corrections, []);
    }
}

/// A server that stands still sends nothing, so what its clients have closed stays uncounted.
#[test]
fn a_connection_that_is_closed_on_one_side_and_served_takes_its_place_again() {
    let mut round = seen(&[(1, 0)], &[(7, 1), (8, 1)], &[(7, 1), (8, 1)]);
    let closed = |tracked: &mut Tracked| tracked.marks = Marks(Marks::CLOSED_BY_CLIENT);
    round.tracked.values_mut().chain(round.sockets.values_mut()).for_each(closed);
    let mut reconciler = Reconciler::default();
    for (acknowledged, expected) in [(100, None), (100, None), (150, Some(7))] {
        round.acknowledged = HashMap::from([(7, acknowledged), (8, 30)]);
        let repair = reconciler.compare(&round);
        let mark = expected.map(|cookie| Correction::Mark { cookie, marks: Marks(Marks::SERVED) });
        assert_eq!((repair.drift, repair.corrections), (0, mark.into_iter().collect()), "{acknowledged}");
    }
}
