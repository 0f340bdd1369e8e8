//! A capture as pcapng: draft-ietf-opsawg-pcapng.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, PcapError};

use super::{CapturedPacket, SHOWN};

/// Time stamps are in units of ten to the minus nine seconds.
const NANOSECONDS: u8 = 9;

/// A capture that is being written. It goes out block by block, each in one piece, so that what is there is a whole file at any time.
pub struct CaptureFile<W> {
    blocks: PcapNgWriter<Vec<u8>>,
    interfaces: BTreeMap<String, u32>,
    out: W,
}

impl<W: Write> CaptureFile<W> {
    /// Writes the beginning, with these interfaces.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(out: W, interfaces: &[String]) -> io::Result<Self> {
        let options = vec![SectionHeaderOption::UserApplication(Cow::Borrowed(concat!(
            "guard ",
            env!("CARGO_PKG_VERSION")
        )))];
        let header = SectionHeaderBlock { options, ..SectionHeaderBlock::default() };
        let blocks = PcapNgWriter::with_section_header(Vec::new(), header).map_err(failed)?;
        let mut file = Self { blocks, interfaces: BTreeMap::new(), out };
        for interface in interfaces {
            file.interface(interface)?;
        }
        file.send()?;
        Ok(file)
    }

    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, packet: &CapturedPacket) -> io::Result<()> {
        let interface_id = self.interface(&packet.interface)?;
        let CapturedPacket { verdict, reason, service, .. } = packet;
        let mut comment = format!("reason={reason} verdict={verdict}");
        if !service.is_empty() {
            comment += &format!(" service={service}");
        }
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(packet.at),
            original_len: packet.length,
            data: Cow::Borrowed(&packet.frame),
            options: vec![EnhancedPacketOption::Comment(Cow::Owned(comment))],
        };
        self.blocks.write_pcapng_block(block).map_err(failed)?;
        self.send()
    }

    /// The number of an interface in the file. One that came later is described first.
    fn interface(&mut self, name: &str) -> io::Result<u32> {
        if let Some(number) = self.interfaces.get(name) {
            return Ok(*number);
        }
        let number = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        let description = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: SHOWN as u32,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(name.to_owned())),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        };
        self.blocks.write_pcapng_block(description).map_err(failed)?;
        self.interfaces.insert(name.to_owned(), number);
        Ok(number)
    }

    fn send(&mut self) -> io::Result<()> {
        self.out.write_all(self.blocks.get_ref())?;
        self.blocks.get_mut().clear();
        self.out.flush()
    }
}

fn failed(error: PcapError) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcapng::{Block, PcapNgReader};

    fn packet(interface: &str, service: &str, frame: usize) -> CapturedPacket {
        CapturedPacket {
            at: 1_700_000_000_123_456_789,
            interface: interface.into(),
            verdict: "drop".into(),
            reason: "denied".into(),
            service: service.into(),
            length: 1514,
            frame: vec![7; frame],
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut bytes = Vec::new();
        let mut file = CaptureFile::begin(&mut bytes, &["eth0".into()]).unwrap();
        for (interface, service, frame) in [("eth0", "web", 128), ("eth1", "", 61), ("eth0", "a", 14)] {
            file.write(&packet(interface, service, frame)).unwrap();
        }
        let mut reader = PcapNgReader::new(bytes.as_slice()).unwrap();
        let (mut interfaces, mut packets) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            let block = block.unwrap();
            if let Block::InterfaceDescription(interface) = &block {
                interfaces.push(interface.options[0].clone().into_owned());
            }
            if let Block::EnhancedPacket(packet) = block {
                packets.push(packet.into_owned());
            }
        }
        let name = |name: &'static str| InterfaceDescriptionOption::IfName(name.into());
        assert_eq!(interfaces, [name("eth0"), name("eth1")]);
        let found: Vec<_> = packets
            .iter()
            .map(|packet| {
                (packet.interface_id, packet.original_len, packet.data.len(), packet.options.clone())
            })
            .collect();
        let comment = |text: &'static str| vec![EnhancedPacketOption::Comment(text.into())];
        assert_eq!(
            found,
            [
                (0, 1514, 128, comment("reason=denied verdict=drop service=web")),
                (1, 1514, 61, comment("reason=denied verdict=drop")),
                (0, 1514, 14, comment("reason=denied verdict=drop service=a")),
            ]
        );
        assert_eq!(packets[0].timestamp, Duration::from_nanos(1_700_000_000_123_456_789));
    }
}
