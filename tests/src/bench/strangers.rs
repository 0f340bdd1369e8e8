//! Frames of those who flood, and the wire by which they come to a host.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};

use crate::bpf::generator::IDENTIFIED;
use crate::frame::{Frame, Ipv4Fragment};
use crate::large;
use crate::net::Host;

/// The upper halves of the sources: none of them is allowed.
const SOURCES: [[u8; 2]; 8] = [[1, 2], [23, 9], [51, 77], [80, 1], [112, 200], [141, 3], [177, 66], [203, 5]];
/// Where TCP has its number.
const SEQUENCE: usize = 14 + 20 + 4;
/// Of the interface that receives, `up0`.
pub(super) const MAC: [u8; 6] = [2, 0, 0, 0, 9, 1];
/// Of the host behind that interface, within a /16.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// Lays a wire from `near` of the sender to `up0` of a host.
pub(super) fn wire(sender: &Host, near: &str, host: &Host) -> Result<()> {
    sender.wire(near, host, "up0")?;
    for command in
        [format!("link set up0 address {} up", text(MAC)), format!("address add {ADDRESS}/16 dev up0")]
    {
        host.ip(&command)?;
    }
    sender.ip(&format!("link set {near} up"))?;
    // With GRO on the driver polls, and frames arrive whether or not a program is attached.
    let (ok, said) = host.output("ethtool", &["-K", "up0", "gro", "on"])?;
    ensure!(ok, "{said}");
    Ok(())
}

/// A hardware address as `ip` has it.
pub(super) fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// SYNs to the guarded port, for the generator to change their sources: of half a million strangers in all.
pub(super) fn frames() -> Vec<Vec<u8>> {
    SOURCES.map(frame).to_vec()
}

/// A SYN of a client that is allowed.
pub(super) fn frame_of_a_client() -> Vec<u8> {
    Frame {
        destination: ADDRESS.octets().into(),
        destination_mac: MAC,
        ..Frame::tcp(&large::allowed(0), 8000)
    }
    .build()
}

fn frame([first, second]: [u8; 2]) -> Vec<u8> {
    let mut frame = Frame {
        source: [first, second, 0, 0].into(),
        destination: ADDRESS.octets().into(),
        destination_mac: MAC,
        fragment: Ipv4Fragment { identification: IDENTIFIED, ..Ipv4Fragment::default() },
        ..Frame::default()
    }
    .build();
    // As the generator wants it. The number was 1, and its halves may change places: their sum is the same.
    frame[SEQUENCE..][..4].copy_from_slice(&[0, 1, 0, 0]);
    frame
}

/// Frames that `up0` has received, dropped ones included.
pub(super) fn received(host: &Host) -> Result<u64> {
    let (_, text) = host.output("ip", &["-s", "-j", "link", "show", "up0"])?;
    let links: serde_json::Value = serde_json::from_str(&text)?;
    links[0]["stats64"]["rx"]["packets"].as_u64().context("the kernel does not count")
}
