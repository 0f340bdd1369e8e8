//! A policy with everything in it, packet by packet: services, rules, limits of sources, blocks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use guard_common::Action::{Drop, Pass, WouldDrop};
use guard_common::Reason::{Allowed, Blocked, ConnectionRate, Denied, NotAllowed, PacketRate, Trusted};
use guard_common::{Action, Reason};
use guard_tests::fence::Fence;
use guard_tests::frame::Frame;
use guard_tests::guard::Guard;
use guard_tests::raw::{Wire, on_one_cpu};
use guard_tests::scene::{CLIENT, Scene, to_server};
use guard_tests::shapes::MAC;
use guard_tests::tap::Tap;
use guard_tests::wait;

const POLICY: &str = r#"
[attach]
interfaces = ["eth0"]

[[service]]
name = "web"
ports = [8000, "8100-8103"]
allow = ["10.77.1.0/24", "fd00:77::1:0/112"]
deny = ["10.77.1.64/26", "fd00:77::1:66/128"]

[[service]]
name = "dns"
ports = [5300]
protocols = ["udp"]
allow = ["0.0.0.0/0", "::/0"]

[[service]]
name = "watched"
ports = [9000]
protocols = ["tcp", "udp"]
mode = "monitor"
allow = ["10.77.1.0/24"]
limits = "narrow"

[[service]]
name = "limited"
ports = [7000]
protocols = ["tcp", "udp"]
allow = ["10.77.0.0/16", "fd00::/16"]
limits = "narrow"

[[service.sources]]
prefix = "10.77.2.0/24"
limits = "wide"

[[service.sources]]
prefix = "10.77.6.0/24"
limits = "calls"

[trusted]
prefixes = ["10.77.5.0/24", "fd00:5::/32"]

[limits.narrow]
packets_per_second = 1
packet_burst = 5

[limits.wide]
packets_per_second = 1
packet_burst = 20

[limits.calls]
connections_per_second = 1
connection_burst = 3
"#;

/// A server with that policy, and the one who sends it packets under any address.
struct Test<'a> {
    guard: Guard<'a>,
    tap: Tap,
    fence: Fence,
    wire: Wire,
}

/// Packets by service (none: `""`), what was done, and why.
type Verdicts = BTreeMap<(String, &'static str, &'static str), u64>;

impl<'a> Test<'a> {
    fn start(scene: &'a Scene) -> Result<Self> {
        Ok(Self {
            guard: Guard::start(&scene.server, POLICY)?,
            tap: Tap::open(&scene.server, MAC)?,
            fence: Fence::open(&scene.server)?,
            wire: Wire::open(&scene.client)?,
        })
    }

    /// Sends packets and returns how many came through to the host, and what of the services' counters has changed.
    fn send(&self, packets: &[Frame]) -> Result<(u64, Verdicts)> {
        let before = self.verdicts()?;
        on_one_cpu(|| {
            for packet in packets {
                self.wire.send(&Frame { source_mac: MAC, ..to_server(packet.clone()) }.build())?;
            }
            self.fence.pass(&self.wire, CLIENT[0])
        })?;
        let through = self.tap.drain()?.len() as u64;
        let mut grown = self.verdicts()?;
        grown.retain(|key, packets| {
            *packets -= before[key];
            *packets > 0
        });
        Ok((through, grown))
    }

    /// All that is counted for services, and blocks of the host.
    fn verdicts(&self) -> Result<Verdicts> {
        let maps = self.guard.maps()?;
        let names = maps.service_names()?;
        let services: Vec<_> = names.values().copied().collect();
        let name =
            |id| names.iter().find(|(_, service)| **service == id).map_or("", |(name, _)| name.as_str());
        let counters = maps.counters(&services)?.into_values();
        let entries = counters.map(|(verdict, counter)| {
            (
                (name(verdict.service).to_owned(), verdict.action.name(), verdict.reason.name()),
                counter.packets,
            )
        });
        Ok(entries
            .filter(|((service, _, reason), _)| !service.is_empty() || *reason == Blocked.name())
            .collect())
    }

    /// Fails unless one packet gets exactly this verdict; none is a packet that is no service's.
    fn expect(&self, name: &str, packet: Frame, expected: Option<(&str, Action, Reason)>) -> Result<()> {
        let (through, verdicts) = self.send(&[packet])?;
        let passes = expected.is_none_or(|(_, action, _)| action != Drop);
        ensure!(through == u64::from(passes), "{name}: {through} came through: {verdicts:?}");
        let expected =
            expected.map(|(service, action, reason)| ((service.to_owned(), action.name(), reason.name()), 1));
        ensure!(verdicts == expected.into_iter().collect(), "{name}: {verdicts:?}");
        Ok(())
    }
}

#[test]
fn each_packet_gets_the_verdict_of_its_service() -> Result<()> {
    let scene = Scene::new()?;
    let test = Test::start(&scene)?;
    let cases = [
        ("an allowed client", Frame::tcp("10.77.1.9", 8000), Some(("web", Pass, Allowed))),
        ("an allowed client, IPv6", Frame::tcp("fd00:77::1:9", 8000), Some(("web", Pass, Allowed))),
        ("a stranger", Frame::tcp("10.77.66.3", 8000), Some(("web", Drop, NotAllowed))),
        ("a stranger, IPv6", Frame::tcp("fd00:77::2:9", 8000), Some(("web", Drop, NotAllowed))),
        ("the last address before a deny", Frame::tcp("10.77.1.63", 8000), Some(("web", Pass, Allowed))),
        ("the first address of a deny", Frame::tcp("10.77.1.64", 8000), Some(("web", Drop, Denied))),
        ("a denied address, IPv6", Frame::tcp("fd00:77::1:66", 8000), Some(("web", Drop, Denied))),
        ("the port before a range", Frame::tcp("10.77.66.3", 8099), None),
        ("the first port of a range", Frame::tcp("10.77.66.3", 8100), Some(("web", Drop, NotAllowed))),
        ("the last port of a range", Frame::tcp("10.77.1.9", 8103), Some(("web", Pass, Allowed))),
        ("the port behind a range", Frame::tcp("10.77.66.3", 8104), None),
        ("UDP to a port of TCP", Frame::udp("10.77.66.3", 8000), None),
        ("a service of UDP", Frame::udp("192.0.2.1", 5300), Some(("dns", Pass, Allowed))),
        ("a service of UDP, IPv6", Frame::udp("2001:db8::1", 5300), Some(("dns", Pass, Allowed))),
        ("TCP to a port of UDP", Frame::tcp("192.0.2.1", 5300), None),
        (
            "a stranger who is only watched",
            Frame::tcp("10.77.66.3", 9000),
            Some(("watched", WouldDrop, NotAllowed)),
        ),
        ("the same over UDP", Frame::udp("10.77.66.3", 9000), Some(("watched", WouldDrop, NotAllowed))),
        ("an allowed client who is watched", Frame::tcp("10.77.1.9", 9000), Some(("watched", Pass, Allowed))),
        ("a trusted source that no list allows", Frame::tcp("10.77.5.1", 8000), Some(("web", Pass, Trusted))),
        ("a trusted source, IPv6", Frame::tcp("fd00:5::1", 8000), Some(("web", Pass, Trusted))),
    ];
    cases.into_iter().try_for_each(|(name, packet, expected)| test.expect(name, packet, expected))
}

/// Who sends, how many packets are within its limits, and what is counted for the others.
type Source<'a> = (&'a str, &'a dyn Fn(u64) -> Frame, u64, Option<(&'a str, Action, Reason)>);

#[test]
fn each_source_has_its_own_limits() -> Result<()> {
    const PACKETS: u64 = 30;
    let scene = Scene::new()?;
    let test = Test::start(&scene)?;
    let segment = |source: &str| Frame::segment(source, 7000);
    let over = Some(("limited", Drop, PacketRate));
    let sources: [Source<'_>; 8] = [
        ("one source", &|_| segment("10.77.3.1"), 5, over),
        ("many IPv4 addresses", &|number| segment(&format!("10.77.4.{number}")), PACKETS, None),
        ("many addresses of one /64", &|number| segment(&format!("fd00:7::{number}:1")), 5, over),
        ("addresses of many /64", &|number| segment(&format!("fd00:7:0:1{number}::1")), PACKETS, None),
        ("a prefix with limits of its own", &|_| segment("10.77.2.1"), 20, over),
        (
            "requests for connections",
            &|_| Frame::tcp("10.77.6.1", 7000),
            3,
            Some(("limited", Drop, ConnectionRate)),
        ),
        ("a trusted source", &|_| segment("10.77.5.5"), PACKETS, None),
        (
            "a source that is only watched",
            &|_| Frame::segment("10.77.1.1", 9000),
            5,
            Some(("watched", WouldDrop, PacketRate)),
        ),
    ];
    for (name, packet, within, rest) in sources {
        let packets: Vec<_> = (0..PACKETS).map(packet).collect();
        let start = Instant::now();
        let (through, verdicts) = test.send(&packets)?;
        // One comes back in a second.
        let come_back = start.elapsed().as_secs();
        let over = rest.map_or(0, |(service, action, reason)| {
            verdicts.get(&(service.into(), action.name(), reason.name())).copied().unwrap_or(0)
        });
        let most = PACKETS - within;
        ensure!((most.saturating_sub(come_back)..=most).contains(&over), "{name}: {over} over: {verdicts:?}");
        let dropped = if rest.is_some_and(|(_, action, _)| action == Drop) { over } else { 0 };
        ensure!(through == PACKETS - dropped, "{name}: {through} came through: {verdicts:?}");
    }
    Ok(())
}

#[test]
fn blocks_are_of_a_source_and_a_scope() -> Result<()> {
    let scene = Scene::new()?;
    let mut test = Test::start(&scene)?;
    let block = |arguments: &[&str]| {
        let (code, _, stderr) = test.guard.output(&[&["block"], arguments].concat())?;
        ensure!(code == Some(0), "guard block {arguments:?}: {stderr}");
        anyhow::Ok(())
    };
    block(&["10.77.1.20", "--scope", "services"])?;
    block(&["fd00:77::1:20", "--scope", "services"])?;
    block(&["10.77.1.21", "--scope", "host"])?;
    block(&["fd00:9::/32", "--scope", "host"])?;
    let dropped = |service| Some((service, Drop, Blocked));
    let cases = [
        ("services", Frame::tcp("10.77.1.20", 8000), dropped("web")),
        ("services, UDP", Frame::udp("10.77.1.20", 5300), dropped("dns")),
        ("services, watched", Frame::tcp("10.77.1.20", 9000), Some(("watched", WouldDrop, Blocked))),
        ("services, another port", Frame::tcp("10.77.1.20", 22), None),
        ("services, IPv6", Frame::tcp("fd00:77::1:20", 8000), dropped("web")),
        ("services, IPv6, another port", Frame::udp("fd00:77::1:20", 53), None),
        ("host", Frame::tcp("10.77.1.21", 8000), dropped("web")),
        ("host, another port", Frame::udp("10.77.1.21", 53), dropped("")),
        ("host, a prefix of IPv6", Frame::udp("fd00:9:1::7", 53), dropped("")),
        ("host, a prefix of IPv6, guarded", Frame::udp("fd00:9:1::7", 5300), dropped("dns")),
        ("the address beside", Frame::tcp("10.77.1.22", 8000), Some(("web", Pass, Allowed))),
        ("the prefix beside, another port", Frame::udp("fd00:a::7", 53), None),
    ];
    cases.into_iter().try_for_each(|(name, packet, expected)| test.expect(name, packet, expected))?;

    // It ends on time though nobody is there to end it.
    block(&["10.77.1.23", "--scope", "services", "--for", "3s"])?;
    let blocked = Instant::now();
    test.guard.kill()?;
    test.expect("for a while", Frame::tcp("10.77.1.23", 8000), dropped("web"))?;
    let passes = || test.send(&[Frame::tcp("10.77.1.23", 8000)]).is_ok_and(|(through, _)| through == 1);
    ensure!(wait::within(Duration::from_secs(10), passes), "the block goes on");
    let lasted = blocked.elapsed();
    ensure!(lasted > Duration::from_secs(1), "the block ended after {lasted:?}");
    test.expect("forever", Frame::tcp("10.77.1.20", 8000), dropped("web"))
}
