//! A prefix that counts as one source: the address that the evidence names is blocked, and its neighbours are not.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use guard_tests::guard::Guard;
use guard_tests::scene::{CLIENT, SERVER, Scene};
use guard_tests::streams::{StreamingServer, connect_from};
use guard_tests::wait;
use serde_json::Value;

const STREAMING: &str = env!("CARGO_BIN_EXE_guard-streaming-server");
const PATIENCE: Duration = Duration::from_secs(30);
const THRESHOLD: usize = 30;

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = [\"fd00:77::/64\", \"fd00:88::/64\"]\n\
         [autoblock]\nconnections = {THRESHOLD}\n"
    )
}

fn blocked(guard: &Guard<'_>) -> Result<Vec<String>> {
    let (code, stdout, stderr) = guard.output(&["blocks", "--json"])?;
    ensure!(code == Some(0), "{stderr}");
    let blocks: Vec<Value> = serde_json::from_str(&stdout)?;
    Ok(blocks.iter().filter_map(|block| block["net"].as_str().map(str::to_owned)).collect())
}

/// The addresses of the one source that is connected, with how many connections each has.
fn addresses(guard: &Guard<'_>) -> Result<Vec<(String, u64)>> {
    let (code, stdout, stderr) = guard.output(&["connections", "--json"])?;
    ensure!(code == Some(0), "{stderr}");
    let list: Vec<Value> = serde_json::from_str(&stdout)?;
    let [source] = list.as_slice() else { bail!("{stdout}") };
    ensure!(source["source"] == "fd00:77::/64" && source["more_addresses"] == 0, "{source}");
    let of = |of: &Value| Some((of["address"].as_str()?.to_owned(), of["established"].as_u64()?));
    source["addresses"]
        .as_array()
        .context("no addresses")?
        .iter()
        .map(|found| of(found).context("no count"))
        .collect()
}

#[test]
fn the_addresses_of_a_prefix_are_shown_with_what_each_has() -> Result<()> {
    let scene = Scene::new()?;
    let _server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    scene.client.ip("address add fd00:77::1:9/64 dev eth0 nodad")?;
    let guard = Guard::start(&scene.server, &policy())?;
    let _neighbour = connect_from(&scene.client, "fd00:77::1:9", SERVER[1], 2)?;
    let abuser = connect_from(&scene.client, CLIENT[1], SERVER[1], 9)?;
    let shown = |expected: &[(&str, u64)]| -> Result<()> {
        let expected: Vec<_> =
            expected.iter().map(|(address, open)| ((*address).to_owned(), *open)).collect();
        let is_so = || addresses(&guard).is_ok_and(|found| found == expected);
        ensure!(wait::within(PATIENCE, is_so), "{:?} instead of {expected:?}", addresses(&guard));
        Ok(())
    };
    shown(&[(CLIENT[1], 9), ("fd00:77::1:9", 2)])?;
    let (_, text, _) = guard.output(&["connections"])?;
    let row = |name: &str| text.lines().find(|line| line.split_whitespace().next() == Some(name));
    let counts = [("fd00:77::/64", "11"), (CLIENT[1], "9"), ("fd00:77::1:9", "2")];
    for (name, open) in counts {
        let found = row(name).and_then(|row| row.split_whitespace().nth(2));
        ensure!(found == Some(open), "{name}: {text}");
    }
    drop(abuser);
    shown(&[("fd00:77::1:9", 2)])
}

/// Opens one connection after the other, until one is refused or there is one too many.
fn abuse(scene: &Scene, address: &str) -> Vec<TcpStream> {
    let open = |_| connect_from(&scene.client, address, SERVER[1], 1).ok()?.pop();
    (0..=THRESHOLD).map_while(open).collect()
}

#[test]
fn a_neighbour_in_the_prefix_of_the_host_is_blocked_by_its_address() -> Result<()> {
    let scene = Scene::new()?;
    let _server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    scene.client.ip("address add fd00:77::1:9/64 dev eth0 nodad")?;
    let guard = Guard::start(&scene.server, &policy())?;
    let neighbour = connect_from(&scene.client, "fd00:77::1:9", SERVER[1], 2)?;
    let _open = abuse(&scene, CLIENT[1]);
    let expected = || blocked(&guard).is_ok_and(|blocked| blocked == ["fd00:77::1:2/128"]);
    ensure!(wait::within(PATIENCE, expected), "{:?} {}", blocked(&guard)?, guard.log());
    // The neighbour keeps what it has, and gets more.
    connect_from(&scene.client, "fd00:77::1:9", SERVER[1], 1)?;
    for stream in &neighbour {
        ensure!(stream.take_error()?.is_none(), "a connection of the neighbour was closed");
    }
    Ok(())
}

#[test]
fn one_address_is_blocked_and_the_prefix_when_a_second_one_follows() -> Result<()> {
    let scene = Scene::new()?;
    let _server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    for last in 1..4 {
        scene.client.ip(&format!("address add fd00:88::{last}/64 dev eth0 nodad"))?;
    }
    scene.server.ip("route add fd00:88::/64 dev eth0")?;
    let guard = Guard::start(&scene.server, &policy())?;
    let _neighbour = connect_from(&scene.client, "fd00:88::3", SERVER[1], 1)?;
    let _first = abuse(&scene, "fd00:88::1");
    let expected = || blocked(&guard).is_ok_and(|blocked| blocked == ["fd00:88::1/128"]);
    ensure!(wait::within(PATIENCE, expected), "{:?} {}", blocked(&guard)?, guard.log());
    connect_from(&scene.client, "fd00:88::3", SERVER[1], 1)?;
    let _second = abuse(&scene, "fd00:88::2");
    let expected = || blocked(&guard).is_ok_and(|blocked| blocked.contains(&"fd00:88::/64".to_owned()));
    ensure!(wait::within(PATIENCE, expected), "{:?} {}", blocked(&guard)?, guard.log());
    Ok(())
}
