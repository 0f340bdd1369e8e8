//! The agent's side: it starts the keeper, hands out socket pairs, and answers what comes over them.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::http::StatusCode;
use nix::time::{ClockId, clock_gettime};
use tracing::info;

use super::keeper::NAME;
use super::port::Port;
use super::wire::{Answer, Ends, Page, read_code};
use crate::agent::Engine;
use crate::agent::metrics::{self, Format};
use crate::limited::{self, Kind};

/// How long the server may leave an answer unread: it only has to take it into its memory.
const PATIENCE: Duration = Duration::from_secs(5);
/// Scrapes take no more than one part in so many of a CPU, where one takes no longer than a third of the longest pause.
const SHARE: u32 = 4;
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// From the end of a server to the next.
const BETWEEN_SERVERS: Duration = Duration::from_secs(1);

/// The name of the problem that metrics are not served.
const PROBLEM: &str = "metrics";

/// The keeper. It ends with this handle.
pub(in crate::agent) struct Exporter {
    port: Port,
    keeper: Child,
    control: UnixStream,
}

impl Exporter {
    /// Starts the keeper. This comes before the first thread and before privileges go: a port below 1024 needs one.
    pub(in crate::agent) fn start(address: SocketAddr) -> Result<Self> {
        let port = Port::take(address);
        let (control, theirs) = UnixStream::pair().context("cannot prepare to serve metrics")?;
        let keeper = Command::new("/proc/self/exe")
            .arg0(NAME)
            .env_clear()
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start the process that serves metrics")?;
        Ok(Self { port, keeper, control })
    }

    /// Answers until the process ends.
    pub(in crate::agent) fn answer(self, engine: Arc<Engine>) -> Result<()> {
        thread::Builder::new()
            .name("metrics".into())
            .spawn(move || {
                let Self { port, mut keeper, control } = self;
                let why = look_after(port, &control, &engine);
                engine.set_problem(
                    PROBLEM,
                    Some(format!("metrics and health are not served any longer: {why:#}; restart the agent")),
                );
                let _ = keeper.kill();
                let _ = keeper.wait();
            })
            .context("cannot start a thread")?;
        Ok(())
    }
}

/// Gives the keeper what each server needs. Returns why that came to an end.
fn look_after(port: Port, control: &UnixStream, engine: &Arc<Engine>) -> anyhow::Error {
    let listen = port.address();
    let listener = port.listen(|why| {
        let problem = format!(
            "metrics and health are not served on {listen}: {why}; guard tries again. Free the port, or choose another with \
             --metrics or [metrics] listen; one below 1024 no user without privileges can take"
        );
        engine.set_problem(PROBLEM, Some(problem));
    });
    let mut ended = BufReader::new(control);
    loop {
        if let Err(error) = serve_once(&listener, listen, control, engine) {
            return error;
        }
        let mut how = String::new();
        match ended.read_line(&mut how) {
            Ok(0) => return anyhow::anyhow!("the process {NAME} has ended"),
            Ok(_) => {}
            Err(error) => return error.into(),
        }
        let problem = format!("the server of metrics is started again: {}", how.trim_end());
        engine.set_problem(PROBLEM, Some(problem));
        thread::sleep(BETWEEN_SERVERS);
    }
}

/// Answers one server until it ends.
fn serve_once(
    listener: &TcpListener,
    listen: SocketAddr,
    control: &UnixStream,
    engine: &Arc<Engine>,
) -> Result<()> {
    let (mine, theirs) = Ends::pairs().context("no descriptors are left for metrics")?;
    theirs.send(listener, control).context("the keeper takes no descriptors")?;
    let Ends { scrapes, health, news } = mine;
    thread::scope(|scope| {
        scope.spawn(|| answer(scrapes, engine, |spent| (spent * (SHARE - 1)).min(LONGEST_PAUSE)));
        scope.spawn(|| answer(health, engine, |_| Duration::ZERO));
        for _ in BufReader::new(news).lines().map_while(Result::ok) {
            info!("metrics on http://{listen}/metrics");
            engine.set_problem(PROBLEM, None);
        }
    });
    Ok(())
}

/// Answers one question after the other. `pause` says how long to rest after the time of a CPU that an answer took.
fn answer(mut server: UnixStream, engine: &Engine, pause: impl Fn(Duration) -> Duration) {
    // A server that does not read is cut off, and another is started.
    let _ = server.set_write_timeout(Some(PATIENCE));
    while let Ok(Some(code)) = read_code(&mut server) {
        let Some(page) = Page::of_code(code) else { break };
        let begun = cpu_time();
        let answer = catch_unwind(AssertUnwindSafe(|| render(page, engine))).unwrap_or_else(|_| {
            engine.set_problem("page", Some("the agent has failed at a scrape; its log says more".into()));
            failed("the agent failed at this request; its log says more\n")
        });
        let spent = cpu_time().saturating_sub(begun);
        if answer.write(&mut server).and_then(|()| server.flush()).is_err() {
            break;
        }
        thread::sleep(pause(spent));
    }
}

/// What this thread has had of a CPU: on a busy machine, where a scrape waits for others, that is less than has gone by.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

fn render(page: Page, engine: &Engine) -> Answer {
    match page {
        Page::Metrics(format) => scrape(engine, format).unwrap_or_else(|error| {
            limited::warn(Kind::Request, || format!("a scrape has failed: {error:#}"));
            failed(&format!("{error:#}\n"))
        }),
        Page::Healthy => match engine.pulse() {
            Ok(()) => found("ok\n"),
            Err(problem) => failed(&format!("{problem}\n")),
        },
        Page::Ready => match engine.health().problems {
            problems if problems.is_empty() => found("ready\n"),
            problems => failed(&format!("{}\n", problems.join("\n"))),
        },
    }
}

fn scrape(engine: &Engine, format: Format) -> Result<Answer> {
    let (status, leaders) = (engine.status()?, engine.leaders()?);
    let text = format.encode(&metrics::gather(&status, &leaders)?)?;
    Ok(Answer { status: StatusCode::OK, text })
}

fn found(text: &str) -> Answer {
    Answer { status: StatusCode::OK, text: text.into() }
}

fn failed(text: &str) -> Answer {
    Answer { status: StatusCode::SERVICE_UNAVAILABLE, text: text.into() }
}
