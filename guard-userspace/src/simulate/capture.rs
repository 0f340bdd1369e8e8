//! Captures: pcap and pcapng.

use std::io::{Cursor, Read};
use std::time::Duration;

use guard_common::Packet;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError};

/// A packet of a capture. What the capture cut off cannot be read, but counts for the length.
pub(super) struct CapturedPacket {
    data: Vec<u8>,
    pub(super) original_length: usize,
    /// Nanoseconds since the first packet.
    pub(super) at: u64,
}

impl Packet for CapturedPacket {
    fn length(&self) -> usize {
        self.original_length
    }

    fn copy<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.data.as_slice().copy(offset)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("this is neither a pcap nor a pcapng file: {0}")]
    Format(PcapError),
    #[error(
        "the capture is of link type {0:?}, and guard reads Ethernet: capture on the interface itself (`tcpdump -i eth0 -w …`), not on \"any\""
    )]
    LinkType(DataLink),
    #[error("packet {number} cannot be read: {source}")]
    Packet { number: u64, source: PcapError },
    #[error("the capture cannot be read: {0}")]
    Read(#[from] std::io::Error),
}

/// The first four bytes of a section header of pcapng.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// The packets of a capture, in its order.
pub(super) struct Capture<R: Read> {
    reader: Reader<R>,
    number: u64,
    first: Option<Duration>,
}

/// When a packet came, how long it was, and what was captured of it.
type RawPacket = (Duration, usize, Vec<u8>);

type Rewound<R> = std::io::Chain<Cursor<Vec<u8>>, R>;

enum Reader<R: Read> {
    Pcap(PcapReader<Rewound<R>>),
    PcapNg(Box<PcapNgReader<Rewound<R>>>),
}

impl<R: Read> Capture<R> {
    pub(super) fn open(mut file: R) -> Result<Self, CaptureError> {
        let mut magic = Vec::new();
        file.by_ref().take(4).read_to_end(&mut magic)?;
        let is_pcapng = magic == PCAPNG;
        let file = Cursor::new(magic).chain(file);
        let reader = if is_pcapng {
            Reader::PcapNg(Box::new(PcapNgReader::new(file).map_err(CaptureError::Format)?))
        } else {
            let reader = PcapReader::new(file).map_err(CaptureError::Format)?;
            check_link(reader.header().datalink)?;
            Reader::Pcap(reader)
        };
        Ok(Self { reader, number: 0, first: None })
    }

    fn read(&mut self) -> Option<Result<RawPacket, CaptureError>> {
        self.number += 1;
        let failed = |source| CaptureError::Packet { number: self.number, source };
        match &mut self.reader {
            Reader::Pcap(reader) => {
                let packet = reader.next_packet()?;
                Some(
                    packet
                        .map_err(failed)
                        .map(|packet| (packet.timestamp, packet.orig_len as usize, packet.data.into_owned())),
                )
            }
            Reader::PcapNg(reader) => loop {
                match reader.next_block()?.map_err(failed) {
                    Err(error) => return Some(Err(error)),
                    Ok(Block::InterfaceDescription(interface)) => {
                        if let Err(error) = check_link(interface.linktype) {
                            return Some(Err(error));
                        }
                    }
                    Ok(Block::EnhancedPacket(packet)) => {
                        return Some(Ok((
                            packet.timestamp,
                            packet.original_len as usize,
                            packet.data.into_owned(),
                        )));
                    }
                    // Simple packets have no time; the others hold names, statistics and the like.
                    Ok(_) => {}
                }
            },
        }
    }
}

impl<R: Read> Iterator for Capture<R> {
    type Item = Result<CapturedPacket, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        let packet = self.read()?.map(|(time, original_length, data)| {
            let first = *self.first.get_or_insert(time);
            // A packet that is older than the first, as several queues may bring it, is taken to be as old as the first.
            let at = u64::try_from(time.saturating_sub(first).as_nanos()).unwrap_or(u64::MAX);
            CapturedPacket { data, original_length, at }
        });
        Some(packet)
    }
}

fn check_link(link: DataLink) -> Result<(), CaptureError> {
    if link == DataLink::ETHERNET { Ok(()) } else { Err(CaptureError::LinkType(link)) }
}
