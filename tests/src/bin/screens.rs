//! The pictures of the documentation, from a real terminal over real traffic: `cargo xtask screens`.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guard_tests::frame::{ACK, Frame, SYN, Transport};
use guard_tests::guard::{Guard, binary};
use guard_tests::picture;
use guard_tests::raw::Wire;
use guard_tests::scene::{ALLOW, SERVER, Scene, to_server};
use guard_tests::streams::{StreamingServer, stream};
use guard_tests::terminal::Terminal;

const SIZE: (u16, u16) = (100, 30);
/// Until the sparklines are full.
const MINUTE: Duration = Duration::from_secs(65);

/// Sources, packets a second, flags, and how the rate changes over the time: how many seconds a wave has.
const TRAFFIC: [(&str, u32, u8, f64); 7] = [
    ("10.77.1.20", 1400, ACK, 17.0),
    ("10.77.1.21", 246, ACK, 9.0),
    ("10.77.2.9", 3200, ACK, 23.0),
    ("10.77.1.33", 40, SYN, 11.0),
    ("192.0.2.77", 5200, SYN, 31.0),
    ("198.51.100.4", 900, ACK, 13.0),
    ("fd00:77::1:9", 120, ACK, 19.0),
];

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"vllm\"\nports = [8000]\nallow = {ALLOW}\ndeny = [\"10.77.2.0/24\"]\nlimits = \"client\"\n\
         [limits.client]\npackets_per_second = 2000\npacket_burst = 4000\nconnections_per_second = 10\nconnection_burst = 400\nmax_connections = 64\n"
    )
}

fn send(scene: &Scene, stop: &AtomicBool) -> Result<()> {
    let wire = Wire::open(&scene.stranger)?;
    let frame = |source: &str, flags| {
        let frame = to_server(Frame::new(source, Transport::Tcp { source_port: 40_000, port: 8000, flags }));
        Frame { source_mac: scene.stranger.mac(), payload: vec![0; 200], ..frame }.build()
    };
    let frames = TRAFFIC.map(|(source, rate, flags, wave)| (frame(source, flags), f64::from(rate), wave));
    let (begin, mut last) = (Instant::now(), 0.0);
    let mut due = [0.0; TRAFFIC.len()];
    while !stop.load(Ordering::Relaxed) {
        let now = begin.elapsed().as_secs_f64();
        for ((frame, rate, wave), due) in frames.iter().zip(&mut due) {
            *due += (now - last) * rate * (1.0 + 0.8 * (now * std::f64::consts::TAU / wave).sin());
            while *due >= 1.0 {
                wire.send(frame)?;
                *due -= 1.0;
            }
        }
        last = now;
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn top() -> Result<String> {
    let scene = Scene::new()?;
    let streaming = binary()?.with_file_name("guard-streaming-server");
    let server = StreamingServer::start(&scene.server, &streaming.display().to_string(), 8000)?;
    let guard = Guard::start(&scene.server, &policy())?;
    let _streams = (0..3).map(|_| stream(&scene.client, SERVER[0])).collect::<Result<Vec<_>>>()?;
    ensure!(server.has(3, Duration::from_secs(10)));
    let (code, _, stderr) =
        guard.output(&["block", "198.51.100.0/24", "--for", "1h", "--reason", "scans us"])?;
    ensure!(code == Some(0), "{stderr}");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(&scene, &stop));
        let command = format!("{} top", binary()?.display());
        let environment =
            [("GUARD_SOCKET", guard.socket().display().to_string()), ("LC_ALL", "C.UTF-8".into())];
        let terminal = Terminal::open(SIZE, &command, &environment)?;
        eprintln!("watching for a minute, so that all of it has a past");
        thread::sleep(MINUTE);
        terminal.press(&["Down", "Down"])?;
        thread::sleep(Duration::from_secs(2));
        let screen = terminal.coloured();
        stop.store(true, Ordering::Relaxed);
        sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        screen
    })
}

fn main() -> Result<()> {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        bail!("say where the pictures go: cargo xtask screens does")
    };
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let file = directory.join("top.svg");
    fs::write(&file, picture::of_screen(&top()?, SIZE))
        .with_context(|| format!("cannot write {}", file.display()))?;
    println!("{}", file.display());
    Ok(())
}
