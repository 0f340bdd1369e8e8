//! A million blocks and a hundred thousand prefixes: all of them hold, they load in time, and a full table says so.

use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use guard_common::Reason::{self, Allowed, Blocked, NotAllowed};
use guard_common::abi::{Block, End};
use guard_tests::cpu_time;
use guard_tests::frame::Frame;
use guard_tests::kernel::{self, Kernel, NOW};
use guard_tests::large;
use guard_userspace::datapath::{Capacities, Options};
use ipnet::{IpNet, Ipv4Net};

const BLOCKS: u32 = 1_000_000;
const PREFIXES: u32 = 100_000;
/// How many times as much a CPU may spend on them as on a tenth of them. What grows with the square takes a hundred times as much.
const OVER_A_TENTH: u32 = 30;

#[test]
fn a_million_blocks_and_a_hundred_thousand_prefixes_are_live_in_time() -> Result<()> {
    let (_, tenth) = filled(PREFIXES / 10, &large::blocks(BLOCKS / 10))?;
    let blocks = large::blocks(BLOCKS);
    let (mut kernel, spent) = filled(PREFIXES, &blocks)?;
    println!(
        "{PREFIXES} prefixes and {BLOCKS} blocks take {spent:.1?} of one CPU, a tenth of them {tenth:.1?}"
    );
    assert!(spent < OVER_A_TENTH * tenth, "{spent:?}, and {tenth:?} for a tenth");
    assert_eq!(kernel.datapath.maps().blocks()?.len(), blocks.len(), "every block is there");
    let mut rng = Rng::with_seed(1);
    for _ in 0..500 {
        let number = rng.u32(..PREFIXES);
        let cases: [(&str, String, Reason); 3] = [
            ("allowed", large::allowed(number), Allowed),
            ("between the prefixes", large::stranger(number), NotAllowed),
            ("blocked", large::blocked(rng.u32(..BLOCKS)), Blocked),
        ];
        for (name, source, reason) in cases {
            let verdict = kernel.judge(&Frame::segment(&source, 8000).build())?;
            assert_eq!(verdict.reason, reason, "{name}: {source}");
        }
    }
    Ok(())
}

/// A program with so many prefixes and these blocks, and what a CPU has spent on making them live.
fn filled(prefixes: u32, blocks: &[(IpNet, Block)]) -> Result<(Kernel, Duration)> {
    let plan = kernel::plan(&large::policy(prefixes))?;
    let mut kernel = Kernel::with(&Options { fixed_time: Some(NOW), ..Options::default() })?;
    let (published, policy_took) = cpu_time::of(|| kernel.publish(&plan))?;
    published?;
    let (blocked, blocks_took) = cpu_time::of(|| kernel.datapath.maps_mut().write_blocks(blocks))?;
    blocked?;
    Ok((kernel, policy_took + blocks_took))
}

#[test]
fn a_full_table_is_an_error_that_names_it_and_loses_nothing() -> Result<()> {
    const ROOM: u32 = 100;
    let capacities = Capacities { blocks: ROOM, sources: 16, connections: 16 };
    let mut kernel = Kernel::with(&Options { capacities, ..Options::default() })?;
    let maps = kernel.datapath.maps_mut();
    let forever = Block { host_until: End::NONE, services_until: End::FOREVER, dropped: 0 };
    let net = |number: u32, length| IpNet::V4(Ipv4Net::new_assert((number << 8).into(), length));
    for (length, table) in [(32, "BLOCKS"), (24, "BLOCK_PREFIXES")] {
        let before = maps.blocks()?.len();
        let fits: Vec<_> = (1..=ROOM).map(|number| (net(number, length), forever)).collect();
        maps.write_blocks(&fits)?;
        let error = maps.write_blocks(&[(net(ROOM + 1, length), forever)]).expect_err("there is no room");
        let text = error.to_string();
        assert!(text.contains(table) && text.contains(&format!("{ROOM} entries")), "{text}");
        assert_eq!(maps.blocks()?.len(), before + ROOM as usize, "{table}");
        // What is there can be changed and taken away though there is no room.
        maps.write_blocks(&[(net(1, length), forever)])?;
        assert!(maps.remove_block(&net(1, length))?);
        maps.write_blocks(&[(net(ROOM + 1, length), forever)])?;
    }
    Ok(())
}
