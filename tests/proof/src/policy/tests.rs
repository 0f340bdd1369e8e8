//! Texts that are no policies, and some that nearly are.

use proptest::prelude::*;
use proptest::sample::select;

use super::check;

/// The policy that guard comes with.
const PACKAGED: &str = include_str!("../../../../packaging/guard.toml");

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn no_text_of_toml_makes_the_reader_panic(text in "[\\[\\]a-z0-9=\"'.,{}:/#\r\n\tü _-]{0,200}") {
        check(&text);
    }

    /// Real policies with pieces put in, taken out and moved.
    #[test]
    fn no_broken_policy_makes_the_reader_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..12usize, ".{0,6}|[0-9]{1,24}|\"[0-9./:f]{0,20}\""), 1..8),
    ) {
        let mut text = PACKAGED.to_owned();
        for (at, remove, put) in edits {
            let at = at.index(text.len());
            let Some(from) = (at..text.len()).find(|at| text.is_char_boundary(*at)) else { continue };
            let to = (from + remove).min(text.len());
            let Some(to) = (to..=text.len()).find(|at| text.is_char_boundary(*at)) else { continue };
            text.replace_range(from..to, &put);
            check(&text);
        }
    }

    /// Every value of the policy replaced by one of each type.
    #[test]
    fn no_value_makes_the_reader_panic(
        line in any::<prop::sample::Index>(),
        value in select(vec!["1", "-1", "0", "1e400", "nan", "\"\"", "\"x\"", "true", "[]", "[[]]", "[{}]", "{}", "2020-01-01", "{ a = 1 }",
            "0xffffffffffffffffffff", "[\"::/0\", \"0.0.0.0/0\"]", "\"1y\"", "\"99999999999999999y\"", "\"18446744073709551615TiB\"",
            "104857601", "\"1500000B\"", "\"90s\"", "\"1h 30m\"", "[80, \"8000-8001\"]", "\"[::1]:1\""]),
    ) {
        let text = PACKAGED;
        let keys: Vec<usize> = text.lines().enumerate().filter(|(_, line)| line.contains(" = ") && !line.starts_with('#')).map(|(index, _)| index).collect();
        let changed = *line.get(&keys);
        let lines: Vec<String> = text
            .lines()
            .enumerate()
            .map(|(index, line)| match line.split_once(" = ") {
                Some((key, _)) if index == changed => format!("{key} = {value}"),
                _ => line.to_owned(),
            })
            .collect();
        check(&lines.join("\n"));
    }
}
