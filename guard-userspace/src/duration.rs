//! Durations as people write them, in arguments and in policies.

use std::time::Duration;

/// Reads `90s`, `10m`, `1h 30m`, `7d`.
///
/// # Errors
/// With what is wrong. `M` is refused: it stands for months there, and people who write it mean minutes.
pub fn parse(text: &str) -> Result<Duration, String> {
    if let Some(number) = months(text) {
        return Err(format!(
            "{number}M can be read in two ways; write {number}m for minutes or {number}months for months"
        ));
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// The number in front of a lone `M`.
fn months(text: &str) -> Option<&str> {
    let mut from = 0;
    for (at, letter) in text.match_indices('M') {
        let before = text.get(from..at)?.trim_end();
        let digits = before.bytes().rev().take_while(u8::is_ascii_digit).count();
        let follows = text.get(at + letter.len()..)?.chars().next();
        if digits > 0 && !follows.is_some_and(char::is_alphabetic) {
            return before.get(before.len() - digits..);
        }
        from = at + letter.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_reads_in_two_ways_is_refused() {
        for (text, expected) in [
            ("5m", Ok(300)),
            ("5min", Ok(300)),
            ("1h 30m", Ok(5400)),
            ("2months", Ok(2 * 2_630_016)),
            ("5M", Err("5m for minutes or 5months")),
            ("5 M", Err("5m for minutes")),
            ("1h 5M", Err("5m for minutes")),
            ("5M 3s", Err("5m for minutes")),
            ("M", Err("")),
            ("5Min", Err("")),
            ("x", Err("")),
        ] {
            match (parse(text), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.as_secs(), expected, "{text}"),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{text}: {error}"),
                (found, expected) => panic!("{text}: {found:?} instead of {expected:?}"),
            }
        }
    }
}
