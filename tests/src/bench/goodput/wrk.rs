//! wrk, and what it says.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::super::strangers::ADDRESS;
use crate::net::Host;

/// What wrk got.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Answers {
    pub(super) a_second: f64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

/// For so long wrk may run: it connects once before its time begins, and a host that is flooded may not answer for seconds.
pub(super) fn limit(time: Duration) -> Duration {
    time * 3 + Duration::from_secs(10)
}

/// Asks again and again, by eight connections.
pub(super) fn run(world: &Host, time: Duration) -> Result<Answers> {
    let (url, limit) = (format!("http://{ADDRESS}:8000/"), limit(time).as_secs().to_string());
    let duration = format!("-d{}s", time.as_secs().max(1));
    let arguments = [&limit, "wrk", "-t1", "-c8", &duration, "--timeout", "10s", "--latency", &url];
    let (ok, said) = world.output("timeout", &arguments)?;
    if !ok {
        // It has not got as far as asking.
        ensure!(said.is_empty() || said.contains("unable to connect"), "wrk: {said}");
        return Ok(Answers::none(time));
    }
    parse(&said, time)
}

impl Answers {
    /// `time` is what stands for a latency.
    const fn none(time: Duration) -> Self {
        Self { a_second: 0.0, p50: time, p99: time }
    }
}

/// `time` is what stands for a latency where nothing was answered.
fn parse(said: &str, time: Duration) -> Result<Answers> {
    let value = |key: &str| {
        let found = said.lines().find_map(|line| line.trim().strip_prefix(key));
        found.map(str::trim).with_context(|| format!("wrk does not say {key}: {said}"))
    };
    let a_second: f64 = value("Requests/sec:")?.parse().context("no number of requests")?;
    if a_second == 0.0 {
        return Ok(Answers::none(time));
    }
    Ok(Answers { a_second, p50: latency(value("50%")?)?, p99: latency(value("99%")?)? })
}

fn latency(text: &str) -> Result<Duration> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let unit = match &text[digits.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        other => anyhow::bail!("wrk counts in {other:?}"),
    };
    let count: f64 = digits.parse().with_context(|| format!("no latency: {text}"))?;
    Duration::try_from_secs_f64(count * unit).with_context(|| format!("no latency: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(2);

    #[test]
    fn latencies_are_read_in_each_unit() {
        let said = "  Latency Distribution\n     50%  250.00us\n     75%    1.00ms\n     90%    2.00ms\n     99%    1.50s \n\
                    Requests/sec:  42345.67\nTransfer/sec:  5.01MB\n";
        let expected =
            Answers { a_second: 42345.67, p50: Duration::from_micros(250), p99: Duration::from_millis(1500) };
        assert_eq!(parse(said, TIME).unwrap(), expected);
    }

    #[test]
    fn a_round_without_an_answer_is_as_long_as_it_was() {
        let said = "     50%    0.00us\n     99%    0.00us\nRequests/sec:      0.00\n";
        assert_eq!(parse(said, TIME).unwrap(), Answers { a_second: 0.0, p50: TIME, p99: TIME });
        assert!(parse("unable to connect", TIME).is_err());
    }
}
