//! Whether what is pinned is of this network namespace: the numbers of interfaces mean nothing in another one.

use std::os::fd::AsFd;

use super::pins::Pins;
use super::{Error, bpf};
use crate::network;

/// Makes the pins those of this namespace, unless they belong to another one that still has guard on an interface.
pub(super) fn claim(pins: &Pins) -> Result<(), Error> {
    let here = network::namespace().map_err(Error::Namespace)?;
    let is_foreign = match pins.namespace()? {
        Some(namespace) => namespace != here && is_live(pins)?,
        // Of an older build, which did not note it.
        None => is_live(pins)? && !is_on_a_device_here(pins)?,
    };
    if is_foreign {
        return Err(Error::OtherNamespace { path: pins.root().into() });
    }
    pins.set_namespace(here)
}

/// Whether a pinned link is on an interface, wherever that is.
fn is_live(pins: &Pins) -> Result<bool, Error> {
    Ok(links(pins)?.iter().any(|link| link.interface != 0))
}

fn is_on_a_device_here(pins: &Pins) -> Result<bool, Error> {
    for link in links(pins)? {
        let device = network::link(link.interface)?;
        if device.is_some_and(|device| device.xdp_program == Some(link.program)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn links(pins: &Pins) -> Result<Vec<bpf::XdpLinkInfo>, Error> {
    let info = |path: std::path::PathBuf| {
        let told = bpf::open_pin(&path).and_then(|link| bpf::xdp_link_info(link.as_fd()));
        told.map_err(|source| Error::File { action: "cannot read the link", path, source })
    };
    pins.pinned_links()?.into_iter().map(|(_, _, path)| info(path)).collect()
}
