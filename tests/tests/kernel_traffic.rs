//! What sources send is counted while somebody wants to know, and not otherwise.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use guard_common::abi::Traffic;
use guard_tests::frame::{ACK, Frame, SYN, Transport};
use guard_tests::kernel::{self, Kernel};

const POLICY: &str = "[[service]]\nname = \"web\"\nports = [8000]\nprotocols = [\"tcp\", \"udp\"]\nallow = [\"10.0.0.0/8\", \"fd00::/16\"]\nlimits = \"x\"\n\
     [limits.x]\nconnections_per_second = 1\nconnection_burst = 2\n[trusted]\nprefixes = [\"10.0.0.9/32\"]\n";
const LONG: Duration = Duration::from_secs(600);

fn segment(source: &str, flags: u8) -> Vec<u8> {
    Frame::new(source, Transport::Tcp { source_port: 4000, port: 8000, flags }).build()
}

/// What was counted, by source: packets, bytes, openings, drops.
fn counted(kernel: &Kernel) -> Result<BTreeMap<String, [u64; 4]>> {
    let traffic = kernel.datapath.maps().traffic()?.into_iter();
    let read = |Traffic { packets, bytes, openings, dropped }| [packets, bytes, openings, dropped];
    Ok(traffic
        .map(|(source, traffic)| (kernel.datapath.maps().source_net(&source).to_string(), read(traffic)))
        .collect())
}

#[test]
fn each_source_is_counted_for_what_it_sends() -> Result<()> {
    let mut kernel = Kernel::new(None)?;
    kernel.publish(&kernel::plan(POLICY)?)?;
    let (ack, syn) = (segment("10.0.0.1", ACK), segment("10.0.0.2", SYN));
    let stranger = segment("192.0.2.1", ACK);
    let trusted = segment("10.0.0.9", SYN);
    let (first, second) = (segment("fd00::1", ACK), segment("fd00::2", ACK));
    let elsewhere = Frame::tcp("10.0.0.1", 22).build();
    let run = |kernel: &Kernel| -> Result<()> {
        for frame in [&ack, &syn, &stranger, &trusted, &first, &second, &elsewhere] {
            for _ in 0..5 {
                kernel.datapath.run_frame(frame)?;
            }
        }
        Ok(())
    };
    run(&kernel)?;
    assert_eq!(counted(&kernel)?, BTreeMap::new(), "nobody asks");
    kernel.datapath.maps().count_traffic(LONG)?;
    run(&kernel)?;
    let bytes = |frame: &[u8], times| frame.len() as u64 * times;
    let expected = [
        ("10.0.0.1/32", [5, bytes(&ack, 5), 0, 0]),
        // Its two were used up before anybody asked.
        ("10.0.0.2/32", [5, bytes(&syn, 5), 5, 5]),
        ("192.0.2.1/32", [5, bytes(&stranger, 5), 0, 5]),
        ("10.0.0.9/32", [5, bytes(&trusted, 5), 5, 0]),
        ("fd00::/64", [10, bytes(&first, 10), 0, 0]),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(source, counts)| (source.to_owned(), counts)).into();
    assert_eq!(counted(&kernel)?, expected);
    Ok(())
}

#[test]
fn an_agent_that_is_gone_leaves_nothing_switched_on() -> Result<()> {
    const SHORT: Duration = Duration::from_millis(20);
    let mut kernel = Kernel::new(None)?;
    kernel.publish(&kernel::plan(POLICY)?)?;
    let frame = segment("10.0.0.1", ACK);
    kernel.datapath.maps().count_traffic(SHORT)?;
    thread::sleep(SHORT);
    kernel.datapath.run_frame(&frame)?;
    assert_eq!(counted(&kernel)?, BTreeMap::new());
    assert!(!kernel.datapath.maps().is_traffic_counted()?, "it is not asked for again");
    kernel.datapath.maps().count_traffic(LONG)?;
    kernel.datapath.run_frame(&frame)?;
    assert_eq!(counted(&kernel)?.len(), 1);
    Ok(())
}
