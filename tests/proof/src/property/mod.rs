//! What holds for every frame at every guard. Each function panics where it does not, and says with what.

mod blocks;
mod destinations;
mod mode;
pub(crate) mod other_parser;
mod rules;
#[cfg(test)]
mod tests;
mod truncation;
mod verdict;

pub use blocks::{
    a_block_in_force_stops_all_but_the_trusted, a_block_never_lets_more_through,
    a_block_that_is_over_changes_nothing,
};
pub use destinations::a_service_is_what_is_for_its_destinations;
pub use mode::{monitor_equals_enforce_but_for_the_action, the_action_is_that_of_the_reason_and_the_mode};
pub use other_parser::the_ports_that_another_parser_finds_are_not_missed;
pub use rules::{
    a_longer_prefix_wins, a_shorter_prefix_changes_nothing, removing_an_allow_never_lets_more_through,
    the_class_is_that_of_the_lists,
};
pub use truncation::{
    a_first_buffer_that_ends_early_is_judged_alike_or_malformed,
    truncation_never_turns_a_drop_into_an_allowed,
};
pub use verdict::every_frame_gets_one_possible_verdict;

use crate::case::Case;
use crate::moment::Moment;

/// A property of one arrival.
pub type Property = fn(&Moment<'_>);

pub const ALL: [Property; 14] = [
    every_frame_gets_one_possible_verdict,
    the_class_is_that_of_the_lists,
    a_longer_prefix_wins,
    a_shorter_prefix_changes_nothing,
    removing_an_allow_never_lets_more_through,
    a_block_never_lets_more_through,
    a_block_in_force_stops_all_but_the_trusted,
    a_block_that_is_over_changes_nothing,
    a_service_is_what_is_for_its_destinations,
    monitor_equals_enforce_but_for_the_action,
    the_action_is_that_of_the_reason_and_the_mode,
    truncation_never_turns_a_drop_into_an_allowed,
    a_first_buffer_that_ends_early_is_judged_alike_or_malformed,
    the_ports_that_another_parser_finds_are_not_missed,
];

/// Every property at every arrival of a case.
pub fn check(case: &Case) {
    case.each(|moment| ALL.iter().for_each(|holds| holds(moment)));
}
