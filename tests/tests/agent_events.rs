//! Random events under a stranger's stream: no frame of it comes by an interface that was guarded and still is here, and `guard status` tells
//! the state of every interface.
//!
//! An interface is guarded once the kernel shows the program on it and `guard status` says so. From then on no frame of the stranger may come by
//! it while it is in the namespace. Frames may come by a new interface until the agent has found it. The program goes along with an interface
//! to another namespace: where the kernel shows it there, nothing may come by the interface after its return.
//!
//! `GUARD_TEST_EVENTS` sets the number of events, `GUARD_TEST_SEED` repeats a run.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use guard_tests::every_wire::{EveryTap, send_over_each};
use guard_tests::frame::Frame;
use guard_tests::guard::Guard;
use guard_tests::net::{Host, Running};
use guard_tests::scene::{ALLOW, STRANGER, Scene, to_server};
use guard_tests::wait;
use guard_userspace::agent::{Applied, Status};
use guard_userspace::control::{ApplyRequest, path};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than a frame takes from the wire to the tap.
const ON_THE_WAY: Duration = Duration::from_millis(20);
const WIRES: usize = 4;
const FROM: [u8; 6] = [2, 0, 0, 0, 66, 66];
/// What a reload or a confirmation may ask for. Each asks for all that was guarded before, or for a part of it and is not confirmed.
const LASTING: [&str; 3] =
    ["\"eth0\", \"nic*\", \"default-route\"", "\"nic*\", \"eth0\", \"br0\"", "\"eth0\", \"nic*\""];
const PASSING: [&str; 3] = ["\"eth0\"", "\"nic*\"", LASTING[0]];
const BROKEN: [&str; 4] =
    ["", "not toml at all", "[[service]]\nname = \"web\"\n", "[attach]\ninterfaces = [\"eth0typo\"]\n"];
const ROUTES: [&str; 15] = [
    "route replace default dev eth0",
    "route replace default dev {nic}",
    "route append default dev {nic} metric 50",
    "route replace default nexthop dev eth0 nexthop dev {nic}",
    "route replace blackhole default",
    "route replace unreachable default metric 9",
    "route replace default dev {nic} table 77",
    "route replace 0.0.0.0/1 dev {nic}",
    "route replace default dev br0",
    "route delete default",
    "route flush table 77",
    "-6 route replace default dev {nic}",
    "-6 route replace default nexthop dev eth0 nexthop dev {nic}",
    "-6 route delete default",
    "-6 route replace default dev eth0",
];

fn policy(interfaces: &str) -> String {
    format!(
        "[attach]\ninterfaces = [{interfaces}]\n[[service]]\nname = \"web\"\nports = [8000]\nprotocols = [\"udp\", \"tcp\"]\nallow = {ALLOW}\n"
    )
}

/// Where the server's end of a wire is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Nowhere,
    Here { name: String, bridged: bool },
    Away { guarded: bool },
}

struct World<'a> {
    scene: &'a Scene,
    guard: Guard<'a>,
    random: fastrand::Rng,
    tap: EveryTap,
    wires: Vec<Place>,
    /// Processes in the namespaces of the server and of the client, by which `ip` finds these.
    holders: [Running; 2],
    /// The interfaces that nothing may come by, by their numbers.
    closed: BTreeSet<u32>,
    /// Those that came back with the program.
    returned: Vec<String>,
}

fn links(host: &Host) -> Result<Vec<Value>> {
    let (ok, text) = host.output("ip", &["-json", "-details", "link", "show"])?;
    ensure!(ok, "{text}");
    serde_json::from_str(&text).context("no JSON of ip")
}

fn name_of(link: &Value) -> &str {
    link["ifname"].as_str().unwrap_or_default()
}

fn index_of(link: &Value) -> Result<u32> {
    Ok(link["ifindex"].as_u64().context("no index")?.try_into()?)
}

fn has_program(link: &Value) -> bool {
    !link["xdp"].is_null()
}

impl<'a> World<'a> {
    fn new(scene: &'a Scene, seed: u64) -> Result<Self> {
        let host = &scene.server;
        let holder = |host: &Host| host.start(host.command("sleep").arg("infinity"));
        host.ip("link add br0 type bridge mcast_snooping 0")?;
        host.ip("link set br0 address 02:00:00:00:00:01 up")?;
        host.ip("address add 10.90.0.1/24 dev br0")?;
        host.ip("route add default dev eth0")?;
        let mut world = Self {
            scene,
            guard: Guard::start_watching(host, &policy(LASTING[0]), false)?,
            random: fastrand::Rng::with_seed(seed),
            tap: EveryTap::open(host, FROM)?,
            wires: vec![Place::Nowhere; WIRES],
            holders: [holder(host)?, holder(&scene.client)?],
            closed: BTreeSet::new(),
            returned: Vec::new(),
        };
        (0..WIRES).try_for_each(|wire| world.come(wire))?;
        Ok(world)
    }

    fn host(&self) -> &'a Host {
        &self.scene.server
    }

    fn come(&mut self, wire: usize) -> Result<()> {
        let name = format!("nic{wire}");
        self.host().wire(&name, &self.scene.stranger, &format!("far{wire}"))?;
        self.scene.stranger.ip(&format!("link set far{wire} up"))?;
        self.set_up(wire, name)
    }

    fn set_up(&mut self, wire: usize, name: String) -> Result<()> {
        self.host().ip(&format!("link set {name} address 02:00:00:00:00:01 up"))?;
        self.host().ip(&format!("address add 10.9{wire}.0.1/24 dev {name}"))?;
        self.wires[wire] = Place::Here { name, bridged: false };
        Ok(())
    }

    /// Something happens to an interface or a route, with the agent or without.
    fn network_event(&mut self) -> Result<String> {
        let wire = self.random.usize(..WIRES);
        if self.random.u8(..3) == 0 {
            let nic = match &self.wires[wire] {
                Place::Here { name, .. } => name.clone(),
                Place::Nowhere | Place::Away { .. } => "eth0".into(),
            };
            let route = ROUTES[self.random.usize(..ROUTES.len())].replace("{nic}", &nic);
            // The kernel refuses some, by the routes that are there: that is an event, too.
            let taken = self.host().ip(&route).is_ok();
            return Ok(format!("{route} ({})", if taken { "taken" } else { "refused" }));
        }
        match self.wires[wire].clone() {
            Place::Nowhere => self.come(wire).map(|()| format!("nic{wire} comes")),
            Place::Away { guarded } => self.come_back(wire, guarded),
            Place::Here { name, bridged } => self.change(wire, name, bridged),
        }
    }

    fn come_back(&mut self, wire: usize, guarded: bool) -> Result<String> {
        let name = format!("nic{wire}");
        self.scene.client.ip(&format!("link set away{wire} name {name} netns {}", self.holders[0].id()))?;
        if guarded {
            self.returned.push(name.clone());
        }
        self.set_up(wire, name)?;
        Ok(format!("nic{wire} comes back, with the program: {guarded}"))
    }

    fn change(&mut self, wire: usize, name: String, bridged: bool) -> Result<String> {
        let host = self.host();
        match self.random.u8(..8) {
            0 => {
                host.ip(&format!("link delete {name}"))?;
                self.wires[wire] = Place::Nowhere;
                Ok(format!("{name} goes"))
            }
            1 | 2 => {
                host.ip(&format!("link set {name} name away{wire} netns {}", self.holders[1].id()))?;
                let away = format!("away{wire}");
                let there = links(&self.scene.client)?;
                let guarded = there.iter().any(|link| name_of(link) == away && has_program(link));
                self.wires[wire] = Place::Away { guarded };
                Ok(format!("{name} goes to another namespace"))
            }
            3 | 4 => {
                let other =
                    if name.starts_with("nic") { format!("other{wire}") } else { format!("nic{wire}") };
                host.ip(&format!("link set {name} name {other}"))?;
                self.wires[wire] = Place::Here { name: other.clone(), bridged };
                Ok(format!("{name} is called {other}"))
            }
            5 => {
                host.ip(&format!("link set {name} down"))?;
                host.ip(&format!("link set {name} up"))?;
                Ok(format!("{name} down and up"))
            }
            _ => {
                let controller = if bridged { "nomaster" } else { "master br0" };
                host.ip(&format!("link set {name} {controller}"))?;
                self.wires[wire] = Place::Here { name: name.clone(), bridged: !bridged };
                Ok(format!("{name} {controller}"))
            }
        }
    }

    fn event(&mut self) -> Result<String> {
        match self.random.u8(..16) {
            0 | 1 => {
                let interfaces = LASTING[self.random.usize(..LASTING.len())];
                self.reload(&policy(interfaces)).map(|code| format!("reload of {interfaces}: {code:?}"))
            }
            2 => {
                let text = BROKEN[self.random.usize(..BROKEN.len())];
                let code = self.reload(text)?;
                ensure!(code == Some(1), "{text:?} was taken");
                Ok(format!("reload of the broken {text:?}"))
            }
            3 | 4 => {
                self.guard.kill()?;
                let happened = self.network_event()?;
                self.guard.run()?;
                Ok(format!("killed; {happened}; started"))
            }
            5 => self.expire(),
            6 => self.full_disk(),
            7 => self.no_descriptors(),
            _ => self.network_event(),
        }
    }

    fn reload(&self, text: &str) -> Result<Option<i32>> {
        fs::write(self.guard.policy_file(), text)?;
        let (code, _, said) = self.guard.output(&["reload"])?;
        let refused = self.status()?.policy.reload_error;
        ensure!(refused.is_some() == (code != Some(0)), "{code:?}, {said}, and the status says {refused:?}");
        Ok(code)
    }

    /// A policy that nothing confirms, and perhaps another agent meanwhile.
    fn expire(&mut self) -> Result<String> {
        let interfaces = PASSING[self.random.usize(..PASSING.len())];
        let request =
            ApplyRequest { policy: policy(interfaces), file: "new.toml".into(), confirm_within: Some(1000) };
        let applied = self.guard.client().post::<Applied>(path::APPLY, &request).is_ok();
        let happened = self.network_event()?;
        let killed = self.random.bool();
        if killed {
            self.guard.kill()?;
            self.guard.run()?;
        }
        let over = || self.status().is_ok_and(|status| status.policy.unconfirmed_for.is_none());
        ensure!(wait::within(PATIENCE, over), "the policy still awaits its confirmation");
        Ok(format!("{interfaces} applied ({applied}) and not confirmed; {happened}; killed: {killed}"))
    }

    /// A state that has no room, over a start and an event. The disk is a new one, without the policy that was live last: a start needs a
    /// policy file that is right.
    fn full_disk(&mut self) -> Result<String> {
        fs::write(self.guard.policy_file(), policy(LASTING[2]))?;
        self.guard.kill()?;
        let disk = self.guard.small_disk()?;
        let filler = fs::write(disk.path().join("filler"), vec![0; 2 << 20]);
        ensure!(filler.is_err(), "the disk is not full");
        self.guard.run()?;
        let happened = self.network_event()?;
        self.settle()?;
        self.guard.kill()?;
        drop(disk);
        self.guard.run()?;
        Ok(format!("a full disk; {happened}; killed; a disk with room"))
    }

    /// An agent that can open nothing while something happens, and for a look.
    fn no_descriptors(&mut self) -> Result<String> {
        let pid = self.guard.pid()?.to_string();
        let limit = |soft: &str| -> Result<()> {
            let limited =
                Command::new("prlimit").args([&format!("--nofile={soft}:"), "--pid", &pid]).status()?;
            ensure!(limited.success(), "cannot limit the agent's open files");
            Ok(())
        };
        let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let line = limits.lines().find(|line| line.starts_with("Max open files")).context("no limit")?;
        let soft = line.split_whitespace().nth(3).context("no limit")?;
        limit("3")?;
        let happened = self.network_event()?;
        thread::sleep(Duration::from_millis(300));
        limit(soft)?;
        Ok(format!("no descriptors; {happened}"))
    }

    fn status(&self) -> Result<Status> {
        Ok(serde_json::from_value(self.guard.status()?)?)
    }

    /// Waits until the kernel and the status agree on each interface, and each that the policy asked for has the program.
    fn settle(&self) -> Result<Vec<Value>> {
        let (mut now, mut odd) = (Vec::new(), String::new());
        let settled = wait::within(PATIENCE, || {
            let said = links(self.host()).and_then(|links| {
                now = links;
                self.status().and_then(|status| unsettled(&now, &status))
            });
            odd = said.unwrap_or_else(|error| Some(format!("{error:#}"))).unwrap_or_default();
            odd.is_empty()
        });
        ensure!(settled, "not settled: {odd}: {:?}", self.guard.status());
        Ok(now)
    }

    /// What came by closed interfaces since the last time is a hole. What is guarded now is closed.
    fn check(&mut self) -> Result<()> {
        let now = self.settle()?;
        thread::sleep(ON_THE_WAY);
        let came = self.tap.drain()?;
        let mut open = Vec::new();
        for link in &now {
            let (index, name) = (index_of(link)?, name_of(link));
            let was_closed = self.closed.contains(&index) || self.returned.iter().any(|back| back == name);
            if let Some(count) = came.get(&index).filter(|_| was_closed) {
                open.push(format!("{count} frames of the stranger came by {name} ({index})"));
            }
        }
        self.returned.clear();
        self.closed = now.iter().filter(|link| has_program(link)).map(index_of).collect::<Result<_>>()?;
        ensure!(open.is_empty(), "{}", open.join("; "));
        Ok(())
    }
}

/// What of the interfaces the status does not tell, or tells wrongly.
fn unsettled(links: &[Value], status: &Status) -> Result<Option<String>> {
    for link in links.iter().filter(|link| name_of(link) != "lo") {
        let (index, name) = (index_of(link)?, name_of(link));
        let told = status
            .interfaces
            .iter()
            .any(|told| told.index == index && told.name == name && told.mode != "none");
        let reason = status.unguarded.iter().any(|open| open.index == index && !open.why.is_empty());
        let is_asked = name != "br0";
        if told != has_program(link) || (!told && (is_asked || !reason)) {
            return Ok(Some(format!(
                "{name} ({index}): program {}, told {told}, reason {reason}",
                has_program(link)
            )));
        }
    }
    let is_here = |index: u32| links.iter().any(|link| index_of(link).is_ok_and(|known| known == index));
    let ghost = status.interfaces.iter().find(|told| told.mode != "none" && !is_here(told.index));
    Ok(ghost.map(|ghost| format!("{} is told and is not here", ghost.name)))
}

fn number(variable: &str) -> Result<Option<u64>> {
    let text = std::env::var(variable).ok();
    text.map(|text| text.parse()).transpose().with_context(|| format!("{variable} is no number"))
}

fn run(world: &mut World<'_>, events: u64) -> Result<()> {
    world.check().context("at the start")?;
    let mut last = Vec::new();
    for number in 0..events {
        if number > 0 && number % 100 == 0 {
            println!("{number} events");
        }
        let checked = world.event().and_then(|happened| {
            last.push(happened);
            world.check()
        });
        if let Err(error) = checked {
            let story = last[last.len().saturating_sub(8)..].join("\n");
            bail!("event {number}: {error:#}\nthe last events:\n{story}\nlog:\n{}", world.guard.log());
        }
    }
    Ok(())
}

#[test]
fn whatever_happens_nothing_comes_by_an_interface_that_was_guarded() -> Result<()> {
    let seed = number("GUARD_TEST_SEED")?.unwrap_or_else(|| fastrand::u64(..));
    let events = number("GUARD_TEST_EVENTS")?.unwrap_or(60);
    println!("GUARD_TEST_SEED={seed} GUARD_TEST_EVENTS={events}");
    let scene = Scene::new()?;
    let mut world = World::new(&scene, seed)?;
    let from = |frame: Frame| Frame { source_mac: FROM, ..to_server(frame) }.build();
    let frames = [from(Frame::udp(STRANGER[0], 8000)), from(Frame::tcp(STRANGER[0], 8000))];
    let far: Vec<_> = (0..WIRES).map(|wire| format!("far{wire}")).chain(["eth0".into()]).collect();
    let over = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let sender = scope.spawn(|| send_over_each(&scene.stranger, &far, &frames, &over));
        let result = run(&mut world, events);
        over.store(true, Ordering::Relaxed);
        let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        result.map(|()| sent)
    })?;
    println!("{sent} frames of the stranger");
    ensure!(sent > 50 * events, "{sent} frames in {events} events");
    Ok(())
}
