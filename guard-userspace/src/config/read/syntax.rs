//! What is no TOML.

use toml::de::Error;

use crate::config::findings::{Fault, Findings};

/// Reports what the parser found. Of several errors in one line all but the first are only its consequences.
pub(super) fn report(findings: &mut Findings<'_>, text: &str, mut errors: Vec<Error>) {
    if let Some((language, at)) = other_language(text) {
        let fault = Fault::new(format!("this is {language}, and a policy is TOML"));
        findings.error(
            &(at..at),
            fault.help("write tables such as [attach] and [[service]], and keys as name = \"vllm\""),
        );
        return;
    }
    errors.sort_by_key(|error| error.span().map_or(text.len(), |span| span.start));
    let mut last = None;
    for error in errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        let line = findings.line(&span);
        if last == Some(line) {
            continue;
        }
        last = Some(line);
        let fault = Fault::new(error.message().trim_end_matches(", expected nothing").replace('\n', "; "));
        findings.error(
            &span,
            match advice(text, span.start) {
                Some(help) => fault.help(help),
                None => fault,
            },
        );
    }
}

/// The language of a text that is no TOML, as its first line shows it, and where that line begins.
fn other_language(text: &str) -> Option<(&'static str, usize)> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let content = line.trim();
        if content.is_empty() || content.starts_with('#') {
            at += line.len();
            continue;
        }
        let is_key = |key: &str| {
            !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        };
        let is_yaml = content == "---"
            || content.starts_with("- ")
            || content.split_once(':').is_some_and(|(key, value)| {
                is_key(key) && (value.is_empty() || value.starts_with(' ')) && !value.contains('=')
            });
        return match content {
            _ if content.starts_with('{') => Some(("JSON", at)),
            _ if is_yaml => Some(("YAML", at)),
            _ => None,
        };
    }
    None
}

/// The usual slip is a word or an address without quotes.
fn advice(text: &str, at: usize) -> Option<String> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b".:/-_*".contains(byte);
    let bytes = text.as_bytes();
    let start = at - bytes.get(..at)?.iter().rev().take_while(|byte| is_part(byte)).count();
    let length = bytes.get(start..)?.iter().take_while(|byte| is_part(byte)).count();
    let word = text.get(start..start + length)?;
    let before = text.get(..start)?.trim_end();
    let in_header = before.lines().next_back().is_some_and(|line| line.trim_start().starts_with('['));
    let in_value = before.ends_with(['=', '[', ',']) && !in_header && !word.is_empty();
    let quoted = in_value && word.parse::<f64>().is_err();
    quoted.then(|| format!("if this is text, put it in quotes: \"{word}\""))
}
