//! Random frames: most near to something that guard judges, many broken.

use std::net::IpAddr;

use fastrand::Rng;

use super::{ACK, CUSTOMER_TAG, Extension, Frame, Ipv4Fragment, SERVICE_TAG, SYN, Transport};

/// Where random frames come from and go to.
#[derive(Clone, Debug)]
pub struct Space {
    pub sources: Vec<IpAddr>,
    pub ports: Vec<u16>,
}

/// A frame. The same `rng` makes the same frames.
pub fn frame(rng: &mut Rng, space: &Space) -> Vec<u8> {
    let bytes = shape(rng, space).build();
    broken(rng, bytes)
}

/// The frame, or one that is cut or has some bits changed.
pub fn broken(rng: &mut Rng, mut bytes: Vec<u8>) -> Vec<u8> {
    if rng.u8(..) < 32 {
        bytes.truncate(rng.usize(14..=bytes.len()));
    }
    if rng.u8(..) < 64 {
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(12..bytes.len().clamp(13, 120).min(bytes.len()));
            bytes[at] ^= 1 << rng.u8(0..8);
        }
    }
    bytes
}

/// A frame that an honest client of a service sends.
pub fn honest(rng: &mut Rng, space: &Space) -> Frame {
    let mut frame = shape(rng, space);
    if let Transport::Tcp { source_port, port, .. } = frame.transport {
        frame.transport = Transport::Tcp { source_port, port, flags: if rng.bool() { SYN } else { ACK } };
    }
    frame.vlan.truncate(1);
    frame.options.clear();
    frame.extensions.clear();
    frame.fragment = Ipv4Fragment::default();
    frame.length_error = 0;
    let Some(source) = pick(rng, &space.sources) else { return frame };
    let host = if source.is_ipv4() { Frame::tcp("10.0.0.1", 1) } else { Frame::tcp("fd00::1", 1) };
    Frame { source, destination: host.destination, ..frame }
}

/// A long fragment of a packet whose first one has not come.
pub fn stray(rng: &mut Rng, space: &Space) -> Frame {
    let frame = Frame { payload: vec![0x55; MAX_FRAME], ..honest(rng, space) };
    frame.part(1000..MAX_FRAME - 200, rng.u16(..))
}

/// A frame made from others by what a shape cannot express: bytes that are gone, doubled, foreign, or at their bounds.
pub fn mutate(rng: &mut Rng, frame: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    for _ in 0..rng.usize(1..4) {
        // The headers are what is looked at.
        let start = rng.usize(12..=bytes.len().min(120));
        let end = (start + rng.usize(0..24)).min(bytes.len());
        match rng.u8(0..5) {
            0 => drop(bytes.drain(start..end)),
            1 => {
                let part = bytes[start..end].to_vec();
                bytes.splice(start..start, part);
            }
            2 => bytes[start..end].fill(pick(rng, &[0, 1, 0x3f, 0x45, 0x7f, 0x80, 0xff]).unwrap_or(0x55)),
            3 => {
                let tail = other.get(start..).unwrap_or_default().to_vec();
                bytes.splice(start.., tail);
            }
            _ => bytes.truncate(end),
        }
        bytes.resize(bytes.len().clamp(MIN_FRAME, MAX_FRAME), 0);
    }
    bytes
}

/// What `BPF_PROG_TEST_RUN` takes as one buffer.
const MIN_FRAME: usize = 14;
const MAX_FRAME: usize = 3500;
/// Few, so that fragments meet.
const IDENTIFICATIONS: u16 = 3;

/// A frame as it may be meant, with lengths that are wrong at times.
pub fn shape(rng: &mut Rng, space: &Space) -> Frame {
    let source = match pick(rng, &space.sources) {
        Some(source) => near(rng, source),
        None => any_source(rng),
    };
    let port = pick(rng, &space.ports).filter(|_| rng.u8(..) < 224).unwrap_or_else(|| rng.u16(..));
    let transport = match rng.u8(0..10) {
        0 => Transport::Raw(pick(rng, &[0, 1, 6, 17, 43, 44, 47, 50, 58, 59, 135]).unwrap_or(1)),
        1..4 => Transport::Udp { source_port: rng.u16(..), port },
        _ => Transport::Tcp { source_port: rng.u16(..), port, flags: rng.u8(..) & 0x17 },
    };
    let mut frame = Frame {
        source,
        transport,
        ..Frame::new(if source.is_ipv4() { "10.0.0.1" } else { "fd00::1" }, transport)
    };
    frame.vlan = (0..tags(rng))
        .map(|_| (if rng.bool() { CUSTOMER_TAG } else { SERVICE_TAG }, rng.u16(..4096)))
        .collect();
    let payload = if rng.u8(..) < 96 { 1400 } else { rng.usize(0..64) };
    frame.payload = (0..payload).map(|_| rng.u8(..)).collect();
    if rng.u8(..) < 64 {
        frame.options = vec![1; 4 * rng.usize(0..=10)];
    }
    if rng.u8(..) < 48 {
        let offset = if rng.bool() { 0 } else { rng.u16(..0x2000) };
        frame.fragment =
            Ipv4Fragment { more: rng.bool(), offset, identification: rng.u16(..IDENTIFICATIONS) };
    }
    if rng.u8(..) < 160 {
        frame.extensions = (0..rng.usize(0..10)).map(|_| extension(rng)).collect();
    }
    if rng.u8(..) < 24 {
        frame.length_error = rng.i32(-40..40);
    }
    if rng.u8(..) < 48 {
        frame.padding = rng.usize(0..40);
    }
    frame
}

fn tags(rng: &mut Rng) -> usize {
    match rng.u8(..) {
        0..128 => 0,
        128..192 => 1,
        192..240 => 2,
        _ => 3,
    }
}

fn extension(rng: &mut Rng) -> Extension {
    let units = if rng.u8(..) < 8 { rng.u8(..) } else { rng.u8(..3) };
    match rng.u8(0..5) {
        0 => Extension::HopByHop(units),
        1 => Extension::Routing { kind: rng.u8(..5), units },
        2 => Extension::DestinationOptions(units),
        3 => Extension::Authentication(units),
        _ => Extension::Fragment {
            offset: if rng.u8(..) < 192 { 0 } else { rng.u16(..0x2000) },
            more: rng.bool(),
            identification: rng.u16(..IDENTIFICATIONS).into(),
        },
    }
}

/// The address, or one that shares a part of it.
fn near(rng: &mut Rng, address: IpAddr) -> IpAddr {
    if rng.bool() {
        return address;
    }
    match address {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) ^ (1 << rng.u32(0..32))).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) ^ (1 << rng.u32(0..128))).into()),
    }
}

fn any_source(rng: &mut Rng) -> IpAddr {
    if rng.bool() { IpAddr::V4(rng.u32(..).into()) } else { IpAddr::V6(rng.u128(..).into()) }
}

fn pick<T: Copy>(rng: &mut Rng, choices: &[T]) -> Option<T> {
    if choices.is_empty() || rng.u8(..) < 16 {
        None
    } else {
        choices.get(rng.usize(..choices.len())).copied()
    }
}
