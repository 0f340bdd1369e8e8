//! The network that most tests and the demo use: a server, a client that is allowed, and a stranger.

use anyhow::Result;

use crate::frame::Frame;
use crate::net::{Host, Network, mac_of};

/// Addresses are `10.77.x.y/16` and `fd00:77::x:y/64`, so that all hosts are neighbours.
pub struct Scene {
    pub server: Host,
    pub client: Host,
    pub stranger: Host,
    pub network: Network,
}

pub const SERVER: [&str; 2] = ["10.77.0.1", "fd00:77::1"];
pub const CLIENT: [&str; 2] = ["10.77.1.2", "fd00:77::1:2"];
pub const STRANGER: [&str; 2] = ["10.77.66.3", "fd00:77::66:3"];

/// The prefixes of the client, and of others like it.
pub const ALLOW: &str = r#"["10.77.1.0/24", "fd00:77::1:0/112"]"#;

impl Scene {
    /// # Errors
    /// Without root.
    pub fn new() -> Result<Self> {
        let network = Network::new()?;
        let host = |name, number, [v4, v6]: [&str; 2]| {
            network.host(name, number, &[&format!("{v4}/16"), &format!("{v6}/64")])
        };
        let server = host("server", SERVER_NUMBER, SERVER)?;
        let client = host("client", CLIENT_NUMBER, CLIENT)?;
        let stranger = host("stranger", STRANGER_NUMBER, STRANGER)?;
        Ok(Self { server, client, stranger, network })
    }
}

const SERVER_NUMBER: u8 = 1;
const CLIENT_NUMBER: u8 = 2;
const STRANGER_NUMBER: u8 = 3;

/// Addresses a frame to the server.
pub fn to_server(frame: Frame) -> Frame {
    let destination = SERVER[usize::from(frame.source.is_ipv6())].parse();
    Frame {
        destination: destination.unwrap_or(frame.source),
        destination_mac: mac_of(SERVER_NUMBER),
        source_mac: mac_of(CLIENT_NUMBER),
        ..frame
    }
}
