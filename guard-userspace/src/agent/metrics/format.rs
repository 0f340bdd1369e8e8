//! The two formats that Prometheus reads, and which of them a scrape asks for.

use axum::http::{HeaderMap, header};
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, TEXT_FORMAT, TextEncoder};

use super::openmetrics;

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own text format, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What `Accept` asks for. Who does not say gets text, as does who would take both alike without naming OpenMetrics.
    pub fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let (mut text, mut openmetrics) = (0.0_f32, 0.0_f32);
        for range in values.flat_map(|value| value.split(',')) {
            let range = Range::read(range);
            match range.media.as_str() {
                openmetrics::MEDIA if range.is_version(openmetrics::VERSION) => {
                    openmetrics = openmetrics.max(range.quality);
                }
                "text/plain" if range.is_version(TEXT_VERSION) => text = text.max(range.quality),
                "text/*" | "*/*" => text = text.max(range.quality),
                _ => {}
            }
        }
        if openmetrics > 0.0 && openmetrics >= text { Self::OpenMetrics } else { Self::Text }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => TEXT_FORMAT,
            Self::OpenMetrics => openmetrics::CONTENT_TYPE,
        }
    }

    /// # Errors
    /// When a family holds what guard has none of: a bug.
    pub fn encode(self, families: &[MetricFamily]) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::new();
        match self {
            Self::Text => TextEncoder::new().encode(families, &mut text)?,
            Self::OpenMetrics => openmetrics::encode(families, &mut text)?,
        }
        Ok(text)
    }
}

const TEXT_VERSION: &str = "0.0.4";

/// One of the ranges of an `Accept`: `application/openmetrics-text;version=1.0.0;q=0.5`.
struct Range {
    media: String,
    version: Option<String>,
    quality: f32,
}

impl Range {
    /// A quality that is none counts as none: such a range is not chosen.
    fn read(text: &str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let mut range = Self { media, version: None, quality: 1.0 };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "version" => range.version = Some(value.trim().trim_matches('"').to_owned()),
                "q" => range.quality = value.trim().parse().unwrap_or(0.0),
                _ => {}
            }
        }
        range
    }

    fn is_version(&self, version: &str) -> bool {
        self.version.as_deref().is_none_or(|asked| asked == version)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn what_is_asked_for_is_given() {
        use Format::{OpenMetrics, Text};
        let cases = [
            ("a browser", "text/html,application/xhtml+xml,*/*;q=0.8", Text),
            ("curl", "*/*", Text),
            ("nothing", "", Text),
            ("OpenMetrics", "application/openmetrics-text; version=1.0.0", OpenMetrics),
            ("in capitals and quotes", "Application/OpenMetrics-Text; Version=\"1.0.0\"", OpenMetrics),
            ("any version", "application/openmetrics-text", OpenMetrics),
            ("another version only", "application/openmetrics-text; version=0.0.1", Text),
            (
                "Prometheus 2",
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics,
            ),
            (
                "Prometheus 3",
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
                OpenMetrics,
            ),
            ("text rather", "application/openmetrics-text;q=0.1, text/plain;q=0.9", Text),
            ("not at all", "application/openmetrics-text;q=0", Text),
            ("nonsense", ";;q=x,=,application/openmetrics-text;q=much", Text),
        ];
        for (name, accept, expected) in cases {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(Format::of(&headers), expected, "{name}");
        }
        assert_eq!(Format::of(&HeaderMap::new()), Text, "no Accept");
        let mut twice = HeaderMap::new();
        twice.append(header::ACCEPT, HeaderValue::from_static("text/plain;q=0.5"));
        twice.append(header::ACCEPT, HeaderValue::from_static("application/openmetrics-text"));
        assert_eq!(Format::of(&twice), OpenMetrics, "in two lines");
    }
}
