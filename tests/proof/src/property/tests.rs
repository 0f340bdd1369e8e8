//! The decision over tables in memory: random policies, blocks, connections and frames, honest, cut and broken.

use std::collections::BTreeMap;

use guard_common::Reason;
use guard_userspace::config;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::case::{Case, HEAD};
use crate::property;

/// A world, and frames near to what it judges. Shrinks to fewer frames and a simpler world.
fn case() -> impl Strategy<Value = Case> {
    let head = prop::collection::vec(any::<u8>(), HEAD);
    let seeds = prop::collection::vec(any::<u64>(), 1..8);
    (head, seeds).prop_map(|(head, seeds)| Case::read(&Case::write(&head, &seeds)))
}

/// A test of each property, by its name.
macro_rules! properties {
    ($($name:ident)+) => {
        proptest! {
            $(#[test]
            fn $name(case in case()) {
                case.each(property::$name);
            })+
        }

        #[test]
        fn every_property_is_tested_here() {
            assert_eq!([$(stringify!($name)),+].len(), property::ALL.len());
        }
    };
}

properties! {
    every_frame_gets_one_possible_verdict
    the_class_is_that_of_the_lists
    a_longer_prefix_wins
    a_shorter_prefix_changes_nothing
    removing_an_allow_never_lets_more_through
    a_block_never_lets_more_through
    a_block_in_force_stops_all_but_the_trusted
    a_block_that_is_over_changes_nothing
    a_service_is_what_is_for_its_destinations
    monitor_equals_enforce_but_for_the_action
    the_action_is_that_of_the_reason_and_the_mode
    truncation_never_turns_a_drop_into_an_allowed
    a_first_buffer_that_ends_early_is_judged_alike_or_malformed
    the_ports_that_another_parser_finds_are_not_missed
}

proptest! {
    #[test]
    fn any_bytes_are_a_case(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        property::check(&Case::read(&bytes));
    }

    #[test]
    fn the_policies_of_the_cases_are_those_that_guard_accepts(case in case()) {
        let text = case.world.policy.to_toml();
        let checked = config::parse(&text, "world.toml").unwrap_or_else(|report| panic!("{report}\n{text}"));
        prop_assert_eq!(checked.policy, case.world.policy);
    }
}

/// A generator that never reaches a check proves nothing of it.
#[test]
fn the_cases_reach_every_reason() {
    let mut reasons = BTreeMap::new();
    let mut runner = TestRunner::deterministic();
    for _ in 0..2000 {
        let case = case().new_tree(&mut runner).unwrap().current();
        case.each(|moment| *reasons.entry(moment.seen.verdict.reason).or_insert(0) += 1);
    }
    println!("{reasons:?}");
    for reason in Reason::ALL {
        assert!(reasons.get(&reason).is_some_and(|count| *count >= 10), "{reason:?}: {reasons:?}");
    }
}
