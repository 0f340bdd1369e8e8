//! Why the kernel did not put the program on an interface.

use std::io;

use super::{Error, foreign};
use crate::network::{Link, Network};

/// What one attempt has shown.
pub(super) enum Refusal {
    /// No other mode will work either.
    Final(Error),
    /// This mode does not work on this device; another one may.
    OfMode(String),
}

impl Refusal {
    /// What an error means is asked of the device: drivers, too, use the numbers that stand for another program.
    pub(super) fn of(error: &io::Error, link: &Link) -> Self {
        if !matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) {
            return Self::OfMode(words(error));
        }
        let interface = link.name.clone();
        match Network::look() {
            Ok(network) => {
                let program = network.link(link.index).and_then(|link| link.xdp_program);
                if let Some(program) = program {
                    return Self::Final(Error::ForeignProgram {
                        interface,
                        program: foreign::describe(program),
                    });
                }
                match upper_with_program(link.index, &network) {
                    Some(upper) => Self::Final(Error::UpperProgram { interface, upper }),
                    None => Self::OfMode(words(error)),
                }
            }
            Err(unknown) => {
                Self::OfMode(format!("{}, and the device was not to be asked: {unknown}", words(error)))
            }
        }
    }
}

/// The name of a device above this one that carries a program.
fn upper_with_program(index: u32, network: &Network) -> Option<String> {
    let carriers = network.links.iter().filter(|link| link.xdp_program.is_some());
    carriers
        .into_iter()
        .find(|link| network.all_below(link.index).contains(&index))
        .map(|link| link.name.clone())
}

fn words(error: &io::Error) -> String {
    let meaning = match error.raw_os_error() {
        Some(libc::ERANGE) => {
            "the driver refuses XDP at this MTU; a smaller one (`ip link set dev … mtu 3498`) allows native mode"
        }
        Some(libc::EOPNOTSUPP) => "the driver has no XDP of this kind",
        Some(libc::EINVAL) => "the kernel does not take this program for this device",
        Some(libc::EBUSY) => "the driver is busy",
        Some(libc::ENOMEM) => "the driver finds no memory for its queues",
        Some(libc::ENOSPC) => {
            "the driver has too few queues for XDP; `ethtool -L … combined` lowers their number"
        }
        _ => return error.to_string(),
    };
    meaning.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_but_that_of_a_program_ends_the_attempts() {
        let loopback = Link { index: 1, name: "lo".into(), ..Link::default() };
        for number in 1..=133 {
            let error = io::Error::from_raw_os_error(number);
            match Refusal::of(&error, &loopback) {
                Refusal::OfMode(why) => assert!(!why.is_empty(), "{number}"),
                Refusal::Final(error) => panic!("{number}: nothing is on loopback, but: {error}"),
            }
        }
    }
}
