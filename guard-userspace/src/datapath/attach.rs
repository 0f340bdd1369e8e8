//! Putting the program on an interface.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use super::load::{IP_PACKETS, MULTI_BUFFER, SINGLE_BUFFER};
use super::refusal::Refusal;
use super::{Datapath, Error, bpf};
use crate::network::{self, Framing, Link};

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

    /// XDP_FLAGS_DRV_MODE and XDP_FLAGS_SKB_MODE (linux/if_link.h).
    const fn flags(self) -> u32 {
        match self {
            Self::Native => 1 << 2,
            Self::Generic => 1 << 1,
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

/// What to try on a device: the better program and mode first.
struct Ways {
    programs: &'static [&'static str],
    modes: &'static [Mode],
    /// Why these are not the best ones that there are.
    why: Option<String>,
}

impl Datapath {
    /// Puts the program on an interface, by its index. A link that is pinned from before gets the new program in one step.
    ///
    /// # Errors
    /// When there is no such interface, when guard cannot read its frames, when another XDP program is on it or above it, or when no
    /// mode works. Then a link that was there before goes on.
    pub fn attach(&mut self, index: u32, request: ModeRequest) -> Result<Attachment, Error> {
        let link = network::link(index)?.ok_or_else(|| Error::NoInterface(index.to_string()))?;
        let ways = self.ways(&link, request)?;
        let attachment = match self.take_over(&link, &ways)? {
            Some(taken_over) => taken_over,
            None => self.attach_anew(&link, &ways)?,
        };
        // What a link says of itself can be true of another namespace.
        if self.carries(index)? {
            return Ok(attachment);
        }
        Err(Error::NotCarried { interface: link.name })
    }

    fn attach_anew(&mut self, link: &Link, ways: &Ways) -> Result<Attachment, Error> {
        let mut refused: Vec<String> = ways.why.iter().cloned().collect();
        for (mode, program) in
            ways.modes.iter().flat_map(|mode| ways.programs.iter().map(|program| (*mode, *program)))
        {
            let descriptor = match self.load_program(program) {
                Ok(loaded) => loaded.fd()?.as_fd(),
                Err(error) => {
                    refused.push(format!("{}, {program}: {error}", mode.name()));
                    continue;
                }
            };
            match bpf::create_xdp_link(descriptor, link.index, mode.flags()) {
                Ok(made) => {
                    self.keep(link.index, mode, made)?;
                    return Ok(attachment(link, mode, program, refused, false));
                }
                Err(error) => match Refusal::of(&error, link) {
                    Refusal::Final(error) => return Err(error),
                    Refusal::OfMode(why) => refused.push(format!("{}, {program}: {why}", mode.name())),
                },
            }
        }
        Err(Error::Attach { interface: link.name.clone(), reason: refused.join("; ") })
    }

    /// Whether the device itself says that it carries a program of this agent.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub(super) fn carries(&self, index: u32) -> Result<bool, Error> {
        let program = network::link(index)?.and_then(|link| link.xdp_program);
        Ok(program.is_some_and(|program| self.program_ids().contains(&program)))
    }

    /// The kernel's numbers of the programs that are loaded.
    fn program_ids(&self) -> Vec<u32> {
        let id = |name: &&str| {
            let program: &aya::programs::Xdp = self.ebpf.program(name)?.try_into().ok()?;
            Some(program.info().ok()?.id())
        };
        [MULTI_BUFFER, SINGLE_BUFFER, IP_PACKETS].iter().filter_map(id).collect()
    }

    fn ways(&self, link: &Link, request: ModeRequest) -> Result<Ways, Error> {
        let modes = match request {
            ModeRequest::Auto => &Mode::ALL[..],
            ModeRequest::Only(Mode::Native) => &[Mode::Native],
            ModeRequest::Only(Mode::Generic) => &[Mode::Generic],
        };
        let interface = link.name.clone();
        match link.framing() {
            Framing::Ethernet => {
                let programs = if self.multi_buffer { &[MULTI_BUFFER, SINGLE_BUFFER][..] } else { &[SINGLE_BUFFER] };
                Ok(Ways { programs, modes, why: None })
            }
            Framing::Ip if request == ModeRequest::Only(Mode::Native) => Err(Error::Attach {
                interface,
                reason: "it hands over IP packets without an Ethernet header, which only generic mode sees: set mode = \"auto\" in [attach]"
                    .into(),
            }),
            Framing::Ip => Ok(Ways {
                programs: &[IP_PACKETS],
                modes: &[Mode::Generic],
                why: Some("its packets have no Ethernet header".into()),
            }),
            Framing::Unknown(kind) => Err(Error::Framing { interface, kind }),
        }
    }

    /// Pins the link, or keeps it for as long as this process lives.
    fn keep(&mut self, index: u32, mode: Mode, link: OwnedFd) -> Result<(), Error> {
        let Some(pins) = &self.pins else {
            self.unpinned.push(link);
            return Ok(());
        };
        let path = pins.link(index, mode);
        // A pin of this name is of a device that had the number before.
        let _ = fs::remove_file(&path);
        bpf::pin(link.as_fd(), &path).map_err(|source| Error::File { action: "cannot pin", path, source })?;
        self.hold(index, mode, link);
        Ok(())
    }

    /// Replaces the program behind the link that is pinned for the interface, if there is one.
    fn take_over(&mut self, link: &Link, ways: &Ways) -> Result<Option<Attachment>, Error> {
        let Some(pins) = &self.pins else { return Ok(None) };
        let Some((_, mode, path)) =
            pins.pinned_links()?.into_iter().find(|(pinned, ..)| *pinned == link.index)
        else {
            return Ok(None);
        };
        let pinned = bpf::open_pin(&path).map_err(|source| Error::File {
            action: "cannot take over the link",
            path: path.clone(),
            source,
        })?;
        let info = bpf::xdp_link_info(pinned.as_fd()).map_err(|source| Error::File {
            action: "cannot read the link",
            path: path.clone(),
            source,
        })?;
        // The link was cut, or is on a device that has left this namespace: the one that has its number now is another.
        if info.interface != link.index || link.xdp_program != Some(info.program) {
            return Ok(None);
        }
        let mut refused: Vec<String> = ways.why.iter().cloned().collect();
        for program in ways.programs {
            let loaded = self.load_program(program)?.fd()?.as_fd();
            match bpf::update_link(pinned.as_fd(), loaded) {
                Ok(()) => {
                    self.hold(link.index, mode, pinned);
                    return Ok(Some(attachment(link, mode, program, refused, true)));
                }
                // It was cut at this moment.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => return Ok(None),
                Err(error) => refused.push(format!("{program}: {error}")),
            }
        }
        Err(Error::Attach { interface: link.name.clone(), reason: refused.join("; ") })
    }
}

fn attachment(link: &Link, mode: Mode, program: &str, refused: Vec<String>, taken_over: bool) -> Attachment {
    Attachment {
        interface: link.name.clone(),
        index: link.index,
        mode,
        multi_buffer: program == MULTI_BUFFER,
        why: (!refused.is_empty()).then(|| refused.join("; ")),
        taken_over,
    }
}
