//! OpenMetrics 1.0.0, as far as guard has it: counters, gauges and information.
//!
//! It differs from the text format in this: a counter's family is named without the `_total` of its samples, what ends in `_info` has a type
//! of its own, quotes in help texts are escaped, and the end is marked, so that half an answer is not taken for a whole one. See
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>.

use std::io::Write;

use prometheus::proto::{Metric, MetricFamily, MetricType};

pub(super) const MEDIA: &str = "application/openmetrics-text";
pub(super) const VERSION: &str = "1.0.0";
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// # Errors
/// When a family is neither counter nor gauge, or a counter is not named `..._total`.
pub(super) fn encode(families: &[MetricFamily], out: &mut impl Write) -> prometheus::Result<()> {
    for family in families {
        let kind = Kind::of(family)?;
        let name = family.name();
        let base = name.strip_suffix(kind.suffix()).unwrap_or(name);
        writeln!(out, "# TYPE {base} {}", kind.name())?;
        writeln!(out, "# HELP {base} {}", escaped(family.help()))?;
        for metric in family.get_metric() {
            writeln!(out, "{name}{} {}", labels(metric), kind.value(metric))?;
        }
    }
    writeln!(out, "# EOF")?;
    Ok(())
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Info,
}

impl Kind {
    fn of(family: &MetricFamily) -> prometheus::Result<Self> {
        let (name, kind) = (family.name(), family.get_field_type());
        if kind == MetricType::COUNTER && name.ends_with(Self::Counter.suffix()) {
            Ok(Self::Counter)
        } else if kind == MetricType::GAUGE {
            Ok(if name.ends_with(Self::Info.suffix()) { Self::Info } else { Self::Gauge })
        } else {
            Err(prometheus::Error::Msg(format!("{name} cannot be written as OpenMetrics")))
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Info => "info",
        }
    }

    /// What the samples have in their names and the family has not.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Gauge => "",
            Self::Info => "_info",
        }
    }

    fn value(self, metric: &Metric) -> f64 {
        match self {
            Self::Counter => metric.get_counter().get_value(),
            Self::Gauge | Self::Info => metric.get_gauge().get_value(),
        }
    }
}

/// `{service="vllm",verdict="pass"}`, or nothing.
fn labels(metric: &Metric) -> String {
    let pair =
        |label: &prometheus::proto::LabelPair| format!("{}=\"{}\"", label.name(), escaped(label.value()));
    let pairs: Vec<_> = metric.get_label().iter().map(pair).collect();
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

    use super::*;

    fn written(registry: &Registry) -> prometheus::Result<String> {
        let mut text = Vec::new();
        encode(&registry.gather(), &mut text)?;
        Ok(String::from_utf8(text).unwrap())
    }

    #[test]
    fn each_kind_is_written_as_the_specification_has_it() {
        let registry = Registry::new();
        let packets = IntCounterVec::new(Opts::new("a_packets_total", "By \"name\"\\."), &["name"]).unwrap();
        packets.with_label_values(&["quote \" slash \\ line \n"]).inc_by(1 << 53);
        registry.register(Box::new(packets)).unwrap();
        let open = IntGauge::new("b_open", "Open.").unwrap();
        open.set(-3);
        registry.register(Box::new(open)).unwrap();
        let info = Opts::new("c_info", "What runs.").const_label("version", "1");
        let info = IntGauge::with_opts(info).unwrap();
        info.set(1);
        registry.register(Box::new(info)).unwrap();
        let expected = "\
# TYPE a_packets counter
# HELP a_packets By \\\"name\\\"\\\\.
a_packets_total{name=\"quote \\\" slash \\\\ line \\n\"} 9007199254740992
# TYPE b_open gauge
# HELP b_open Open.
b_open -3
# TYPE c info
# HELP c What runs.
c_info{version=\"1\"} 1
# EOF
";
        assert_eq!(written(&registry).unwrap(), expected);
    }

    #[test]
    fn nothing_is_an_end_alone() {
        assert_eq!(written(&Registry::new()).unwrap(), "# EOF\n");
    }

    #[test]
    fn what_guard_has_none_of_is_an_error() {
        let registry = Registry::new();
        registry.register(Box::new(IntCounter::new("events", "No total.").unwrap())).unwrap();
        assert!(written(&registry).unwrap_err().to_string().contains("events"));
        let registry = Registry::new();
        let histogram = Histogram::with_opts(HistogramOpts::new("times", "A histogram.")).unwrap();
        registry.register(Box::new(histogram)).unwrap();
        assert!(written(&registry).unwrap_err().to_string().contains("times"));
    }
}
