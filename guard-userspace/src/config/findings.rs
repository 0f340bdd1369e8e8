//! What a reader finds wrong, and where.

use std::fmt::{self, Display};
use std::ops::Range;

use super::diagnostic::{Diagnostic, Report, Severity};

/// Bytes of the source, from and to.
pub(super) type Span = Range<usize>;

/// Where a policy comes from.
pub(super) enum Source<'s> {
    File {
        name: &'s str,
        text: &'s str,
        lines: Vec<usize>,
    },
    /// A command line, written out; a span covers a flag with its value.
    Flags {
        line: &'s str,
    },
}

/// What is wrong with a value, without its place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    subject: Option<String>,
    message: String,
    help: Option<String>,
}

/// What was found so far.
pub(super) struct Findings<'s> {
    source: Source<'s>,
    found: Vec<(usize, Diagnostic)>,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { subject: None, message: message.into(), help: None }
    }

    /// `subject` is the value that is wrong; for a flag the flag takes its place.
    pub(super) fn about(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(message).subject(subject)
    }

    pub(super) fn subject(self, subject: impl Into<String>) -> Self {
        Self { subject: Some(subject.into()), ..self }
    }

    /// What to do about it.
    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// In one line, without a place.
impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(subject) = &self.subject {
            write!(f, "{subject}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

impl<'s> Source<'s> {
    pub(super) fn file(name: &'s str, text: &'s str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect();
        Self::File { name, text, lines }
    }

    /// Line of a byte, from 1.
    fn line(&self, at: usize) -> Option<u32> {
        match self {
            Self::File { lines, .. } => u32::try_from(lines.partition_point(|start| *start <= at)).ok(),
            Self::Flags { .. } => None,
        }
    }

    /// Columns of bytes that are asked for in their order, in characters, from 1.
    fn columns(&self) -> impl FnMut(usize) -> Option<u32> {
        // Each character is counted once, however many findings a line has.
        let (mut from, mut before, mut line) = (0, 0, None);
        move |at| {
            let Self::File { text, lines, .. } = self else { return None };
            let start = *lines.get(lines.partition_point(|start| *start <= at).checked_sub(1)?)?;
            if line != Some(start) {
                (from, before, line) = (start, 0, Some(start));
            }
            before += text.get(from..at)?.chars().count();
            from = at;
            u32::try_from(before + 1).ok()
        }
    }
}

impl<'s> Findings<'s> {
    pub(super) fn new(source: Source<'s>) -> Self {
        Self { source, found: Vec::new() }
    }

    pub(super) fn error(&mut self, span: &Span, fault: Fault) {
        self.add(Severity::Error, span, fault);
    }

    pub(super) fn warn(&mut self, span: &Span, fault: Fault) {
        self.add(Severity::Warning, span, fault);
    }

    /// Keeps the value; a fault becomes an error at `span`.
    pub(super) fn keep<T>(&mut self, span: &Span, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.error(span, fault)).ok()
    }

    /// Line of a span in the policy file.
    pub(super) fn line(&self, span: &Span) -> Option<u32> {
        self.source.line(span.start)
    }

    /// The place of a span, for a message that names a second one.
    pub(super) fn place(&self, span: &Span) -> String {
        match (self.line(span), &self.source) {
            (Some(line), _) => format!("line {line}"),
            (None, Source::Flags { line } | Source::File { text: line, .. }) => {
                line.get(span.clone()).unwrap_or_default().into()
            }
        }
    }

    /// The warnings, or all that was found if there is an error among it.
    pub(super) fn finish(mut self) -> Result<Vec<Diagnostic>, Report> {
        self.found.sort_by_key(|(at, _)| *at);
        let mut columns = self.source.columns();
        let mut placed = |(at, diagnostic)| Diagnostic { column: columns(at), ..diagnostic };
        let found: Vec<Diagnostic> = self.found.into_iter().map(&mut placed).collect();
        if found.iter().all(|diagnostic| diagnostic.severity == Severity::Warning) {
            return Ok(found);
        }
        let text = match self.source {
            Source::File { text, .. } => text,
            Source::Flags { .. } => "",
        };
        Err(Report::new(found, text))
    }

    fn add(&mut self, severity: Severity, span: &Span, Fault { subject, message, help }: Fault) {
        let about = |subject: &dyn Display| format!("{subject}: {message}");
        let diagnostic = match &self.source {
            Source::File { name, .. } => Diagnostic {
                severity,
                message: subject.map_or_else(|| message.clone(), |subject| about(&subject)),
                file: (*name).into(),
                line: self.source.line(span.start),
                column: None,
                help,
                span: Some(span.clone()),
            },
            Source::Flags { line } => Diagnostic {
                severity,
                message: match line.get(span.clone()) {
                    None | Some("") => message,
                    Some(flag) => about(&flag),
                },
                file: "command line".into(),
                line: None,
                column: None,
                help,
                span: None,
            },
        };
        self.found.push((span.start, diagnostic));
    }
}
