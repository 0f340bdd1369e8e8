//! Lawful clients lose no packet to the limits that the packaged policy and the README suggest.
//!
//! The clients are those whose traffic was measured for choosing these limits (`docs/policy.md`): streams, a benchmark without keep-alive,
//! an upload without offloads, and a team of them behind one address.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guard_tests::guard::{Counts, Guard};
use guard_tests::net::{Host, Running};
use guard_tests::scene::{ALLOW, SERVER, Scene};
use guard_tests::wait;

const PORT: u16 = 8000;
const PATIENCE: Duration = Duration::from_secs(30);
const PACKAGED: &str = include_str!("../../packaging/guard.toml");
const README: &str = include_str!("../../README.md");

#[test]
fn the_packaged_limits_cut_nobody() -> Result<()> {
    nobody_is_cut(PACKAGED)
}

#[test]
fn the_limits_of_the_readme_cut_nobody() -> Result<()> {
    let example = README.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    nobody_is_cut(example.context("the README shows a policy")?)
}

#[test]
fn limits_that_guard_warns_of_do_cut() -> Result<()> {
    let tight = PACKAGED.replace("packets_per_second = 20000", "packets_per_second = 1000");
    let cut = nobody_is_cut(&tight.replace("packet_burst = 40000", "packet_burst = 1000"));
    ensure!(cut.is_err_and(|error| error.to_string().contains("packet_rate")), "so the two above can fail");
    Ok(())
}

fn nobody_is_cut(policy: &str) -> Result<()> {
    let scene = Scene::new()?;
    let _server = serve(&scene.server)?;
    let guard = Guard::start(&scene.server, &here(policy))?;
    // One after the other, each with the whole burst: what a client may do does not depend on what another has used.
    for (name, what, packets) in CLIENTS {
        let before = passed(&guard.counts()?);
        let start = Instant::now();
        scene.client.enter(*what).with_context(|| format!("{name}: {}", guard.log()))?;
        let counts = guard.counts()?;
        let seen = passed(&counts) - before;
        println!("{name}: {seen} packets in {:.2?}", start.elapsed());
        ensure!(seen >= *packets, "{name}: only {seen} packets came, so this shows nothing");
        let dropped: Vec<_> =
            counts.iter().filter(|((_, verdict, _), packets)| verdict != "pass" && **packets > 0).collect();
        ensure!(dropped.is_empty(), "{name}: {dropped:?}");
    }
    Ok(())
}

/// A name, what the client does, and how many packets that is at least.
type Client = (&'static str, fn() -> Result<()>, u64);

const CLIENTS: &[Client] = &[
    ("a stream at 31 ms a token", || stream(100, Some(31)), 100),
    ("a stream at full speed", || stream(2000, None), 100),
    ("eight parallel streams", || together(8, |_| stream(500, Some(5))), 500),
    ("200 short requests without keep-alive", || (0..200).try_for_each(|_| request("")), 200 * 5),
    ("an upload of 4 MB", || request(&"x".repeat(4 << 20)), 2000),
    (
        "a team of twenty behind one address",
        || {
            together(20, |member| {
                together(4, |_| stream(60, Some(20)))?;
                (0..5).try_for_each(|_| request(""))?;
                if member % 10 == 0 { request(&"x".repeat(4 << 20)) } else { Ok(()) }
            })
        },
        5000,
    ),
];

/// The policy on this network: its interface, its clients.
fn here(policy: &str) -> String {
    let line = |line: &str| match line.split(" = ").next() {
        Some("interfaces") => "interfaces = [\"eth0\"]".to_owned(),
        Some("allow") => format!("allow = {ALLOW}"),
        Some("deny") => "deny = []".to_owned(),
        _ => line.to_owned(),
    };
    policy.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn passed(counts: &Counts) -> u64 {
    let allowed = counts.iter().filter(|((_, _, reason), _)| reason == "allowed");
    allowed.map(|(_, packets)| packets).sum()
}

fn serve(host: &Host) -> Result<Running> {
    let mut command = host.command(env!("CARGO_BIN_EXE_guard-streaming-server"));
    let server = host.start(command.args(["--port", &PORT.to_string()]))?;
    let url = format!("http://127.0.0.1:{PORT}/health");
    let up = || host.output("curl", &["-sf", "-m", "2", &url]).is_ok_and(|(ok, _)| ok);
    ensure!(wait::within(PATIENCE, up), "the test server does not listen");
    Ok(server)
}

/// A threads' worth of clients at once. Threads are on the host of the one that starts them.
fn together(clients: usize, what: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let what = &what;
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|number| scope.spawn(move || what(number))).collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().unwrap_or_else(|_| anyhow::bail!("a client panicked")))
    })
}

/// A completion that is streamed to its end.
fn stream(tokens: u64, delay: Option<u64>) -> Result<()> {
    let delay = delay.unwrap_or(0);
    let body = format!("{{\"prompt\":\"\",\"stream\":true,\"max_tokens\":{tokens},\"delay\":{delay}}}");
    let answer = ask(&body)?;
    let events = answer.matches("data: {").count() as u64;
    ensure!(events == tokens && answer.contains("data: [DONE]"), "{events} of {tokens} tokens");
    Ok(())
}

/// A request on a connection of its own, with a prompt of any length, for one token.
fn request(prompt: &str) -> Result<()> {
    let answer = ask(&format!("{{\"prompt\":\"{prompt}\",\"max_tokens\":1,\"delay\":0}}"))?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}

fn ask(body: &str) -> Result<String> {
    let server = SocketAddr::new(SERVER[0].parse().context("an address")?, PORT);
    let mut connection = TcpStream::connect_timeout(&server, PATIENCE).context("cannot connect")?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(body.as_bytes()))?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).context("the answer broke off")?;
    Ok(answer)
}
