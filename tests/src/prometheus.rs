//! A real Prometheus on a host of a test network, and the files that guard has for it.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::net::{Host, Running};
use crate::{stale, wait};

/// A directory of the repository's `packaging`.
pub fn packaged(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging")).join(path)
}

/// Prometheus, which scrapes guard on the same host every second. It ends with its handle.
pub struct Prometheus<'a> {
    host: &'a Host,
    process: Running,
    directory: TempDir,
}

/// One sample: labels (its name is `__name__`) and value.
#[derive(Clone, Debug)]
pub struct Sample {
    pub labels: serde_json::Map<String, Value>,
    pub value: f64,
}

impl Sample {
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).and_then(Value::as_str).unwrap_or_default()
    }
}

const ADDRESS: &str = "127.0.0.1:9090";
const PATIENCE: Duration = Duration::from_secs(60);

impl<'a> Prometheus<'a> {
    /// Starts it with these rules and waits until it has scraped guard.
    ///
    /// # Errors
    /// When it does not start, with what it said.
    pub fn start(host: &'a Host, rules: &str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix(&stale::prefix()).tempdir();
        let directory = directory.context("no directory for Prometheus")?;
        let path = |name: &str| directory.path().join(name);
        let settings = "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n\
            rule_files: [rules.yml]\n\
            scrape_configs: [{job_name: guard, static_configs: [{targets: [\"127.0.0.1:9455\"]}]}]\n";
        fs::write(path("prometheus.yml"), settings).context("cannot write its configuration")?;
        fs::write(path("rules.yml"), rules).context("cannot write its rules")?;
        let log = File::create(path("log")).context("cannot write its log")?;
        // It ends with this thread, however that ends.
        let mut command = host.command("setpriv");
        command.args(["--pdeathsig", "KILL", "prometheus", "--log.level=warn"]);
        command.arg(format!("--config.file={}", path("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", path("data").display()));
        command.arg(format!("--web.listen-address={ADDRESS}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = host.start(&mut command)?;
        let mut prometheus = Self { host, process, directory };
        let scrapes = wait::within(PATIENCE, || {
            let has_ended = !matches!(prometheus.process.has_ended(), Ok(None));
            has_ended || prometheus.value("up{job=\"guard\"}").is_ok_and(|up| up == Some(1.0))
        });
        ensure!(scrapes && prometheus.process.has_ended()?.is_none(), "no Prometheus: {}", prometheus.log());
        Ok(prometheus)
    }

    /// What an expression is now.
    ///
    /// # Errors
    /// When it is wrong or Prometheus does not answer.
    pub fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        let query = format!("query={expression}");
        let answer =
            self.get("query", &["--data-urlencode", &query]).with_context(|| expression.to_owned())?;
        let result = answer["result"].as_array().context("no result")?;
        let sample = |entry: &Value| {
            let value = entry["value"][1].as_str().and_then(|value| value.parse().ok());
            let labels = entry["metric"].as_object().cloned();
            Ok(Sample { labels: labels.context("no labels")?, value: value.context("no value")? })
        };
        result.iter().map(sample).collect()
    }

    /// What an expression of one sample is now; none if it is empty.
    ///
    /// # Errors
    /// As [`query`](Self::query), and when there are several.
    pub fn value(&self, expression: &str) -> Result<Option<f64>> {
        let samples = self.query(expression)?;
        ensure!(samples.len() < 2, "{expression}: {samples:?}");
        Ok(samples.first().map(|sample| sample.value))
    }

    /// The alerts that fire, each with its labels and annotations.
    ///
    /// # Errors
    /// When Prometheus does not answer.
    pub fn firing(&self) -> Result<Vec<Value>> {
        let answer = self.get("alerts", &[])?;
        let alerts = answer["alerts"].as_array().context("no alerts")?;
        Ok(alerts.iter().filter(|alert| alert["state"] == "firing").cloned().collect())
    }

    /// Waits until all of these alerts fire.
    pub fn fires(&self, names: &[&str], patience: Duration) -> bool {
        wait::within(patience, || {
            let firing = self.firing().unwrap_or_default();
            names.iter().all(|name| firing.iter().any(|alert| alert["labels"]["alertname"] == *name))
        })
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn get(&self, what: &str, arguments: &[&str]) -> Result<Value> {
        let url = format!("http://{ADDRESS}/api/v1/{what}");
        let (_, text) = self.host.output("curl", &[&["-sG", "-m", "10", &url], arguments].concat())?;
        let mut answer: Value = serde_json::from_str(&text).with_context(|| format!("no answer: {text}"))?;
        ensure!(answer["status"] == "success", "{text}");
        Ok(answer["data"].take())
    }
}

/// Rules in which a minute lasts a second, an hour a minute, a day 24 minutes: the same rules for a Prometheus that scrapes each second
/// instead of each minute.
pub fn hastened(rules: &str) -> String {
    let mut hastened = String::new();
    let mut digits = String::new();
    // Durations are what stands in brackets, or behind `for:`.
    let mut is_duration = false;
    for line in rules.split_inclusive('\n') {
        let is_for = line.trim_start().starts_with("for: ");
        for character in line.chars() {
            match character {
                '0'..='9' => digits.push(character),
                unit @ ('m' | 'h' | 'd') if !digits.is_empty() && (is_duration || is_for) => {
                    let number: u32 = std::mem::take(&mut digits).parse().unwrap_or(0);
                    hastened += &match unit {
                        'm' => format!("{number}s"),
                        'h' => format!("{number}m"),
                        _ => format!("{}m", number * 24),
                    };
                }
                other => {
                    hastened += &std::mem::take(&mut digits);
                    is_duration = other == '[';
                    hastened.push(other);
                }
            }
        }
    }
    hastened
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_durations_are_hastened() {
        let rules = "for: 5m\nexpr: increase(a_4h[10m]) > 1000 and rate(b[1d]) > 3 * rate(c[1h])\n# for 5m\n";
        let expected =
            "for: 5s\nexpr: increase(a_4h[10s]) > 1000 and rate(b[24m]) > 3 * rate(c[1m])\n# for 5m\n";
        assert_eq!(hastened(rules), expected);
    }
}
