//! Durations as arguments.

use std::time::Duration;

use crate::blocks::LONGEST;
use crate::duration;

/// For how long something is to last: from a second to ten years.
pub(super) fn lasting(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text).map_err(|error| format!("{error}; write 10m, 1h or 7d"))?;
    match time {
        time if time < Duration::from_secs(1) => Err("at least 1s".into()),
        time if time > LONGEST => Err("at most 3650d (ten years)".into()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_lives_to_see_is_refused() {
        for (text, is_taken) in [
            ("1s", true),
            ("3650d", true),
            ("0s", false),
            ("11years", false),
            ("9000y", false),
            ("584942417355y", false),
        ] {
            assert_eq!(lasting(text).is_ok(), is_taken, "{text}");
        }
    }
}
