//! What people do with the service, by curl.

use std::io::Write;
use std::thread;

use anyhow::{Context, Result, ensure};
use guard_tests::net::Host;
use guard_tests::scene::SERVER;
use guard_tests::stale;
use serde_json::{Value, json};

use super::PORT;

/// Bytes of the prompt of an upload.
const UPLOAD: usize = 4 << 20;
/// Short requests, each over a connection of its own.
const REQUESTS: usize = 200;
/// Seconds that curl waits for an answer.
const ANSWER: &str = "60";

/// What somebody does with the service.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// One stream at the pace of a large model.
    Stream,
    /// One stream as fast as the server can.
    FastStream,
    EightStreams,
    ShortRequests,
    Upload,
}

impl Work {
    pub(crate) const ALL: [Self; 5] =
        [Self::Stream, Self::FastStream, Self::EightStreams, Self::ShortRequests, Self::Upload];

    /// Does it, and fails if an answer is not whole.
    pub(crate) fn run(self, client: &Host) -> Result<()> {
        match self {
            Self::Stream => stream(client, 31, 50),
            Self::FastStream => stream(client, 0, 2000),
            Self::EightStreams => at_once(&[(); 8], |()| stream(client, 5, 200)),
            Self::ShortRequests => short_requests(client),
            Self::Upload => upload(client),
        }
    }

    /// The fewest packets in which a client can do it.
    pub(crate) const fn packets(self) -> u64 {
        match self {
            // An acknowledgement of every other event.
            Self::Stream => 25,
            Self::FastStream => 20,
            Self::EightStreams => 8 * 20,
            // SYN, request, FIN, and an acknowledgement.
            Self::ShortRequests => 4 * REQUESTS as u64,
            Self::Upload => (UPLOAD / 1460) as u64,
        }
    }
}

/// Does the work of several people at the same time.
pub(crate) fn at_once<T: Sync>(people: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let work = &work;
    thread::scope(|scope| {
        let running: Vec<_> = people.iter().map(|person| scope.spawn(move || work(person))).collect();
        running
            .into_iter()
            .try_for_each(|work| work.join().unwrap_or_else(|_| anyhow::bail!("a client panicked")))
    })
}

fn stream(client: &Host, delay: u64, tokens: usize) -> Result<()> {
    let request = json!({ "prompt": "Hello", "max_tokens": tokens, "stream": true, "delay": delay });
    let answer = post(client, &request.to_string())?;
    let events = answer.lines().filter(|line| line.starts_with("data: {")).count();
    ensure!(events == tokens && answer.contains("data: [DONE]"), "{events} events of {tokens}");
    Ok(())
}

fn upload(client: &Host) -> Result<()> {
    let mut file = tempfile::Builder::new().prefix(&stale::prefix()).tempfile()?;
    file.write_all(json!({ "prompt": "word".repeat(UPLOAD / 4), "max_tokens": 1 }).to_string().as_bytes())?;
    let answer: Value = serde_json::from_str(&post(client, &format!("@{}", file.path().display()))?)?;
    ensure!(answer["usage"]["prompt_tokens"] == UPLOAD, "the prompt did not arrive: {answer}");
    Ok(())
}

/// What the server answers to a request, or to a file with one (`@FILE`).
pub(crate) fn post(client: &Host, request: &str) -> Result<String> {
    post_within(client, request, ANSWER)
}

/// The same, of a client that waits for so many seconds.
pub(crate) fn post_within(client: &Host, request: &str, seconds: &str) -> Result<String> {
    let url = format!("http://{}:{PORT}/v1/completions", SERVER[0]);
    // Without Expect, curl does not ask whether it may upload.
    let headers = ["-H", "content-type: application/json", "-H", "expect:"];
    let (ok, answer) =
        client.output("curl", &[&["-sSfN", "-m", seconds], &headers[..], &["-d", request, &url]].concat())?;
    ensure!(ok, "{answer}");
    Ok(answer)
}

fn short_requests(client: &Host) -> Result<()> {
    let url = format!("http://{}:{PORT}/health?[1-{REQUESTS}]", SERVER[0]);
    let parallel = ["-Z", "--parallel-immediate", "--parallel-max", "50", "-H", "connection: close"];
    let report = ["-o", "/dev/null", "-w", "%{http_code} over %{num_connects}\n"];
    let (_, answers) =
        client.output("curl", &[&["-sSf", "-m", ANSWER], &parallel[..], &report, &[&url]].concat())?;
    let good = answers.lines().filter(|line| *line == "200 over 1").count();
    ensure!(good == REQUESTS, "{good} of {REQUESTS} requests were answered: {answers}");
    Ok(())
}

/// Fails unless every request is answered.
pub(crate) fn h2load(client: &Host, requests: u64, arguments: &[&str]) -> Result<()> {
    // A connection that is never opened must not be waited for.
    let patience = ["-N", "60", "-T", "300"];
    let count = requests.to_string();
    let (ok, said) = client.output("h2load", &[&["-n", &count], &patience[..], arguments].concat())?;
    let line = said.lines().find(|line| line.starts_with("requests:"));
    let line = line.with_context(|| format!("h2load does not tell: {said}"))?;
    ensure!(ok && line.contains(&format!(" {requests} succeeded, 0 failed, 0 errored")), "{line}");
    Ok(())
}
