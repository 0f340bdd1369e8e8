//! A guarded port from which the kernel opens connections of the host itself: `guard check` and the agent warn of it, and the remedy that
//! they name works.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::net::Host;
use guard_tests::scene::{ALLOW, STRANGER, Scene};

/// One port that is guarded, and one beside it.
const GUARDED: u16 = 50000;
const FREE: u16 = 50001;
const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";

#[test]
fn a_port_that_outgoing_connections_take_is_told_and_can_be_reserved() -> Result<()> {
    let scene = Scene::new()?;
    // The stranger is a host outside, whose service this host uses.
    let service = scene.stranger.enter(|| Ok(TcpListener::bind((STRANGER[0], 9000))?))?;
    let service = service.local_addr()?;
    set(&scene.server, "ip_local_port_range", &format!("{GUARDED} {FREE}"))?;
    set(&scene.server, "ip_local_reserved_ports", "1000")?;
    let guard = Guard::start(
        &scene.server,
        &format!(
            "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"model\"\nports = [\"49000-{GUARDED}\"]\nallow = {ALLOW}\n"
        ),
    )?;
    ensure!(guard.log().contains(RESERVED), "the agent does not tell: {}", guard.log());
    let warning = check(&guard)?.context("guard check does not warn")?;
    for part in ["\"model\"", "port 50000 too", "50000-50001", &format!("{RESERVED}=1000,49000-50000")] {
        ensure!(warning.contains(part), "{part} is missing: {warning}");
    }
    // The kernel takes even ports first, so the first connection goes out from the guarded port.
    ensure!(
        connect(&scene.server, service).is_err(),
        "the answer to the guarded port came through: there is nothing to warn of"
    );
    set(&scene.server, "ip_local_reserved_ports", &format!("1000,49000-{GUARDED}"))?;
    ensure!(check(&guard)?.is_none(), "guard check warns of a port that is reserved");
    let port = connect(&scene.server, service).context("with the port reserved")?.local_addr()?.port();
    ensure!(port == FREE, "the connection went out from port {port}");
    Ok(())
}

fn connect(host: &Host, service: SocketAddr) -> Result<TcpStream> {
    host.enter(|| Ok(TcpStream::connect_timeout(&service, Duration::from_secs(2))?))
}

/// What `guard check` says of ports that the kernel takes.
fn check(guard: &Guard<'_>) -> Result<Option<String>> {
    let (code, _, stderr) = guard.output(&["check", &guard.policy_file().display().to_string()])?;
    ensure!(code == Some(0), "guard check: {stderr}");
    Ok(stderr.contains(RESERVED).then_some(stderr))
}

fn set(host: &Host, name: &str, value: &str) -> Result<()> {
    let file = format!("/proc/sys/net/ipv4/{name}");
    host.enter(|| fs::write(&file, value).with_context(|| format!("cannot write {value} to {file}")))
}
