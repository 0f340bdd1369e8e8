//! That connections end, and which do not.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use guard_tests::wait;
use guard_userspace::sockets::State;
use ipnet::IpNet;

use super::network::*;

#[test]
fn a_half_open_connection_ends_too() -> Result<()> {
    let scene = Scene::new(3)?;
    let mut sockets = sockets_of(&scene.host)?;
    let _listener = listen(&scene.host, 8000)?;
    let (_, client) = half_open(&scene)?;
    let mut found = Vec::new();
    let seen = wait::within(PATIENCE, || {
        found = scene.list(&mut sockets, &[8000]).unwrap_or_default();
        !found.is_empty()
    });
    ensure!(seen && found.iter().all(|found| found.state == State::HalfOpen), "{found:?}");
    // It would try again.
    drop(client);
    let killed = sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &everyone())?;
    ensure!(killed.sockets == 1 && killed.failed.is_empty(), "{killed:?}");
    ensure!(scene.list(&mut sockets, &[8000])?.is_empty());
    Ok(())
}

#[test]
fn a_kill_ends_the_streams_of_one_client_on_these_ports_in_every_namespace() -> Result<()> {
    let scene = Scene::new(4)?;
    let mut sockets = sockets_of(&scene.host)?;
    let (here, there) = (listen(&scene.host, 8000)?, listen(&scene.container, 8000)?);
    let admin = listen(&scene.host, 22)?;
    let targets = FAMILIES
        .map(|family| [(&here, scene.host_at(family, 8000)), (&there, scene.container_at(family, 8000))]);
    let open = |from| -> Result<Vec<Pair>> {
        targets.as_flattened().iter().map(|(listener, to)| Pair::open(from, *to, listener)).collect()
    };
    let (mut theirs, mut others) = (open(&scene.client)?, open(&scene.other)?);
    others.push(Pair::open(&scene.client, scene.host_at(0, 22), &admin)?);
    let killed = sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &everyone())?;
    ensure!(killed.sockets == 4 && killed.failed.is_empty(), "{killed:?}");
    ensure!(theirs.iter_mut().all(Pair::is_reset), "the client's");
    ensure!(others.iter_mut().all(Pair::goes_on), "of another client, and to another port");
    let again = sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &everyone())?;
    ensure!(again.sockets == 0 && again.failed.is_empty(), "nothing is left: {again:?}");
    let all = sockets.kill(
        &[IpNet::new(outside(4, OTHER)[0], 31)?.trunc(), IpNet::new(outside(4, CLIENT)[1], 127)?],
        None,
        &everyone(),
    )?;
    ensure!(all.sockets == 5 && all.failed.is_empty(), "whole prefixes, all ports: {all:?}");
    ensure!(others.iter_mut().all(Pair::is_reset));
    Ok(())
}

#[test]
fn connections_that_the_host_opened_end_only_with_all_ports() -> Result<()> {
    let scene = Scene::new(5)?;
    let mut sockets = sockets_of(&scene.host)?;
    let listener = listen(&scene.client, 8000)?;
    let mut pair = Pair::open(&scene.host, SocketAddr::new(outside(5, CLIENT)[0], 8000), &listener)?;
    // A guarded port among those that connections going out get by chance.
    let ports = set(&[8000, pair.address()?.port()]);
    let killed = sockets.kill(&scene.prefixes(), Some(&ports), &everyone())?;
    ensure!(killed.sockets == 0 && pair.goes_on(), "{killed:?}");
    let killed = sockets.kill(&scene.prefixes(), None, &everyone())?;
    ensure!(killed.sockets == 1 && !pair.goes_on(), "{killed:?}");
    Ok(())
}
