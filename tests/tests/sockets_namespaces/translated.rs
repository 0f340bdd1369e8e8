//! Which port a client asked for, where the host translates.

use std::fs;
use std::net::Shutdown;

use anyhow::{Context, Result, ensure};
use guard_tests::wait;
use guard_userspace::sockets::{Connection, Counted, KnownBy, State};

use super::network::*;

#[test]
fn a_published_port_is_the_one_that_the_client_asked_for() -> Result<()> {
    let scene = Scene::new(6)?;
    scene.publish()?;
    let mut sockets = sockets_of(&scene.host)?;
    let (nine, eight) = (listen(&scene.container, 9000)?, listen(&scene.container, 8000)?);
    let (redirected, own) = (listen(&scene.host, 9005)?, listen(&scene.host, 8002)?);
    let (mut wanted, mut spared) = (Vec::new(), Vec::new());
    for family in FAMILIES {
        for (asked, listener) in [(8000, &nine), (8003, &nine), (8005, &redirected), (8002, &own)] {
            let pair = Pair::open(&scene.client, scene.host_at(family, asked), listener)?;
            wanted.push((asked, listener.local_addr()?.port(), pair));
        }
        // Their sockets have ports that are guarded, or that a guarded one leads to; they were asked for under others.
        for (asked, listener) in [(8001, &nine), (7000, &eight), (7005, &own)] {
            spared.push(Pair::open(&scene.client, scene.host_at(family, asked), listener)?);
        }
        spared.push(Pair::open(&scene.client, scene.container_at(family, 9000), &nine)?);
        spared.push(Pair::open(&scene.other, scene.host_at(family, 8000), &nine)?);
        // Straight to the container: nobody translated it.
        wanted.push((8000, 8000, Pair::open(&scene.client, scene.container_at(family, 8000), &eight)?));
    }
    let ports = [8000, 8002, 8003, 8005];
    let found = scene.list(&mut sockets, &ports)?;
    ensure!(found.len() == wanted.len() + 2, "{found:#?}");
    for (asked, port, pair) in &wanted {
        let client = pair.address()?;
        let found = found.iter().find(|found| found.client == client);
        let found = found.with_context(|| format!("{asked} to {port} is missing: {found:#?}"))?;
        ensure!((found.asked.port(), found.local.port()) == (*asked, *port), "{found:?}");
    }
    let killed = sockets.kill(&scene.prefixes(), Some(&set(&ports)), &everyone())?;
    ensure!(killed.sockets == wanted.len() && killed.failed.is_empty(), "{killed:?}");
    ensure!(wanted.iter_mut().all(|(_, _, pair)| pair.is_reset()));
    ensure!(spared.iter_mut().all(Pair::goes_on));
    Ok(())
}

#[test]
fn containers_that_are_not_reached_through_this_host_are_left_alone() -> Result<()> {
    let scene = Scene::new(12)?;
    let mut sockets = sockets_of(&scene.host)?;
    let (here, there) = (listen(&scene.host, 8000)?, listen(&scene.container, 8000)?);
    let mut own = Pair::open(&scene.client, scene.host_at(0, 8000), &here)?;
    let mut routed = Pair::open(&scene.client, scene.container_at(0, 8000), &there)?;
    let listing = sockets.list(&set(&[8000]), &Counted::nothing(|_| false))?;
    let is_listed = |pair: &Pair| -> Result<bool> {
        let address = pair.address()?;
        Ok(listing.connections.iter().any(|found| found.client == address))
    };
    ensure!(is_listed(&own)? && !is_listed(&routed)?, "{listing:?}");
    let killed = sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &Counted::nothing(|_| false))?;
    ensure!(killed.sockets == 1 && own.is_reset() && routed.goes_on(), "{killed:?}");
    let address = routed.address()?;
    let all = sockets.list(&set(&[8000]), &everyone())?;
    let of_container =
        all.connections.iter().find(|found| found.client == address).context("it is not listed")?;
    let came_in = of_container.cookie;
    let killed = sockets.kill(
        &scene.prefixes(),
        Some(&set(&[8000])),
        &Counted::nothing(|cookie| cookie == came_in),
    )?;
    ensure!(killed.sockets == 1 && routed.is_reset(), "{killed:?}");
    Ok(())
}

#[test]
fn what_conntrack_forgets_is_remembered() -> Result<()> {
    let scene = Scene::new(7)?;
    scene.publish()?;
    let mut sockets = sockets_of(&scene.host)?;
    let nine = listen(&scene.container, 9000)?;
    let pair = Pair::open(&scene.client, scene.host_at(0, 8000), &nine)?;
    let before = scene.list(&mut sockets, &[8000])?;
    ensure!(before.len() == 1 && before[0].asked.port() == 8000, "{before:?}");
    scene.host.enter(|| {
        fs::write("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait", "1").context("no conntrack")
    })?;
    pair.client.shutdown(Shutdown::Write)?;
    let forgotten = wait::within(PATIENCE, || {
        let mut new = sockets_of(&scene.host);
        new.as_mut().is_ok_and(|new| scene.list(new, &[8000]).is_ok_and(|found| found.is_empty()))
    });
    ensure!(forgotten, "conntrack keeps it");
    let after = scene.list(&mut sockets, &[8000])?;
    let known_by = KnownBy::EarlierLook;
    let expected = Connection { state: State::ClosedByPeer, known_by, ..before[0].clone() };
    ensure!(after == [expected], "{after:?}");
    let killed = sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &everyone())?;
    ensure!(killed.sockets == 1, "{killed:?}");
    ensure!(scene.list(&mut sockets, &[8000])?.is_empty());
    Ok(())
}
