//! Text from outside, made harmless: for terminals, which obey control characters, and for logs, where a new line begins another message.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text in one line, with what controls a terminal or the direction of writing shown as `\u{1b}`.
pub fn plain(text: &str) -> Cow<'_, str> {
    harmless(text, is_control)
}

/// The same for text of several lines.
pub fn plain_lines(text: &str) -> Cow<'_, str> {
    harmless(text, |character| is_control(character) && !matches!(character, '\n' | '\t'))
}

/// The same for JSON, which escapes but few of them by itself, in its own form.
pub fn plain_json(text: &str) -> Cow<'_, str> {
    let is_harmful = |character: char| is_control(character) && character != '\n';
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    // All of them are of the basic plane: four digits are enough.
    let escape = |character: char| match character {
        _ if is_harmful(character) => format!("\\u{:04x}", u32::from(character)),
        _ => character.to_string(),
    };
    Cow::Owned(text.chars().map(escape).collect())
}

/// The same for a message of the log. What is not its first line is set in, so that none of it looks like another message. Escape characters are
/// those of whoever writes the log: it has replaced all others.
pub fn plain_log(text: &str) -> Cow<'_, str> {
    if text.starts_with('{') {
        return plain_json(text);
    }
    let harmless =
        harmless(text, |character| is_control(character) && !matches!(character, '\n' | '\t' | '\x1b'));
    let message = harmless.strip_suffix('\n').unwrap_or(&harmless);
    if !message.contains('\n') {
        return harmless;
    }
    Cow::Owned(format!("{}\n", message.replace('\n', "\n    ")))
}

fn harmless(text: &str, is_harmful: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut harmless = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\n' if is_harmful(character) => harmless.push_str("\\n"),
            _ if is_harmful(character) => {
                // A string takes all that is written to it.
                let _ = write!(harmless, "{}", character.escape_unicode());
            }
            _ => harmless.push(character),
        }
    }
    Cow::Owned(harmless)
}

/// Control characters of both ranges, separators of lines, and what turns the direction of writing (UAX #9).
fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_controls_a_terminal_is_shown_and_not_obeyed() {
        let cases = [
            ("scans us, müde", "scans us, müde"),
            ("\x1b]0;title\x07\x1b[2J", "\\u{1b}]0;title\\u{7}\\u{1b}[2J"),
            ("done\nINFO guard is fine", "done\\nINFO guard is fine"),
            ("\u{9b}31m\r", "\\u{9b}31m\\u{d}"),
            ("a\u{202e}b", "a\\u{202e}b"),
        ];
        for (text, expected) in cases {
            assert_eq!(plain(text), expected, "{text:?}");
        }
        assert_eq!(plain_lines("a\tb\n\x1bc\n"), "a\tb\n\\u{1b}c\n");
        assert_eq!(plain_log("INFO a\r\u{202e}\n2026 INFO b\n"), "INFO a\\u{d}\\u{202e}\n    2026 INFO b\n");
        assert_eq!(plain_log("INFO a\n"), "INFO a\n");
        assert_eq!(plain_log("{\"message\":\"\u{9b}\"}\n"), "{\"message\":\"\\u009b\"}\n");
        let odd = "a\u{9b}\u{202e}\x7f";
        let json = serde_json::to_string(odd).unwrap();
        assert_eq!(plain_json(&json), "\"a\\u009b\\u202e\\u007f\"");
        assert_eq!(serde_json::from_str::<String>(&plain_json(&json)).unwrap(), odd);
    }
}
