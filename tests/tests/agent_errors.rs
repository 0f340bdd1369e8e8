//! Every error that a call of the agent to the kernel can return on the way from the policy to the card: the program is on the card
//! afterwards, or never was, and the agent tells what is wrong.
//!
//! Errors are put in by strace, in a mount namespace with a BPF file system of its own. The suite takes some of them at random.
//! `GUARD_ERROR_MATRIX=all` takes each error of each call at each place of the agent that makes it, and one of them from then on;
//! `GUARD_ERROR_MATRIX=bpf,openat` takes those of these calls.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use guard_tests::faults::{self, Fault, Traced};
use guard_tests::guard::Guard;
use guard_tests::scene::{ALLOW, Scene};
use guard_tests::wait;
use guard_userspace::agent::Status;
use guard_userspace::control::path;
use guard_userspace::datapath::pins::Pins;

const PATIENCE: Duration = Duration::from_secs(60);
/// How long a start with an error may take to end or to be ready.
const START: Duration = Duration::from_secs(30);

/// The calls on that way, and what each can return.
const CALLS: [(&str, &[&str]); 14] = [
    ("openat", &["EACCES", "EIO", "EMFILE", "ENFILE", "ENOENT", "ENOMEM"]),
    ("read", &["EIO"]),
    ("statx", &["EACCES", "EIO"]),
    ("statfs", &["EIO"]),
    ("mkdir", &["EACCES", "ENOSPC", "EROFS"]),
    ("rename", &["EACCES", "ENOSPC", "EROFS"]),
    ("unlink", &["EACCES", "EROFS"]),
    ("flock", &["EINTR", "ENOLCK"]),
    ("socket", &["EMFILE", "ENOBUFS", "ENOMEM", "EPROTONOSUPPORT"]),
    ("bind", &["EADDRINUSE", "ENOMEM"]),
    ("sendto", &["ENOBUFS", "ENOMEM"]),
    ("recvfrom", &["ENOBUFS", "ENOMEM"]),
    ("bpf", &["E2BIG", "EAGAIN", "EBUSY", "EINVAL", "EMFILE", "ENOMEM", "ENOSPC", "EPERM"]),
    ("clone3", &["EAGAIN"]),
];

/// How many cases the suite takes of each kind.
const SOME: usize = 8;

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nprotocols = [\"udp\"]\nallow = {ALLOW}\n"
    )
}

/// The calls whose every case is to be taken; none: some cases at random.
fn whole() -> Option<Vec<&'static str>> {
    let matrix = std::env::var("GUARD_ERROR_MATRIX").ok()?;
    let is_meant = |call: &str| matrix == "all" || matrix.split(',').any(|name| name == call);
    Some(CALLS.iter().map(|(call, _)| *call).filter(|call| is_meant(call)).collect())
}

/// All cases of a start, or some of them at random.
fn cases(guard: &Guard<'_>, rng: &mut Rng) -> Result<Vec<Fault>> {
    let meant = whole();
    let places = faults::places(guard, &CALLS.map(|(call, _)| call))?;
    let mut cases = Vec::new();
    for (call, errors) in
        CALLS.into_iter().filter(|(call, _)| meant.as_ref().is_none_or(|of| of.contains(call)))
    {
        for (number, time) in places.get(call).into_iter().flatten().enumerate() {
            let fault = |error, goes_on| Fault { call, error, time: *time, goes_on };
            cases.extend(errors.iter().map(|error| fault(*error, false)));
            cases.push(fault(errors[number % errors.len()], true));
        }
    }
    if meant.is_none() {
        rng.shuffle(&mut cases);
        cases.truncate(SOME);
    }
    let counts: Vec<_> = places.iter().map(|(call, times)| format!("{call} {}", times.len())).collect();
    println!("{} cases; times of each call: {}", cases.len(), counts.join(", "));
    Ok(cases)
}

/// What became of a start with an error.
struct Outcome {
    is_up: bool,
    /// Its log, and the problems that it shows.
    said: String,
}

fn start_with(guard: &Guard<'_>, case: Fault) -> Result<Outcome> {
    let mut agent = Traced::start_with(guard, case)?;
    let mut ended = false;
    wait::within(START, || {
        ended = agent.has_ended();
        ended || faults::is_ready(guard)
    });
    let mut problems = Vec::new();
    // An agent that cannot serve its socket says so in its log.
    wait::within(Duration::from_millis(300), || {
        let status = guard.client().get::<Status>(path::STATUS).map(|status| problems = status.problems);
        ended || status.is_ok()
    });
    agent.kill()?;
    Ok(Outcome { is_up: !ended, said: format!("{problems:?}\n{}", faults::said(guard)) })
}

/// Whether guard said what is wrong: in its log, as a problem, or as its last words.
fn is_told(said: &str) -> bool {
    ["WARN", "ERROR", "guard: ", "cannot"].iter().any(|word| said.contains(word))
}

/// Takes each case, and goes on after one that fails: a run of all of them is to tell all that is wrong.
fn each(cases: &[Fault], mut take: impl FnMut(Fault) -> Result<()>) -> Result<()> {
    let begin = Instant::now();
    let mut failed = Vec::new();
    for case in cases {
        if let Err(error) = take(*case) {
            println!("{case:?}: {error:#}");
            failed.push(*case);
        }
    }
    println!("{} cases in {:?}", cases.len(), begin.elapsed());
    ensure!(failed.is_empty(), "{} of {} cases: {failed:?}", failed.len(), cases.len());
    Ok(())
}

#[test]
fn an_error_of_a_start_over_pins_that_are_there_leaves_the_program_on_the_card() -> Result<()> {
    faults::keep_mounts_apart()?;
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    guard.kill()?;
    let mut rng = Rng::new();
    each(&cases(&guard, &mut rng)?, |case| {
        let Outcome { is_up, said } = start_with(&guard, case)?;
        ensure!(guard.is_attached(), "the program is off the card: {said}");
        ensure!(guard.maps()?.live()?.generation > 0, "no policy is live: {said}");
        ensure!(is_up || is_told(&said), "it ended without a word: {said}");
        Ok(())
    })?;
    // Nothing of all that lasts.
    guard.run()?;
    ensure!(guard.is_attached() && guard.problems() == "[]", "{}", guard.log());
    Ok(())
}

#[test]
fn an_error_of_a_first_start_guards_or_leaves_nothing_and_is_told() -> Result<()> {
    faults::keep_mounts_apart()?;
    let scene = Scene::new()?;
    let guard = Guard::install(&scene.server, &policy())?;
    let pins = Pins::new(guard.pins());
    let mut rng = Rng::new();
    each(&cases(&guard, &mut rng)?, |case| {
        pins.detach().context("what the case before has left cannot be removed")?;
        ensure!(!guard.is_attached(), "nothing is there at first");
        let Outcome { is_up, said } = start_with(&guard, case)?;
        let is_attached = guard.is_attached();
        ensure!(is_up || is_told(&said), "it ended without a word: {said}");
        ensure!(is_attached || is_told(&said), "open, without a word: {said}");
        ensure!(!is_up || is_attached || said.contains("eth0"), "open and up: {said}");
        ensure!(!is_attached || guard.maps()?.live()?.generation > 0, "guarded by no policy: {said}");
        Ok(())
    })
}

#[test]
fn an_error_while_guard_guards_leaves_the_program_on_the_card() -> Result<()> {
    faults::keep_mounts_apart()?;
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    let meant = whole();
    let of = |(call, errors): (&'static str, &'static [&'static str])| {
        errors.iter().map(move |error| Fault { call, error, time: 0, goes_on: true })
    };
    let mut kinds: Vec<_> = CALLS.into_iter().flat_map(of).collect();
    match &meant {
        Some(calls) => kinds.retain(|fault| calls.contains(&fault.call)),
        None => {
            Rng::new().shuffle(&mut kinds);
            kinds.truncate(SOME);
        }
    }
    each(&kinds, |fault| {
        let mut strace = Traced::attach(&guard, fault)?;
        // Two looks, with a change of the network and a reload between them.
        thread::sleep(Duration::from_secs(3));
        scene.server.ip("address add 10.99.0.1/32 dev lo")?;
        let _ = guard.output(&["reload"]);
        thread::sleep(Duration::from_secs(4));
        scene.server.ip("address del 10.99.0.1/32 dev lo")?;
        ensure!(guard.is_attached(), "the program is off the card: {}", guard.log());
        strace.let_go()?;
        let healthy = || guard.status().is_ok_and(|status| status["pid"].is_number()) && guard.is_attached();
        ensure!(wait::within(PATIENCE, healthy), "it does not recover: {}", guard.log());
        Ok(())
    })
}
