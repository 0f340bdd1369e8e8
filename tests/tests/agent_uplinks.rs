//! `default-route` is every interface that a default route leads over, and what was guarded for one stays guarded.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::net::Host;
use guard_tests::scene::{ALLOW, SERVER, Scene};
use guard_tests::wait;
use guard_userspace::agent::Status;
use guard_userspace::control::path;

/// Longer than any look takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"default-route\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n"
    )
}

fn is_attached(host: &Host, interface: &str) -> bool {
    host.output("ip", &["-details", "link", "show", "dev", interface])
        .is_ok_and(|(ok, text)| ok && text.contains("prog/xdp"))
}

fn status(guard: &Guard<'_>) -> Result<Status> {
    Ok(guard.client().get(path::STATUS)?)
}

/// Interfaces beside `eth0`, each with an address.
fn uplinks(host: &Host, names: &[&str]) -> Result<()> {
    for (number, name) in names.iter().enumerate() {
        host.ip(&format!("link add {name} type veth peer name {name}-peer"))?;
        host.ip(&format!("link set {name} up"))?;
        host.ip(&format!("link set {name}-peer up"))?;
        host.ip(&format!("address add 192.0.2.{}/28 dev {name}", 1 + 16 * number))?;
        host.ip(&format!("address add 2001:db8:{number}::1/64 dev {name} nodad"))?;
    }
    Ok(())
}

fn attached_at_last(host: &Host, guard: &Guard<'_>, names: &[&str]) -> Result<()> {
    for name in names {
        ensure!(wait::within(PATIENCE, || is_attached(host, name)), "{name}: {}", guard.log());
    }
    Ok(())
}

#[test]
fn without_a_default_route_guard_waits_and_says_so_and_never_takes_loopback() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    let guard = Guard::start(host, &policy())?;
    ensure!(!is_attached(host, "lo") && !is_attached(host, "eth0"), "{}", guard.log());
    let status_now = status(&guard)?;
    ensure!(
        status_now.problems.iter().any(|problem| problem.contains("no default route")),
        "{:?}",
        status_now.problems
    );
    let open = status_now.unguarded.iter().find(|open| open.name == "eth0").context("eth0 is told")?;
    ensure!(!open.why.is_empty() && status_now.unguarded.iter().all(|open| open.name != "lo"));
    let (_, text, _) = guard.output(&["status"])?;
    ensure!(text.contains("NOT GUARDED") && text.contains("PROBLEM"), "{text}");
    let ready = || host.output("curl", &["-sf", "http://127.0.0.1:9455/readyz"]).is_ok_and(|(ok, _)| ok);
    ensure!(!ready(), "open is not ready");
    // The kernel's route for local delivery of everything, as a transparent proxy sets it, is no way out either.
    host.ip("route add local default dev lo table 100")?;
    host.ip("route add default dev eth0")?;
    attached_at_last(host, &guard, &["eth0"])?;
    ensure!(!is_attached(host, "lo"), "{}", guard.log());
    ensure!(wait::within(PATIENCE, ready), "{}", guard.log());
    ensure!(status(&guard)?.unguarded.is_empty());
    Ok(())
}

#[test]
fn every_uplink_of_every_default_route_is_guarded() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    uplinks(host, &["up0", "up1", "up2", "up3", "up4", "up5", "up6", "up7", "other"])?;
    host.ip("route add default nexthop via 192.0.2.2 dev up0 nexthop via 192.0.2.18 dev up1")?;
    host.ip("-6 route add default nexthop via 2001:db8:2::2 dev up2 nexthop via 2001:db8:3::2 dev up3")?;
    // Next-hop objects, which a kernel may tell by their numbers alone.
    host.enter(|| {
        std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", "0").context("cannot set the mode")
    })?;
    host.ip("nexthop add id 4 via 2001:db8:4::2 dev up4")?;
    host.ip("nexthop add id 5 via 2001:db8:5::2 dev up5")?;
    host.ip("nexthop add id 45 group 4/5")?;
    host.ip("-6 route add default nhid 45 metric 2000")?;
    // Another table, and the halves that some tunnels set.
    host.ip("route add default via 192.0.2.98 dev up6 table 77")?;
    host.ip("route add 0.0.0.0/1 via 192.0.2.114 dev up7")?;
    let guard = Guard::start(host, &policy())?;
    attached_at_last(host, &guard, &["up0", "up1", "up2", "up3", "up4", "up5", "up6", "up7"])?;
    ensure!(!is_attached(host, "other") && !is_attached(host, "lo"));
    let names: Vec<_> = status(&guard)?.unguarded.into_iter().map(|open| open.name).collect();
    ensure!(names.iter().any(|name| name == "other") && names.iter().any(|name| name == "eth0"), "{names:?}");
    Ok(())
}

#[test]
fn an_uplink_stays_guarded_when_its_route_moves_or_goes() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    uplinks(host, &["tunnel"])?;
    host.ip("route add default dev eth0")?;
    let mut guard = Guard::start(host, &policy())?;
    attached_at_last(host, &guard, &["eth0"])?;
    host.ip("route replace default dev tunnel")?;
    attached_at_last(host, &guard, &["tunnel"])?;
    let stays = |guard: &Guard<'_>, name: &str| -> Result<bool> {
        let found = status(guard)?.interfaces.into_iter().find(|interface| interface.name == name);
        Ok(found.and_then(|interface| interface.why).is_some_and(|why| why.contains("stays guarded")))
    };
    ensure!(is_attached(host, "eth0") && stays(&guard, "eth0")?, "{}", guard.log());

    host.ip("route delete default")?;
    let told = || {
        status(&guard)
            .is_ok_and(|status| status.problems.iter().any(|problem| problem.contains("default route")))
    };
    ensure!(wait::within(PATIENCE, told), "{}", guard.log());
    ensure!(is_attached(host, "eth0") && is_attached(host, "tunnel"));
    stranger_waits_in_vain(&scene)?;

    // Neither does another start forget what it was for.
    guard.kill()?;
    guard.run()?;
    ensure!(is_attached(host, "eth0") && is_attached(host, "tunnel"), "{}", guard.log());
    ensure!(stays(&guard, "eth0")? && stays(&guard, "tunnel")?, "{}", guard.log());
    stranger_waits_in_vain(&scene)?;

    // A policy that names others lets them go.
    std::fs::write(guard.policy_file(), policy().replace("default-route", "eth0"))?;
    let (code, _, said) = guard.output(&["reload"])?;
    ensure!(code == Some(0), "{said}");
    ensure!(wait::within(PATIENCE, || !is_attached(host, "tunnel")), "{}", guard.log());
    ensure!(is_attached(host, "eth0"));
    Ok(())
}

fn stranger_waits_in_vain(scene: &Scene) -> Result<()> {
    let url = format!("http://{}:8000/", SERVER[0]);
    let _server = scene.server.start(
        scene.server.command("python3").args(["-m", "http.server", "8000"]).stdout(null()).stderr(null()),
    )?;
    let get =
        |host: &Host, seconds: &str| host.output("curl", &["-s", "-o", "/dev/null", "-m", seconds, &url]);
    ensure!(
        wait::within(PATIENCE, || get(&scene.client, "5").is_ok_and(|(ok, _)| ok)),
        "the client is let in"
    );
    ensure!(!get(&scene.stranger, "2")?.0, "the stranger is not");
    Ok(())
}

fn null() -> std::process::Stdio {
    std::process::Stdio::null()
}
