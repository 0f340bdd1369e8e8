//! A service with `destinations`: connections to the same port of other addresses are not shown, not counted, and not ended.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::net::Host;
use guard_tests::scene::{ALLOW, CLIENT, SERVER, Scene};
use guard_tests::streams::connect_from;
use guard_tests::wait;
use serde_json::Value;

/// Of the same host, and none of the service's destinations.
const ELSEWHERE: &str = "10.77.0.99";
const PATIENCE: Duration = Duration::from_secs(60);

fn policy(destinations: &str) -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\nlimits = \"few\"\n\
         {destinations}[limits.few]\nmax_connections = 5\n"
    )
}

fn named() -> String {
    policy(&format!("destinations = [\"{}\"]\n", SERVER[0]))
}

/// Both ends of connections to one address.
struct Open(Vec<(TcpStream, TcpStream)>);

impl Open {
    fn to(scene: &Scene, listener: &TcpListener, server: &str, count: usize) -> Result<Self> {
        let clients = connect_from(&scene.client, CLIENT[0], server, count).context(server.to_owned())?;
        let pair = |client| Ok((client, listener.accept()?.0));
        Ok(Self(clients.into_iter().map(pair).collect::<Result<_>>()?))
    }

    /// Whether a byte gets from the server to the client, on each.
    fn work(&mut self) -> Result<bool> {
        let mut all = true;
        for (client, server) in &mut self.0 {
            client.set_read_timeout(Some(PATIENCE))?;
            all &= server.write_all(b"x").is_ok() && client.read_exact(&mut [0]).is_ok();
        }
        Ok(all)
    }
}

fn established(guard: &Guard<'_>) -> Result<u64> {
    let (code, stdout, stderr) = guard.output(&["connections", "--json"])?;
    ensure!(code == Some(0), "{stderr}");
    let list: Vec<Value> = serde_json::from_str(&stdout)?;
    Ok(list.iter().filter_map(|of| of["established"].as_u64()).sum())
}

fn listen(host: &Host, port: u16) -> Result<TcpListener> {
    host.enter(|| TcpListener::bind(("0.0.0.0", port)).context("cannot listen"))
}

/// Blocks the client and ends its connections: those to the service, and no others.
fn ends(guard: &Guard<'_>, mut to_service: Open, others: &mut Open, case: &str) -> Result<()> {
    let (code, stdout, stderr) = guard.output(&["block", CLIENT[0], "--kill", "--scope", "services"])?;
    let closed = format!("{} connections were closed", to_service.0.len());
    ensure!(code == Some(0) && stdout.contains(&closed), "{case}: {stdout}{stderr}");
    ensure!(!to_service.work()?, "{case}: connections to the service go on");
    ensure!(others.work()?, "{case}: connections to another address were closed");
    guard.output(&["unblock", CLIENT[0]])?;
    Ok(())
}

#[test]
fn connections_to_other_addresses_of_the_host_are_none_of_the_service() -> Result<()> {
    let scene = Scene::new()?;
    scene.server.ip(&format!("address add {ELSEWHERE}/16 dev eth0"))?;
    let listener = listen(&scene.server, 8000)?;
    let mut others = Open::to(&scene, &listener, ELSEWHERE, 4)?;
    let before = Open::to(&scene, &listener, SERVER[0], 2)?;
    let mut guard = Guard::start(&scene.server, &named())?;
    ensure!(established(&guard)? == 2, "{} were open before guard came", established(&guard)?);
    let mut to_service = Open::to(&scene, &listener, SERVER[0], 3).context("three places are left")?;
    to_service.0.extend(before.0);
    ensure!(established(&guard)? == 5, "{} are open", established(&guard)?);
    ends(&guard, to_service, &mut others, "an agent")?;

    let to_service = Open::to(&scene, &listener, SERVER[0], 3)?;
    guard.kill()?;
    ends(&guard, to_service, &mut others, "no agent")
}

#[test]
fn connections_to_a_published_port_of_another_address_are_none_of_the_service() -> Result<()> {
    let scene = Scene::new()?;
    scene.server.ip(&format!("address add {ELSEWHERE}/16 dev eth0"))?;
    let container = scene.server.publish(8000, 8000)?;
    let listener = listen(&container, 8000)?;
    let mut others = Open::to(&scene, &listener, ELSEWHERE, 4)?;
    let guard = Guard::start(&scene.server, &named())?;
    let to_service = Open::to(&scene, &listener, SERVER[0], 3)?;
    others.0.extend(Open::to(&scene, &listener, ELSEWHERE, 4)?.0);
    ensure!(established(&guard)? == 3, "{} are open", established(&guard)?);
    ends(&guard, to_service, &mut others, "an agent")
}

#[test]
fn a_new_policy_lets_go_of_connections_to_other_addresses() -> Result<()> {
    let scene = Scene::new()?;
    scene.server.ip(&format!("address add {ELSEWHERE}/16 dev eth0"))?;
    let listener = listen(&scene.server, 8000)?;
    let guard = Guard::start(&scene.server, &policy(""))?;
    let mut others = Open::to(&scene, &listener, ELSEWHERE, 3)?;
    let to_service = Open::to(&scene, &listener, SERVER[0], 2)?;
    ensure!(established(&guard)? == 5, "{} are open", established(&guard)?);
    fs::write(guard.policy_file(), named())?;
    let (code, stdout, stderr) = guard.output(&["reload"])?;
    ensure!(code == Some(0), "{stdout}{stderr}");
    ensure!(wait::within(PATIENCE, || established(&guard).is_ok_and(|open| open == 2)), "{}", guard.log());
    ends(&guard, to_service, &mut others, "an agent")
}
