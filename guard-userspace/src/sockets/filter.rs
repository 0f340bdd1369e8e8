//! A set of local ports as a program that the kernel runs over its sockets, so that the others need not be copied.
//!
//! For each range of ports: below it, go to the next range; above it, go to the next range; else accept. Accepted is what ends
//! exactly at the end of the program, refused is what goes beyond it (`inet_diag_bc_run` in net/ipv4/inet_diag.c).

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// INET_DIAG_BC_JMP, INET_DIAG_BC_S_GE, INET_DIAG_BC_S_LE (linux/inet_diag.h).
const JUMP: u8 = 1;
const AT_LEAST: u8 = 2;
const AT_MOST: u8 = 3;
/// Bytes of an instruction. Its length as `yes`, where it goes on otherwise as `no`; a port is the `no` of one that follows.
const INSTRUCTION: usize = 4;
const RANGE: usize = 5 * INSTRUCTION;
/// More ranges do not pay: the kernel tries one after the other for each socket.
const MAX_RANGES: usize = 256;

/// The program, or none if the set is too scattered for one.
pub(super) fn program(ports: &BTreeSet<u16>) -> Option<Vec<u8>> {
    let ranges = ranges(ports);
    if ranges.is_empty() || ranges.len() > MAX_RANGES {
        return None;
    }
    let mut program = Vec::with_capacity(ranges.len() * RANGE);
    for (index, range) in ranges.iter().enumerate() {
        let is_last = index + 1 == ranges.len();
        // From the first instruction of this range to that of the next one, or beyond the end.
        let next = if is_last { RANGE + INSTRUCTION } else { RANGE };
        let to_end = (ranges.len() - index) * RANGE - 4 * INSTRUCTION;
        add(&mut program, AT_LEAST, 2 * INSTRUCTION, next);
        add(&mut program, 0, 0, usize::from(*range.start()));
        add(&mut program, AT_MOST, 2 * INSTRUCTION, next - 2 * INSTRUCTION);
        add(&mut program, 0, 0, usize::from(*range.end()));
        // An unconditional jump goes where `no` says.
        add(&mut program, JUMP, INSTRUCTION, to_end);
    }
    Some(program)
}

fn add(program: &mut Vec<u8>, code: u8, yes: usize, no: usize) {
    // Both fit: there are at most 256 ranges of 20 bytes.
    let (yes, no) = (yes.to_le_bytes()[0], u16::try_from(no).unwrap_or(u16::MAX));
    program.extend([code, yes]);
    program.extend(no.to_ne_bytes());
}

/// The set as ranges without gaps.
fn ranges(ports: &BTreeSet<u16>) -> Vec<RangeInclusive<u16>> {
    let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
    for &port in ports {
        match ranges.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(port) => *last = *last.start()..=port,
            Some(_) | None => ranges.push(port..=port),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_set;
    use proptest::prelude::*;

    use super::*;

    /// As the kernel does it.
    fn accepts(program: &[u8], port: u16) -> bool {
        let number = |at: usize| u16::from_ne_bytes([program[at + 2], program[at + 3]]);
        let (mut at, end) = (0, program.len());
        while at < end {
            let yes = match program[at] {
                JUMP => false,
                AT_LEAST => port >= number(at + 4),
                AT_MOST => port <= number(at + 4),
                code => panic!("instruction {code}"),
            };
            at += if yes { usize::from(program[at + 1]) } else { usize::from(number(at)) };
        }
        at == end
    }

    #[test]
    fn neighbours_become_ranges() {
        let ports = BTreeSet::from([8000, 8100, 8101, 8102, u16::MAX - 1, u16::MAX]);
        assert_eq!(ranges(&ports), [8000..=8000, 8100..=8102, u16::MAX - 1..=u16::MAX]);
    }

    #[test]
    fn no_ports_and_too_many_have_no_program() {
        assert_eq!(program(&BTreeSet::new()), None);
        let scattered = |count: u16| (0..count).map(|number| 1 + 2 * number).collect::<BTreeSet<_>>();
        assert!(program(&scattered(256)).is_some());
        assert_eq!(program(&scattered(257)), None);
    }

    proptest! {
        #[test]
        fn a_program_accepts_its_ports_and_no_others(ports in btree_set(any::<u16>(), 1..200), other in any::<u16>()) {
            let program = program(&ports).unwrap();
            for port in ports.iter().flat_map(|port| [port.saturating_sub(1), *port, port.saturating_add(1)]).chain([other]) {
                prop_assert_eq!(accepts(&program, port), ports.contains(&port), "{}", port);
            }
        }
    }
}
