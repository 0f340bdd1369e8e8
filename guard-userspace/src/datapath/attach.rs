//! Putting the program on an interface.

use std::fs;
use std::io;
use std::path::PathBuf;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{ProgramError, Xdp};
use nix::net::if_::if_nametoindex;

use super::load::{MULTI_BUFFER, SINGLE_BUFFER, causes};
use super::{Datapath, Error, foreign};
use crate::network;

/// Where the program runs: in the driver, or behind it (for drivers without XDP; about 2.4 times the cost of the former, before any
/// work).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    Native,
    Generic,
}

impl Mode {
    const ALL: [Self; 2] = [Self::Native, Self::Generic];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    const fn of_aya(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

/// Which mode is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeRequest {
    /// Native where the driver can, generic else.
    Auto,
    Only(Mode),
}

/// The program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub interface: String,
    pub index: u32,
    pub mode: Mode,
    /// Whether frames in several buffers (a large MTU) can come.
    pub multi_buffer: bool,
    /// Why it is not native and for several buffers.
    pub why: Option<String>,
    /// The link was there already: the program behind it was replaced without a gap.
    pub taken_over: bool,
}

impl Datapath {
    /// Puts the program on an interface. A link that is pinned from before gets the new program in one step.
    ///
    /// # Errors
    /// When there is no such interface, when another XDP program is on it, or when neither mode works.
    pub fn attach(&mut self, interface: &str, request: ModeRequest) -> Result<Attachment, Error> {
        let index = if_nametoindex(interface).map_err(|_| Error::NoInterface(interface.into()))?;
        if let Some(taken_over) = self.take_over(interface, index)? {
            return Ok(taken_over);
        }
        let modes = match request {
            ModeRequest::Auto => &Mode::ALL[..],
            ModeRequest::Only(Mode::Native) => &[Mode::Native],
            ModeRequest::Only(Mode::Generic) => &[Mode::Generic],
        };
        let programs = self.programs();
        let mut refused = Vec::new();
        for (mode, program) in modes.iter().flat_map(|mode| programs.iter().map(|program| (*mode, *program)))
        {
            match self.link(index, mode, program) {
                Ok(link) => {
                    self.keep(index, mode, link)?;
                    let why = (!refused.is_empty()).then(|| refused.join("; "));
                    let multi_buffer = program == MULTI_BUFFER;
                    let interface = interface.into();
                    return Ok(Attachment { interface, index, mode, multi_buffer, why, taken_over: false });
                }
                Err(Refusal::Foreign) => {
                    let program = network::link(index).ok().flatten().and_then(|link| link.xdp_program);
                    let program = program.map_or_else(|| "of an unknown name".into(), foreign::describe);
                    return Err(Error::ForeignProgram { interface: interface.into(), program });
                }
                Err(Refusal::Driver(reason)) => refused.push(format!("{}, {program}: {reason}", mode.name())),
                Err(Refusal::Other(error)) => return Err(error),
            }
        }
        Err(Error::Attach { interface: interface.into(), reason: refused.join("; ") })
    }

    /// The kernel's numbers of the programs that are loaded.
    pub(super) fn program_ids(&self) -> Vec<u32> {
        let id = |name: &&str| {
            let program: &Xdp = self.ebpf.program(name)?.try_into().ok()?;
            Some(program.info().ok()?.id())
        };
        self.programs().iter().filter_map(id).collect()
    }

    /// The programs to try, the better one first.
    fn programs(&self) -> &'static [&'static str] {
        if self.multi_buffer { &[MULTI_BUFFER, SINGLE_BUFFER] } else { &[SINGLE_BUFFER] }
    }

    fn link(&mut self, index: u32, mode: Mode, program: &'static str) -> Result<FdLink, Refusal> {
        let program = self.load_program(program).map_err(Refusal::Other)?;
        let id = program.attach_to_if_index(index, mode.of_aya()).map_err(Refusal::of)?;
        let link = program.take_link(id).map_err(|error| Refusal::Other(error.into()))?;
        // Where the kernel has no link for the device aya falls back to an attachment without one, which ends with nobody; dropping it
        // here takes it off again.
        FdLink::try_from(link).map_err(|_| Refusal::Driver("the kernel makes no link for it".into()))
    }

    /// Pins the link, or keeps it for as long as this process lives.
    fn keep(&mut self, index: u32, mode: Mode, link: FdLink) -> Result<(), Error> {
        match &self.pins {
            Some(pins) => {
                link.pin(pins.link(index, mode))?;
                self.hold(index, mode)
            }
            None => {
                self.unpinned.push(link);
                Ok(())
            }
        }
    }

    /// Replaces the program behind the link that is pinned for the interface, if there is one.
    fn take_over(&mut self, interface: &str, index: u32) -> Result<Option<Attachment>, Error> {
        let Some(pins) = &self.pins else { return Ok(None) };
        let Some((_, mode, path)) = pins.pinned_links()?.into_iter().find(|(pinned, ..)| *pinned == index)
        else {
            return Ok(None);
        };
        let mut refused = Vec::new();
        for program in self.programs() {
            let link = open_link(&path)?;
            match replace(self.load_program(program)?, link) {
                Ok(()) => {
                    self.hold(index, mode)?;
                    let why = (!refused.is_empty()).then(|| refused.join("; "));
                    let multi_buffer = *program == MULTI_BUFFER;
                    let interface = interface.into();
                    return Ok(Some(Attachment {
                        interface,
                        index,
                        mode,
                        multi_buffer,
                        why,
                        taken_over: true,
                    }));
                }
                // The interface went away and came back with the same index: the link is cut off for good.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
                    fs::remove_file(&path).map_err(|source| Error::File {
                        action: "cannot remove",
                        path,
                        source,
                    })?;
                    return Ok(None);
                }
                Err(error) => refused.push(format!("{program}: {error}")),
            }
        }
        Err(Error::Attach { interface: interface.into(), reason: refused.join("; ") })
    }
}

fn open_link(path: &PathBuf) -> Result<XdpLink, Error> {
    let broken = |error: &dyn std::error::Error| Error::File {
        action: "cannot take over the link",
        path: path.clone(),
        source: io::Error::other(causes(error)),
    };
    let link = PinnedLink::from_pin(path).map_err(|error| broken(&error))?;
    XdpLink::try_from(FdLink::from(link)).map_err(|error| broken(&error))
}

/// Puts `program` behind `link`; the pin keeps the link when this process lets go of it.
fn replace(program: &mut Xdp, link: XdpLink) -> Result<(), io::Error> {
    let id = program.attach_to_link(link).map_err(into_io)?;
    program.take_link(id).map(drop).map_err(io::Error::other)
}

/// Why an attempt to attach did not work.
enum Refusal {
    /// Another program is there.
    Foreign,
    /// The driver or the device cannot; the next attempt may.
    Driver(String),
    Other(Error),
}

impl Refusal {
    fn of(error: ProgramError) -> Self {
        let error = into_io(error);
        match error.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => Self::Foreign,
            Some(libc::ERANGE) => Self::Driver(
                "the driver refuses XDP at this MTU; a smaller one (`ip link set dev … mtu 3498`) allows native mode".into(),
            ),
            Some(libc::EOPNOTSUPP) => Self::Driver("the driver has no XDP of this kind".into()),
            Some(libc::EINVAL) => Self::Driver("the kernel does not take this program for this device".into()),
            _ => Self::Other(Error::Program(error.into())),
        }
    }
}

/// The system's error in the middle of aya's.
#[expect(clippy::wildcard_enum_match_arm, reason = "aya's errors are open-ended")]
fn into_io(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        ProgramError::IOError(error) => error,
        other => io::Error::other(other),
    }
}
