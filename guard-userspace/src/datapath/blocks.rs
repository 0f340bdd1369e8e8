//! Blocks in the kernel: exact addresses in a hash, prefixes in a trie.

use std::net::IpAddr;

use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, MapData, MapError};
use guard_common::Address;
use guard_common::abi::Block;
use ipnet::IpNet;

use super::{Error, Maps, bpf};

const ADDRESSES: &str = "BLOCKS";
const PREFIXES: &str = "BLOCK_PREFIXES";
/// IPv4 lies in mapped form: its prefixes are longer by this many bits.
const MAPPED_BITS: u8 = 96;

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
        bpf::update_all(self.descriptor(ADDRESSES)?, &keys, &values)
            .map_err(|error| self.not_written(ADDRESSES, error))?;
        let (keys, values): (Vec<Key<[u8; 16]>>, Vec<Block>) =
            prefixes.into_iter().map(|(net, block)| (prefix_key(&net), block)).unzip();
        bpf::update_all(self.descriptor(PREFIXES)?, &keys, &values)
            .map_err(|error| self.not_written(PREFIXES, error))
    }

    /// Removes a block. Returns whether there was one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_block(&mut self, net: &IpNet) -> Result<bool, Error> {
        let removed = if is_address(net) {
            let mut addresses = HashMap::<_, [u8; 16], Block>::try_from(self.get_mut(ADDRESSES)?)?;
            addresses.remove(&Address::from(net.addr()).to_bytes())
        } else {
            let mut prefixes = LpmTrie::<_, [u8; 16], Block>::try_from(self.get_mut(PREFIXES)?)?;
            prefixes.remove(&prefix_key(net))
        };
        match removed {
            Ok(()) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
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

    /// The blocks of prefixes, in no order.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn block_prefixes(&self) -> Result<Vec<(IpNet, Block)>, Error> {
        let prefixes = bpf::read_all::<Key<[u8; 16]>, Block>(self.descriptor(PREFIXES)?)
            .map_err(|source| Error::Table { table: PREFIXES, source })?;
        Ok(prefixes.into_iter().filter_map(|(key, block)| Some((net_of(&key)?, block))).collect())
    }

    /// All blocks, in no order.
    ///
    /// # Errors
    /// When the tables cannot be read.
    pub fn blocks(&self) -> Result<Vec<(IpNet, Block)>, Error> {
        let addresses = bpf::read_all::<[u8; 16], Block>(self.descriptor(ADDRESSES)?)
            .map_err(|source| Error::Table { table: ADDRESSES, source })?;
        let addresses =
            addresses.into_iter().map(|(address, block)| (IpAddr::from(Address::v6(address)).into(), block));
        Ok(addresses.chain(self.block_prefixes()?).collect())
    }

    /// Says how many blocks concern the whole host: while there are none, traffic to other ports is not looked up.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_host_blocks(&mut self, count: u64) -> Result<(), Error> {
        Ok(self.array_mut::<u64>("HOST_BLOCKS")?.set(0, count, 0)?)
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
