//! Guard at work: a server on a small network, those who use it, and those who should not.

mod act;
mod interrupt;
mod report;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::frame::Frame;
use crate::guard::Guard;
use crate::listener::UdpCounter;
use crate::net::{Host, Running};
use crate::raw;
use crate::scene::{ALLOW, CLIENT, SERVER, STRANGER, Scene, to_server};
use crate::wait;
use report::Report;

/// The port of the model, and one beside it that nobody guards.
const PORT: u16 = 8000;
const OTHER_PORT: u16 = 9000;
const FLOODER: [&str; 2] = ["10.77.1.9", "fd00:77::1:9"];
const FLOODER_NUMBER: u8 = 9;
/// The limit of a source, and a flood of ten times that.
const RATE: u64 = 2000;
const BURST: u64 = 4000;
const FLOOD: Duration = Duration::from_secs(5);
/// A real model may take minutes to load.
const PATIENCE: Duration = Duration::from_secs(600);

/// How the demo is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// A command that serves OpenAI's API on port 8000, in place of the test server.
    pub server_command: Option<String>,
    /// The test server.
    pub test_server: std::path::PathBuf,
}

/// Plays the demo. Returns whether all that happened is what the policy says.
///
/// # Errors
/// When the network, the server or guard cannot be started, or when it is interrupted. Everything is removed in any case.
pub fn play(options: &Options) -> Result<bool> {
    interrupt::listen()?;
    say("building a network: a server, an allowed client, a stranger, an allowed client that floods");
    let scene = Scene::new()?;
    let addresses = [&format!("{}/16", FLOODER[0])[..], &format!("{}/64", FLOODER[1])];
    let flooder = scene.network.host("flooder", FLOODER_NUMBER, &addresses)?;
    let _servers = serve(&scene.server, options)?;
    interrupt::check()?;

    let policy = policy();
    println!("\nthe policy\n\n{}", indent(&policy));
    say("guard run --config guard.toml, on the server");
    let guard = Guard::start(&scene.server, &policy)?;
    println!("{}", indent(&guard.log()));
    let mut report = Report::new(&guard)?;

    say("the allowed client asks the model, over IPv4 and IPv6");
    for server in SERVER {
        act::ask_model(&scene.client, server, &mut report)?;
    }
    say("the stranger tries the same, a ping, and the port beside it");
    for server in SERVER {
        act::be_strange(&scene.stranger, server, &mut report)?;
    }
    say(&format!(
        "a flood from an allowed client, ten times its limit for {} s, while the other goes on",
        FLOOD.as_secs()
    ));
    flood(&scene, &flooder, &mut report)?;
    interrupt::check()?;
    report.finish()
}

fn policy() -> String {
    let mut policy = String::from("[attach]\ninterfaces = [\"eth0\"]\n\n");
    // Writing to a string cannot fail.
    let _ =
        writeln!(policy, "[[service]]\nname = \"model\"\nports = [{PORT}]\nprotocols = [\"tcp\", \"udp\"]");
    let _ = writeln!(policy, "allow = {ALLOW}\nlimits = \"client\"\n");
    let _ = writeln!(policy, "[limits.client]\npackets_per_second = {RATE}\npacket_burst = {BURST}");
    policy
}

/// Starts the model's server and the one beside it.
fn serve(server: &Host, options: &Options) -> Result<[Running; 2]> {
    let test_server = options.test_server.display().to_string();
    let model = match &options.server_command {
        Some(command) => {
            say(&format!("starting the server: {command}"));
            server.start(server.command("sh").args(["-c", &format!("exec {command}")]))?
        }
        None => {
            say(
                "starting a test server with OpenAI's streaming API (it knows no model; --server-command takes a real one)",
            );
            server.start(server.command(&test_server).args(["--port", &PORT.to_string()]))?
        }
    };
    let other = server.start(server.command(&test_server).args(["--port", &OTHER_PORT.to_string()]))?;
    let mut servers = [model, other];
    for (port, path) in [(PORT, "/v1/models"), (OTHER_PORT, "/health")] {
        let mut ended = false;
        let up = wait::within(PATIENCE, || {
            ended = servers.iter_mut().any(|server| server.has_ended().is_ok_and(|ended| ended.is_some()));
            ended || interrupt::check().is_err() || act::get(server, "127.0.0.1", port, path)
        });
        interrupt::check()?;
        ensure!(up && !ended, "the server on port {port} has not started");
    }
    Ok(servers)
}

/// The flood, and beside it requests of a client that behaves.
fn flood(scene: &Scene, flooder: &Host, report: &mut Report<'_>) -> Result<()> {
    let listener = UdpCounter::listen(&scene.server, PORT)?;
    let frames: Vec<_> = (0..32)
        .map(|flow| {
            let transport = crate::frame::Transport::Udp { source_port: 20_000 + flow, port: PORT };
            Frame { source_mac: flooder.mac(), ..to_server(Frame::new(FLOODER[0], transport)) }.build()
        })
        .collect();
    let sent = std::thread::scope(|scope| {
        let flood = scope.spawn(|| raw::flood(flooder, &frames, 10 * RATE, FLOOD));
        act::ask_model(&scene.client, SERVER[0], report)?;
        flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))?
    })
    .context("the flood")?;
    let arrived = listener.settled();
    let due = RATE as f64 * sent.time.as_secs_f64() + BURST as f64;
    report.flood(FLOODER[0], sent.frames, arrived, due);
    Ok(())
}

fn say(what: &str) {
    println!("==> {what}");
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// Who is who, for the table.
fn role(address: &str) -> &'static str {
    match address {
        _ if CLIENT.contains(&address) => "client",
        _ if STRANGER.contains(&address) => "stranger",
        _ => "flooder",
    }
}
