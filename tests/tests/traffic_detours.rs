//! Policies that name a port that clients do not come through: guard says so as soon as it knows, and not before.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::net::{CONTAINER, Host};
use guard_tests::scene::{ALLOW, SERVER, Scene};
use guard_tests::wait;
use serde_json::Value;

/// The sockets are looked at every ten seconds.
const PATIENCE: Duration = Duration::from_secs(90);
const CONNECT: Duration = Duration::from_secs(2);

#[test]
fn a_published_port_that_leads_to_a_guarded_one_is_told() -> Result<()> {
    let scene = Scene::new()?;
    let container = scene.server.publish(9000, 8000)?;
    let _server = listen(&container, "0.0.0.0", 8000)?;
    let guard = Guard::start(&scene.server, &policy(8000))?;
    ensure!(warnings(&guard)?.is_empty(), "told before it can be known: {:?}", warnings(&guard)?);
    let _stranger = connect(&scene.stranger, 9000).context("the stranger comes around the policy")?;
    let told = format!("clients reach {CONTAINER}:8000 through port 9000 of this host");
    awaits(&guard, |warnings| warnings.len() == 1 && warnings[0].starts_with(&told))?;
    let (_, text, _) = guard.output(&["status"])?;
    ensure!(text.contains(&format!("WARNING    {told}")), "{text}");
    ensure!(guard.log().contains(&told), "{}", guard.log());

    fs::write(guard.policy_file(), policy(9000))?;
    let (code, _, error) = guard.output(&["reload"])?;
    ensure!(code == Some(0), "{error}");
    ensure!(connect(&scene.stranger, 9000).is_err(), "the stranger still gets through");
    ensure!(connect(&scene.client, 9000).is_ok(), "the client is kept out");
    awaits(&guard, <[String]>::is_empty)
}

#[test]
fn a_guarded_port_without_a_server_is_told() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy(8000))?;
    let begins =
        |with: &'static str| move |warnings: &[String]| matches!(warnings, [one] if one.starts_with(with));
    awaits(&guard, begins("no server on this host listens on port 8000 of \"model\""))?;
    let loopback = listen(&scene.server, "127.0.0.1", 8000)?;
    awaits(&guard, begins("the server on port 8000 of \"model\" listens on loopback only"))?;
    drop(loopback);
    let _server = listen(&scene.server, SERVER[0], 8000)?;
    awaits(&guard, <[String]>::is_empty)
}

/// A translation may lead to a server of which this host knows nothing.
#[test]
fn where_addresses_are_translated_a_missing_server_is_no_reason_to_warn() -> Result<()> {
    let scene = Scene::new()?;
    let container = scene.server.publish(8000, 8000)?;
    scene.server.enter(|| Ok(fs::write("/proc/sys/net/ipv4/ip_forward", "0")?))?;
    let guard = Guard::start(&scene.server, &policy(8000))?;
    ensure!(warnings(&guard)?.is_empty(), "{:?}", warnings(&guard)?);
    drop(container);
    scene.server.nft("delete table ip nat")?;
    awaits(&guard, |warnings| warnings.len() == 1)
}

fn policy(port: u16) -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"model\"\nports = [{port}]\nallow = {ALLOW}\n"
    )
}

fn listen(host: &Host, address: &str, port: u16) -> Result<TcpListener> {
    let address: IpAddr = address.parse()?;
    host.enter(|| Ok(TcpListener::bind((address, port))?))
}

fn connect(host: &Host, port: u16) -> Result<TcpStream> {
    let server: SocketAddr = (SERVER[0].parse::<IpAddr>()?, port).into();
    host.enter(|| Ok(TcpStream::connect_timeout(&server, CONNECT)?))
}

fn awaits(guard: &Guard<'_>, expected: impl Fn(&[String]) -> bool) -> Result<()> {
    let mut last = Vec::new();
    let came = wait::within(PATIENCE, || {
        last = warnings(guard).unwrap_or_else(|error| vec![error.to_string()]);
        expected(&last)
    });
    ensure!(came, "the warnings stay {last:?}: {}", guard.log());
    Ok(())
}

fn warnings(guard: &Guard<'_>) -> Result<Vec<String>> {
    let (code, stdout, stderr) = guard.output(&["status", "--json"])?;
    ensure!(code == Some(0), "guard status: {stderr}");
    let status: Value = serde_json::from_str(&stdout)?;
    let warnings = status["warnings"].as_array().context("the status has no warnings")?;
    Ok(warnings.iter().map(|warning| warning.as_str().unwrap_or_default().to_owned()).collect())
}
