//! What namespaces by the thousand cost the agent, which any user can make: the work of a look is bounded, and `guard block --kill` goes on.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use guard_tests::cpu_time;
use guard_tests::crowd::Crowd;
use guard_tests::guard::Guard;
use guard_tests::scene::{ALLOW, Scene};

const FEW: usize = 10;
const MANY: usize = 1100;
/// Three comparisons of the connections with the sockets.
const WATCHED: Duration = Duration::from_secs(30);
const KILLS: usize = 5;

/// CPU time of the agent while it watches; how long a `guard block --kill` takes, and CPU time of the agent for it.
struct Cost {
    cpu: Duration,
    kill: Duration,
    kill_cpu: Duration,
}

fn cost(guard: &Guard<'_>) -> Result<Cost> {
    let before = cpu_time::of_process(guard.pid()?)?;
    thread::sleep(WATCHED);
    let cpu = cpu_time::of_process(guard.pid()?)? - before;
    let mut times = Vec::new();
    let before = cpu_time::of_process(guard.pid()?)?;
    for last in 0..KILLS {
        let begin = Instant::now();
        let (code, _, said) = guard.output(&["block", &format!("10.66.9.{last}"), "--kill"])?;
        ensure!(code == Some(0), "{said}");
        times.push(begin.elapsed());
    }
    let kill_cpu = (cpu_time::of_process(guard.pid()?)? - before) / u32::try_from(KILLS)?;
    times.sort();
    Ok(Cost { cpu, kill: times[KILLS / 2], kill_cpu })
}

#[test]
#[ignore = "it makes a thousand namespaces, which takes minutes: run it with --ignored"]
fn a_thousand_namespaces_cost_a_bounded_part_of_a_look() -> Result<()> {
    let scene = Scene::new()?;
    let policy = format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\nlimits = \"few\"\n[limits.few]\nmax_connections = 5\n"
    );
    let guard = Guard::start(&scene.server, &policy)?;
    let _few = Crowd::idle(FEW)?;
    let few = cost(&guard)?;
    for is_listening in [false, true] {
        let _many = if is_listening { Crowd::listening(MANY, 8000)? } else { Crowd::idle(MANY)? };
        let many = cost(&guard)?;
        let ratio = |many: Duration, few: Duration| many.as_secs_f64() / few.as_secs_f64();
        println!(
            "{MANY} namespaces, listening: {is_listening}: CPU {:?} in {WATCHED:?}, with {FEW} {:?}, ratio {:.1}; block --kill {:?}, with {FEW} {:?}, \
             ratio {:.1}; its CPU {:?}, with {FEW} {:?}, ratio {:.1}",
            many.cpu,
            few.cpu,
            ratio(many.cpu, few.cpu),
            many.kill,
            few.kill,
            ratio(many.kill, few.kill),
            many.kill_cpu,
            few.kill_cpu,
            ratio(many.kill_cpu, few.kill_cpu)
        );
    }
    Ok(())
}
