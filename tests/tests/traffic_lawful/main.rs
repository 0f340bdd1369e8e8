//! Clients that behave: under the limits that the README and the packaged policy suggest, none of them loses a packet.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guard_common::Reason;
use guard_tests::guard::Guard;
use guard_tests::net::{Host, Running};
use guard_tests::scene::{SERVER, Scene};
use guard_tests::{stale, wait};
use serde_json::{Value, json};
use toml::Table;

const PACKAGED: &str = include_str!("../../../packaging/guard.toml");
const README: &str = include_str!("../../README.md");

const PORT: u16 = 8000;
/// Bytes of the prompt of an upload.
const UPLOAD: usize = 4 << 20;
/// Short requests, each over a connection of its own.
const REQUESTS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(10);
/// Seconds that curl waits for an answer.
const ANSWER: &str = "60";

/// What somebody does with the service.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// One stream at the pace of a large model.
    Stream,
    /// One stream as fast as the server can.
    FastStream,
    EightStreams,
    ShortRequests,
    Upload,
}

impl Work {
    const ALL: [Self; 5] =
        [Self::Stream, Self::FastStream, Self::EightStreams, Self::ShortRequests, Self::Upload];

    /// Does it, and fails if an answer is not whole.
    fn run(self, client: &Host) -> Result<()> {
        match self {
            Self::Stream => stream(client, 31, 50),
            Self::FastStream => stream(client, 0, 2000),
            Self::EightStreams => at_once(&[(); 8], |()| stream(client, 5, 200)),
            Self::ShortRequests => short_requests(client),
            Self::Upload => upload(client),
        }
    }

    /// The fewest packets in which a client can do it.
    const fn packets(self) -> u64 {
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

/// Who works behind one address at the same time: twenty people.
const TEAM: [(Work, usize); 5] = [
    (Work::Stream, 12),
    (Work::FastStream, 2),
    (Work::EightStreams, 2),
    (Work::ShortRequests, 2),
    (Work::Upload, 2),
];

#[test]
fn the_packaged_policy_lets_clients_that_behave_work() -> Result<()> {
    lets_clients_work(PACKAGED)
}

#[test]
fn the_policy_of_the_readme_lets_clients_that_behave_work() -> Result<()> {
    let block = README.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    lets_clients_work(block.context("the README shows no policy")?)
}

fn lets_clients_work(policy: &str) -> Result<()> {
    let scene = Scene::new()?;
    let _server = serve(&scene.server)?;
    let guard = Guard::start(&scene.server, &enforced(policy)?)?;
    for work in Work::ALL {
        loses_nothing(&guard, &format!("{work:?}"), work.packets(), || work.run(&scene.client))?;
    }
    let team: Vec<_> = TEAM.into_iter().flat_map(|(work, people)| vec![work; people]).collect();
    let packets = team.iter().map(|work| work.packets()).sum();
    loses_nothing(&guard, "a team behind one address", packets, || {
        at_once(&team, |work| work.run(&scene.client))
    })
}

/// What makes the tests above fail: a limit that cuts an upload.
#[test]
fn a_limit_that_is_too_low_shows() -> Result<()> {
    let scene = Scene::new()?;
    let _server = serve(&scene.server)?;
    let mut policy: Table = toml::from_str(&enforced(PACKAGED)?)?;
    policy["limits"]["client"]["packets_per_second"] = 1000.into();
    policy["limits"]["client"]["packet_burst"] = 1000.into();
    let guard = Guard::start(&scene.server, &policy.to_string())?;
    Work::Upload.run(&scene.client)?;
    let lost = lost(&guard)?;
    ensure!(lost.iter().any(|(what, _)| what.contains(Reason::PacketRate.name())), "{lost:?}");
    Ok(())
}

/// The policy on the interface of a test network, where it drops what it would drop.
fn enforced(policy: &str) -> Result<String> {
    let mut policy: Table = toml::from_str(policy)?;
    policy["attach"]["interfaces"] = vec!["eth0"].into();
    for service in policy["service"].as_array_mut().context("no services")? {
        let service = service.as_table_mut().context("a service that is no table")?;
        service.insert("mode".into(), "enforce".into());
    }
    Ok(policy.to_string())
}

/// Does some work, and fails if guard has dropped a packet of it, or seen fewer packets than it takes.
fn loses_nothing(
    guard: &Guard<'_>,
    who: &str,
    packets: u64,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let allowed = || Ok::<_, anyhow::Error>(guard.counter("vllm", Reason::Allowed)?.packets);
    let (before, start) = (allowed()?, Instant::now());
    let done = work();
    let (seen, time) = (allowed()? - before, start.elapsed());
    let lost = lost(guard)?;
    println!("{who}: {seen} packets in {time:.1?}");
    ensure!(lost.is_empty(), "{who} lost packets: {lost:?}, and was done: {done:?}");
    done.with_context(|| who.to_owned())?;
    ensure!(seen >= packets, "{who}: {seen} packets allowed, {packets} expected at least");
    Ok(())
}

/// Whatever guard has dropped or would have.
fn lost(guard: &Guard<'_>) -> Result<Vec<(String, u64)>> {
    let counts =
        guard.counts()?.into_iter().filter(|((_, verdict, _), packets)| verdict != "pass" && *packets > 0);
    Ok(counts
        .map(|((service, verdict, reason), packets)| (format!("{service} {verdict} {reason}"), packets))
        .collect())
}

fn serve(host: &Host) -> Result<Running> {
    let mut command = host.command(env!("CARGO_BIN_EXE_guard-streaming-server"));
    let server = host.start(command.args(["--port", &PORT.to_string()]))?;
    let url = format!("http://127.0.0.1:{PORT}/health");
    let up = || host.output("curl", &["-sf", "-m", "1", &url]).is_ok_and(|(ok, _)| ok);
    ensure!(wait::within(PATIENCE, up), "the test server does not listen");
    Ok(server)
}

/// Does the work of several people at the same time.
fn at_once<T: Sync>(people: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
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
fn post(client: &Host, request: &str) -> Result<String> {
    let url = format!("http://{}:{PORT}/v1/completions", SERVER[0]);
    // Without Expect, curl does not ask whether it may upload.
    let headers = ["-H", "content-type: application/json", "-H", "expect:"];
    let (ok, answer) =
        client.output("curl", &[&["-sSfN", "-m", ANSWER], &headers[..], &["-d", request, &url]].concat())?;
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
