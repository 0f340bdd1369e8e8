//! A long list that ends many connections: what it takes grows with the one and with the other, not with both.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::cpu_time;
use guard_tests::guard::Guard;
use guard_tests::net::feed;
use guard_tests::scene::{ALLOW, SERVER, Scene};
use guard_tests::streams::{StreamingServer, connect_from};

const STREAMING: &str = env!("CARGO_BIN_EXE_guard-streaming-server");
const FEW: usize = 30_000;
const CONNECTIONS: usize = 400;
/// Twice as much of both takes twice the time, and four times if each is held against each.
const MOST: u32 = 3;

/// A list of other addresses, with that of the client in its midst.
fn list(number: u8, length: usize, client: &str) -> String {
    let other =
        |entry: usize| format!("{}.{}.{}.{}\n", 60 + number, entry >> 16, entry >> 8 & 255, entry & 255);
    let entries =
        (0..length).map(|entry| if entry == length / 2 { format!("{client}\n") } else { other(entry) });
    entries.collect()
}

/// What the agent spends on blocking a list and ending the connections of one client in it.
fn kill(guard: &Guard<'_>, scene: &Scene, number: u8, times: usize, client: &str) -> Result<Duration> {
    let open = connect_from(&scene.client, client, SERVER[0], times * CONNECTIONS)?;
    let before = cpu_time::of_process(guard.pid()?)?;
    let mut command = guard.command(&["block", "-", "--for", "1h", "--kill", "--scope", "services"])?;
    feed(command.stdin(Stdio::piped()), &list(number, times * FEW, client))?;
    let spent = cpu_time::of_process(guard.pid()?)?.saturating_sub(before);
    drop(open);
    Ok(spent)
}

#[test]
fn twice_the_list_and_twice_the_connections_take_no_four_times_the_work() -> Result<()> {
    let scene = Scene::new()?;
    let clients = ["10.77.1.3", "10.77.1.4", "10.77.1.5"];
    for client in clients {
        scene.client.ip(&format!("address add {client}/16 dev eth0"))?;
    }
    let _server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    let guard = Guard::start(
        &scene.server,
        &format!(
            "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n"
        ),
    )?;
    // What is done for the first time only.
    kill(&guard, &scene, 0, 1, clients[0])?;
    let once = kill(&guard, &scene, 1, 1, clients[1])?;
    let twice = kill(&guard, &scene, 2, 2, clients[2])?;
    println!("{once:?}, and {twice:?} for twice as much");
    ensure!(twice < MOST * once, "{once:?}, and {twice:?} for twice as much");
    let killed = guard.metrics()?;
    let killed = killed.lines().find_map(|line| line.strip_prefix("guard_sockets_killed_total "));
    let killed: usize = killed.context("no figure")?.parse()?;
    ensure!(killed == 4 * CONNECTIONS, "{killed} connections were ended");
    Ok(())
}
