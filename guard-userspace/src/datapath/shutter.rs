//! Dropping all that a device receives, for the moment in which the program moves from it to a device below.
//!
//! The kernel allows no XDP program below one that runs, so the one above has to go first. Dropped packets come again; a packet of a stranger that gets
//! in does not go out.

use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcAttachType};
use aya::programs::{LinkOrder, SchedClassifier};

use super::load::causes;
use super::{Datapath, Error};

const PROGRAM: &str = "guard_shut";

/// Devices that let nothing in; they open again when it is dropped.
pub struct Shutter(#[expect(dead_code, reason = "it is held, not read")] Vec<SchedClassifierLink>);

impl Datapath {
    /// Shuts devices, by their names.
    ///
    /// # Errors
    /// When the kernel cannot: Linux 6.6 is the first that can.
    pub fn shut<'n>(&mut self, interfaces: impl IntoIterator<Item = &'n str>) -> Result<Shutter, Error> {
        let program = self.ebpf.program_mut(PROGRAM).ok_or(Error::NoProgram(PROGRAM))?;
        let program: &mut SchedClassifier = program.try_into()?;
        if program.fd().is_err() {
            program.load().map_err(|error| Error::Load(causes(&error)))?;
        }
        let mut links = Vec::new();
        for interface in interfaces {
            let first = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = program.attach_with_options(interface, TcAttachType::Ingress, first)?;
            links.push(program.take_link(id)?);
        }
        Ok(Shutter(links))
    }
}
