//! Clients that behave: under the limits that the README and the packaged policy suggest, none of them loses a packet, and none is
//! blocked.

mod crowd;
mod protocols;
mod standstill;
mod work;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guard_common::Reason;
use guard_tests::guard::Guard;
use guard_tests::net::{Host, Running};
use guard_tests::scene::Scene;
use guard_tests::wait;
use serde_json::Value;
use toml::Table;

use work::{Work, at_once};

const PACKAGED: &str = include_str!("../../../packaging/guard.toml");
const README: &str = include_str!("../../../README.md");

const PORT: u16 = 8000;
const PATIENCE: Duration = Duration::from_secs(60);

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
    lets_clients_work(readme()?)
}

/// Those that people begin with.
fn policies() -> Result<[String; 2]> {
    Ok([PACKAGED.to_owned(), readme()?.to_owned()])
}

fn readme() -> Result<&'static str> {
    let block = README.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    block.context("the README shows no policy")
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

/// Does some work, and fails if guard has dropped a packet of it, has blocked a source, or has seen fewer packets than it takes.
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
    let (code, blocks, error) = guard.output(&["blocks", "--json"])?;
    ensure!(code == Some(0), "guard blocks: {error}");
    let blocks: Value = serde_json::from_str(&blocks)?;
    ensure!(blocks.as_array().is_some_and(Vec::is_empty), "{who} is blocked: {blocks}");
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
