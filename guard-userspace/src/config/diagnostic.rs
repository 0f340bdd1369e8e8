//! Errors and warnings about a policy, with their place.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

/// How many diagnostics a report shows; more would only scroll away the first.
const SHOWN: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One thing that is wrong with a policy, or doubtful. As text without a source it is one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    pub message: String,
    /// The file as it was named, or `command line`.
    pub file: String,
    /// From 1; none on the command line.
    pub line: Option<u32>,
    /// In characters, from 1; none on the command line.
    pub column: Option<u32>,
    /// What to do.
    pub help: Option<String>,
    #[serde(skip)]
    pub(super) span: Option<Range<usize>>,
}

/// A policy that cannot be used: at least one error, with the warnings, in the order of the file.
/// As text it shows the lines in question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    diagnostics: Vec<Diagnostic>,
    source: String,
}

impl Report {
    pub(super) fn new(diagnostics: Vec<Diagnostic>, source: &str) -> Self {
        Self { diagnostics, source: source.into() }
    }

    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    pub fn errors(&self) -> Vec<&Diagnostic> {
        self.of(Severity::Error)
    }

    pub fn warnings(&self) -> Vec<&Diagnostic> {
        self.of(Severity::Warning)
    }

    fn of(&self, severity: Severity) -> Vec<&Diagnostic> {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).collect()
    }

    /// The diagnostics with the lines in question, the errors before the warnings.
    pub fn render(&self, color: bool) -> String {
        let (errors, warnings) = (self.errors(), self.warnings());
        let all = errors.iter().chain(&warnings);
        let mut parts: Vec<String> =
            all.take(SHOWN).map(|diagnostic| diagnostic.render(&self.source, color)).collect();
        let total = self.diagnostics.len();
        if total > 1 {
            let count = |count: usize, what| match count {
                1 => format!("1 {what}"),
                count => format!("{count} {what}s"),
            };
            let mut sum = count(errors.len(), "error");
            if !warnings.is_empty() {
                sum = format!("{sum}, {}", count(warnings.len(), "warning"));
            }
            if total > SHOWN {
                sum = format!("{sum}; {} more are not shown", total - SHOWN);
            }
            parts.push(sum);
        }
        parts.join("\n\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}

impl Diagnostic {
    /// The message with the line in question, as compilers show it. `source` is the text of the file.
    pub fn render(&self, source: &str, color: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let title = level.primary_title(self.message.as_str());
        let Some((line, span, number)) = self.excerpt(source) else {
            return renderer.render(&[Group::with_title(title)]) + &self.place_and_help();
        };
        let snippet = Snippet::source(line)
            .path(self.file.as_str())
            .line_start(number)
            .annotation(AnnotationKind::Primary.span(span));
        let help = self.help.as_deref().map(|help| Level::HELP.message(help));
        renderer.render(&[title.element(snippet).elements(help)])
    }

    /// What follows the message where there is no line to show.
    fn place_and_help(&self) -> String {
        let place =
            self.line.zip(self.column).map(|(line, column)| format!("\n --> {}:{line}:{column}", self.file));
        let help = self.help.as_ref().map(|help| format!("\n  = help: {help}"));
        [place, help].into_iter().flatten().collect()
    }

    /// The line in question, the span in it, and its number.
    fn excerpt<'t>(&self, source: &'t str) -> Option<(&'t str, Range<usize>, usize)> {
        let (span, line) = (self.span.as_ref()?, self.line?);
        let start = source.get(..span.start)?.rfind('\n').map_or(0, |end| end + 1);
        let rest = source.get(start..)?;
        let text = rest.lines().next().unwrap_or_default();
        let from = (span.start - start).min(text.len());
        let to = span.end.saturating_sub(start).clamp(from, text.len());
        Some((text, from..to, usize::try_from(line).ok()?))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, " ({help})"))
    }
}
