//! Single values of a policy file.

use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::findings::{Fault, Findings};
use crate::config::keyword::Keyword;
use crate::config::{prefix, units};

/// A value of the file, with its place.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// A value under its key.
#[derive(Clone, Copy)]
pub(super) struct Entry<'v, 'i> {
    pub(super) key: &'v str,
    pub(super) value: &'v Value<'i>,
}

impl<'v, 'i> Entry<'v, 'i> {
    pub(super) fn string(self, findings: &mut Findings<'_>, expected: &str) -> Option<&'v str> {
        self.value.get_ref().as_str().or_else(|| self.mistyped(findings, expected))
    }

    pub(super) fn boolean(self, findings: &mut Findings<'_>) -> Option<bool> {
        self.value.get_ref().as_bool().or_else(|| self.mistyped(findings, "true or false"))
    }

    pub(super) fn array(self, findings: &mut Findings<'_>, expected: &str) -> Option<&'v [Value<'i>]> {
        match self.value.get_ref().as_array() {
            Some(array) => Some(array),
            None => self.mistyped(findings, expected),
        }
    }

    pub(super) fn is_empty_array(self) -> bool {
        self.value.get_ref().as_array().is_some_and(|array| array.is_empty())
    }

    pub(super) fn table(self, findings: &mut Findings<'_>, expected: &str) -> Option<&'v DeTable<'i>> {
        self.value.get_ref().as_table().or_else(|| self.mistyped(findings, expected))
    }

    /// A number from 0.
    pub(super) fn number(self, findings: &mut Findings<'_>, expected: &str) -> Option<u64> {
        let Some(integer) = self.value.get_ref().as_integer() else {
            return self.mistyped(findings, expected);
        };
        // What fails is negative or too large.
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        number.or_else(|| self.wrong(findings, Fault::new(format!("{integer} is not {expected}"))))
    }

    /// A number within bounds.
    pub(super) fn bounded<T: TryFrom<u64>>(
        self,
        findings: &mut Findings<'_>,
        min: u64,
        max: u64,
    ) -> Option<T> {
        let expected = format!("a number from {min} to {max}");
        let number = self.number(findings, &expected)?;
        let bounded = Some(number)
            .filter(|number| (min..=max).contains(number))
            .and_then(|number| T::try_from(number).ok());
        bounded.or_else(|| self.wrong(findings, Fault::new(format!("{number} is not {expected}"))))
    }

    /// `50MiB` or a plain number.
    pub(super) fn bytes(self, findings: &mut Findings<'_>) -> Option<u64> {
        let expected = "a number of bytes such as \"50MiB\" or 4096";
        if self.value.get_ref().is_integer() {
            return self.number(findings, expected);
        }
        let text = self.string(findings, expected)?;
        findings.keep(&self.value.span(), units::parse_bytes(text))
    }

    /// One word of a few.
    pub(super) fn keyword<K: Keyword>(self, findings: &mut Findings<'_>) -> Option<K> {
        let words: Vec<&str> = K::ALL.iter().map(|value| value.word()).collect();
        let text = self.string(findings, &format!("one of \"{}\"", words.join("\", \"")))?;
        K::of(text).or_else(|| {
            let help = match nearest(text, words.iter().copied()) {
                Some(word) => format!("did you mean {word:?}?"),
                None => format!("write one of \"{}\"", words.join("\", \"")),
            };
            self.wrong(findings, Fault::new(format!("{text:?} is not known")).help(help))
        })
    }

    pub(super) fn prefix(self, findings: &mut Findings<'_>) -> Option<Spanned<IpNet>> {
        let text = self.string(findings, "a prefix such as \"10.0.0.0/8\"")?;
        let span = self.value.span();
        let net = findings.keep(&span, prefix::parse(text))?;
        Some(Spanned::new(span, net))
    }

    pub(super) fn prefixes(self, findings: &mut Findings<'_>) -> Vec<Spanned<IpNet>> {
        let array = self.array(findings, "an array of prefixes such as [\"10.0.0.0/8\", \"fd00:1::/64\"]");
        self.each(array, |entry| entry.prefix(findings))
    }

    /// What `read` makes of each element.
    pub(super) fn each<T>(
        self,
        array: Option<&'v [Value<'i>]>,
        read: impl FnMut(Self) -> Option<T>,
    ) -> Vec<T> {
        array
            .unwrap_or_default()
            .iter()
            .map(|value| Entry { key: self.key, value })
            .filter_map(read)
            .collect()
    }

    /// An error about this value, with its key.
    pub(super) fn complain(self, findings: &mut Findings<'_>, fault: Fault) {
        findings.error(&self.value.span(), fault.subject(self.key));
    }

    /// The same where a value was to come.
    pub(super) fn wrong<T>(self, findings: &mut Findings<'_>, fault: Fault) -> Option<T> {
        self.complain(findings, fault);
        None
    }

    pub(super) fn mistyped<T>(self, findings: &mut Findings<'_>, expected: &str) -> Option<T> {
        let found = match self.value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.wrong(findings, Fault::new(format!("expected {expected}, found {found}")))
    }
}

/// The known name that a wrong one was probably meant to be.
pub(in crate::config) fn nearest<'n>(
    wrong: &str,
    known: impl IntoIterator<Item = &'n str>,
) -> Option<&'n str> {
    let wrong = wrong.to_ascii_lowercase();
    let distances =
        known.into_iter().map(|name| (strsim::damerau_levenshtein(&wrong, &name.to_ascii_lowercase()), name));
    let (distance, name) = distances.min_by_key(|(distance, _)| *distance)?;
    let near = distance <= (name.len() / 3).max(1);
    // A longer or shorter form of the same word: `prefix` for `prefixes`.
    let form = wrong.len() >= 3 && (name.starts_with(&wrong) || wrong.starts_with(name));
    (near || form).then_some(name)
}
