//! Who gets through, and what guard leaves alone.

use std::time::Duration;

use anyhow::Result;
use guard_tests::guard::Guard;
use guard_tests::net::Host;
use guard_tests::scene::{ALLOW, SERVER, Scene};
use guard_tests::wait;

const PATIENCE: Duration = Duration::from_secs(60);

/// Starts web servers on ports of the server, for both families.
fn serve(host: &Host, port: u16) -> Result<guard_tests::net::Running> {
    let mut command = host.command(env!("CARGO_BIN_EXE_guard-streaming-server"));
    let server = host.start(command.args(["--port", &port.to_string()]))?;
    assert!(
        wait::within(PATIENCE, || get(host, "127.0.0.1", port)),
        "the test server does not listen on {port}"
    );
    Ok(server)
}

/// Whether an HTTP request is answered.
fn get(host: &Host, address: &str, port: u16) -> bool {
    let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let url = format!("http://{address}:{port}/health");
    host.output("curl", &["-s", "-f", "--connect-timeout", "2", "-m", "4", "-o", "/dev/null", &url])
        .is_ok_and(|(ok, _)| ok)
}

fn ping(host: &Host, address: &str) -> bool {
    host.output("ping", &["-c", "2", "-i", "0.2", "-W", "2", address]).is_ok_and(|(ok, _)| ok)
}

fn policy(mode: &str) -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\nmode = \"{mode}\"\n[[service]]\nname = \"web\"\nports = [8000, \"8100-8103\"]\nallow = {ALLOW}\n"
    )
}

fn strangers_are_kept_out_and_the_rest_goes_on(mode: &str) -> Result<()> {
    let scene = Scene::new()?;
    let _guarded = serve(&scene.server, 8000)?;
    let _open = serve(&scene.server, 9000)?;
    for address in SERVER {
        assert!(get(&scene.stranger, address, 8000), "without guard a stranger reaches {address}");
    }
    let guard = Guard::start(&scene.server, &policy(mode))?;
    assert!(guard.log().contains(mode), "the log names the mode: {}", guard.log());
    for address in SERVER {
        assert!(get(&scene.client, address, 8000), "{mode}: an allowed client reaches {address}");
        assert!(!get(&scene.stranger, address, 8000), "{mode}: a stranger does not reach {address}");
        assert!(
            get(&scene.stranger, address, 9000),
            "{mode}: other ports of {address} are open to a stranger"
        );
        // Address resolution from nothing, both ways.
        scene.stranger.ip("neighbour flush all")?;
        scene.server.ip("neighbour flush all")?;
        assert!(
            ping(&scene.stranger, address),
            "{mode}: {address} answers a ping after the neighbours were forgotten"
        );
    }
    let counts = guard.counts()?;
    let count =
        |service: &str, verdict: &str, reason: &str| counts[&(service.into(), verdict.into(), reason.into())];
    assert!(count("web", "pass", "allowed") > 0, "{counts:?}");
    assert!(count("web", "drop", "not_allowed") > 0, "{counts:?}");
    assert!(count("", "pass", "unguarded") > 0 && count("", "pass", "not_ip") > 0, "{counts:?}");
    Ok(())
}

#[test]
fn native_mode_keeps_strangers_out() -> Result<()> {
    strangers_are_kept_out_and_the_rest_goes_on("native")
}

#[test]
fn generic_mode_keeps_strangers_out() -> Result<()> {
    strangers_are_kept_out_and_the_rest_goes_on("generic")
}

#[test]
fn monitor_mode_drops_nothing_and_counts_what_it_would_drop() -> Result<()> {
    let scene = Scene::new()?;
    let _server = serve(&scene.server, 8000)?;
    let guard = Guard::start(
        &scene.server,
        &policy("auto").replace("[[service]]", "[[service]]\nmode = \"monitor\""),
    )?;
    for address in SERVER {
        assert!(get(&scene.stranger, address, 8000), "a stranger reaches {address}");
    }
    let counts = guard.counts()?;
    assert!(counts[&("web".into(), "would_drop".into(), "not_allowed".into())] > 0, "{counts:?}");
    assert!(counts.iter().all(|((_, verdict, _), packets)| verdict != "drop" || *packets == 0), "{counts:?}");
    Ok(())
}
