//! Blocks in the kernel: exact addresses in a hash, prefixes in a trie.

use std::net::IpAddr;

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, MapData, MapError};
use guard_common::Address;
use guard_common::abi::{Block, End};
use ipnet::IpNet;

use super::{Error, Maps, bpf};

const ADDRESSES: &str = "BLOCKS";
const PREFIXES: &str = "BLOCK_PREFIXES";
/// IPv4 lies in mapped form: its prefixes are longer by this many bits.
const MAPPED_BITS: u8 = 96;

/// [`Block`] before version 5: nanoseconds until when the host and the services are closed (0: not at all, the largest: forever), and
/// packets dropped.
type OldBlock = [u64; 3];

fn of_old([host, services, dropped]: OldBlock) -> Block {
    let end = |nanoseconds| match nanoseconds {
        0 => End::NONE,
        u64::MAX => End::FOREVER,
        nanoseconds => End::not_before(nanoseconds),
    };
    Block { host_until: end(host), services_until: end(services), dropped }
}

impl Maps {
    /// Writes blocks, over those of the same address or prefix; their counters of dropped packets begin anew.
    ///
    /// A look-up in the kernel finds the longest prefix only: see [`Block`] on prefixes within each other.
    ///
    /// # Errors
    /// When a table is full; what was written before that stays.
    pub fn write_blocks(&mut self, blocks: &[(IpNet, Block)]) -> Result<(), Error> {
        let (addresses, prefixes): (Vec<_>, Vec<_>) =
            blocks.iter().copied().partition(|(net, _)| is_address(net));
        let (keys, values): (Vec<[u8; 16]>, Vec<Block>) =
            addresses.into_iter().map(|(net, block)| (Address::from(net.addr()).to_bytes(), block)).unzip();
        let written = bpf::update_all(self.descriptor(ADDRESSES)?, &keys, &values)
            .map_err(|error| self.not_written(ADDRESSES, error));
        // Some may have been written.
        let noted = self.note_change();
        written.and(noted)?;
        let (keys, values): (Vec<Key<[u8; 16]>>, Vec<Block>) =
            prefixes.into_iter().map(|(net, block)| (prefix_key(&net), block)).unzip();
        let written = bpf::update_all(self.descriptor(PREFIXES)?, &keys, &values)
            .map_err(|error| self.not_written(PREFIXES, error));
        let noted = self.note_change();
        written.and(noted)
    }

    /// Removes a block. Returns whether there was one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_block(&mut self, net: &IpNet) -> Result<bool, Error> {
        let was_there = self.block(net)?.is_some();
        self.remove_blocks(std::slice::from_ref(net))?;
        Ok(was_there)
    }

    /// Removes blocks, those of them that there are.
    ///
    /// # Errors
    /// When the kernel refuses; what was removed before that stays away.
    pub fn remove_blocks(&mut self, nets: &[IpNet]) -> Result<(), Error> {
        let (addresses, prefixes): (Vec<&IpNet>, Vec<&IpNet>) = nets.iter().partition(|net| is_address(net));
        let keys: Vec<_> = addresses.into_iter().map(|net| Address::from(net.addr()).to_bytes()).collect();
        bpf::delete_all(self.descriptor(ADDRESSES)?, &keys)
            .map_err(|source| Error::Table { table: ADDRESSES, source })?;
        let keys: Vec<_> = prefixes.into_iter().map(prefix_key).collect();
        bpf::delete_all(self.descriptor(PREFIXES)?, &keys)
            .map_err(|source| Error::Table { table: PREFIXES, source })
    }

    /// The block of exactly this address or prefix.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn block(&self, net: &IpNet) -> Result<Option<Block>, Error> {
        if is_address(net) {
            let addresses = HashMap::<&MapData, [u8; 16], Block>::try_from(self.get(ADDRESSES)?)?;
            return match addresses.get(&Address::from(net.addr()).to_bytes(), 0) {
                Ok(block) => Ok(Some(block)),
                Err(MapError::KeyNotFound) => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
        // A look-up finds the longest prefix that there is, which may be a shorter one; so all are read.
        Ok(self.block_prefixes()?.into_iter().find_map(|(prefix, block)| (prefix == *net).then_some(block)))
    }

    /// The blocks of addresses, in no order.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn block_addresses(&self) -> Result<Vec<(IpNet, Block)>, Error> {
        self.addresses_with()
    }

    /// The same one by one: there may be a million.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn each_block_address(&self, mut each: impl FnMut(&IpNet, &Block)) -> Result<(), Error> {
        bpf::visit_all::<[u8; 16], Block>(self.descriptor(ADDRESSES)?, |address, block| {
            each(&IpNet::from(IpAddr::from(Address::v6(*address))), block);
        })
        .map_err(|source| Error::Table { table: ADDRESSES, source })
    }

    /// The blocks of prefixes, in no order.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn block_prefixes(&self) -> Result<Vec<(IpNet, Block)>, Error> {
        self.prefixes_with()
    }

    /// All blocks, in no order.
    ///
    /// # Errors
    /// When the tables cannot be read.
    pub fn blocks(&self) -> Result<Vec<(IpNet, Block)>, Error> {
        Ok([self.block_addresses()?, self.block_prefixes()?].concat())
    }

    /// The same of a set of maps that may be of an older build, whose ends were nanoseconds.
    pub(super) fn blocks_of_any_build(&self) -> Result<Vec<(IpNet, Block)>, Error> {
        let failed = |source| Error::Table { table: ADDRESSES, source };
        if bpf::value_size(self.descriptor(ADDRESSES)?).map_err(failed)? != size_of::<OldBlock>() {
            return self.blocks();
        }
        let old = [self.addresses_with::<OldBlock>()?, self.prefixes_with()?].concat();
        Ok(old.into_iter().map(|(net, block)| (net, of_old(block))).collect())
    }

    fn addresses_with<V: Pod>(&self) -> Result<Vec<(IpNet, V)>, Error> {
        let addresses = bpf::read_all::<[u8; 16], V>(self.descriptor(ADDRESSES)?)
            .map_err(|source| Error::Table { table: ADDRESSES, source })?;
        let net = |address| IpNet::from(IpAddr::from(Address::v6(address)));
        Ok(addresses.into_iter().map(|(address, block)| (net(address), block)).collect())
    }

    fn prefixes_with<V: Pod>(&self) -> Result<Vec<(IpNet, V)>, Error> {
        let prefixes = bpf::read_all::<Key<[u8; 16]>, V>(self.descriptor(PREFIXES)?)
            .map_err(|source| Error::Table { table: PREFIXES, source })?;
        Ok(prefixes.into_iter().filter_map(|(key, block)| Some((net_of(&key)?, block))).collect())
    }

    /// Says how many blocks concern the whole host: while there are none, traffic to other ports is not looked up.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_host_blocks(&mut self, count: u64) -> Result<(), Error> {
        self.change_state(|state| state.host_blocks = count)
    }

    /// How many that is.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn host_blocks(&self) -> Result<u64, Error> {
        Ok(self.state()?.host_blocks)
    }
}

fn is_address(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

fn prefix_key(net: &IpNet) -> Key<[u8; 16]> {
    let length = match net {
        IpNet::V4(net) => net.prefix_len() + MAPPED_BITS,
        IpNet::V6(net) => net.prefix_len(),
    };
    Key::new(u32::from(length), Address::from(net.network()).to_bytes())
}

fn net_of(key: &Key<[u8; 16]>) -> Option<IpNet> {
    let length = u8::try_from(key.prefix_len()).ok()?;
    let address = IpAddr::from(Address::v6(key.data()));
    let length = if address.is_ipv4() { length.checked_sub(MAPPED_BITS)? } else { length };
    IpNet::new(address, length).ok()
}
