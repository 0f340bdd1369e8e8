//! What fuzzing starts with: the same on every machine.

use fastrand::Rng;

use crate::case::{Case, HEAD};

const CASES: u64 = 400;
const POLICIES: u64 = 60;
const PACKAGED: &str = include_str!("../../../packaging/guard.toml");
const DOCS: &str = include_str!("../../../docs/policy.md");

/// Worlds with frames near to what they judge.
pub fn decide() -> Vec<Vec<u8>> {
    let case = |seed| {
        let mut rng = Rng::with_seed(seed);
        let head: Vec<u8> = (0..HEAD).map(|_| rng.u8(..)).collect();
        let frames: Vec<u64> = (0..rng.usize(1..5)).map(|_| rng.u64(..)).collect();
        Case::write(&head, &frames)
    };
    (0..CASES).map(case).collect()
}

/// What guard comes with, the examples of its documentation, and the policies of random worlds.
pub fn policy() -> Vec<String> {
    let examples = DOCS.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let worlds = (0..POLICIES).map(|seed| {
        let mut rng = Rng::with_seed(seed);
        let head: Vec<u8> = (0..HEAD).map(|_| rng.u8(..)).collect();
        Case::read(&head).world.policy.to_toml()
    });
    [PACKAGED].into_iter().chain(examples).map(str::to_owned).chain(worlds).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_the_same_each_time() {
        assert_eq!(decide(), decide());
        assert_eq!(policy(), policy());
    }
}
