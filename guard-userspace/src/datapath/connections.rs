//! The connections that the kernel counts, and corrections of the count.

use std::net::IpAddr;

use aya::maps::{HashMap, MapData};
use aya::programs::{TestRun, TestRunOptions};
use guard_common::abi::{Correction, OpenCount, ServiceId, SourceKey, Tracked};
use guard_common::{Address, Tables, track};
use ipnet::IpNet;

use super::live::Live;
use super::{Datapath, Error, Maps, boot_now, bpf};

const COUNTS: &str = "CONNECTIONS";
const SOCKETS: &str = "SOCKETS";
const CORRECTOR: &str = "guard_correct";
const XDP_PASS: u32 = 2;

impl Maps {
    /// How many connections each source has open. Sources that have none any longer may be among them.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn connections(&self) -> Result<Vec<(SourceKey, u64)>, Error> {
        Ok(self.open_counts()?.into_iter().map(|(source, count)| (source, count.open())).collect())
    }

    /// The same, as the kernel counts them.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn open_counts(&self) -> Result<Vec<(SourceKey, OpenCount)>, Error> {
        let failed = |source| Error::Table { table: COUNTS, source };
        bpf::read_all(self.descriptor(COUNTS)?).map_err(failed)
    }

    /// How many connections one source has open.
    pub fn connections_of(&self, source: &SourceKey) -> u64 {
        Live(self).connections(source)
    }

    /// The connections that are counted, by the cookies of their sockets.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn tracked(&self) -> Result<Vec<(u64, Tracked)>, Error> {
        let failed = |source| Error::Table { table: SOCKETS, source };
        bpf::read_all(self.descriptor(SOCKETS)?).map_err(failed)
    }

    /// One of them, if it is still there.
    pub fn tracked_by(&self, cookie: u64) -> Option<Tracked> {
        let sockets = HashMap::<&MapData, u64, Tracked>::try_from(self.get(SOCKETS).ok()?).ok()?;
        sockets.get(&cookie, 0).ok()
    }

    /// How many connections a client may have at a service; 0: as many as it likes.
    pub fn most_connections(&self, service: ServiceId, client: Address) -> u64 {
        let live = Live(self);
        track::most(&live, live.epoch().live(boot_now), service, client)
    }

    /// Says how many connections sources have open, over what was said of them before: for tests of the limit alone.
    ///
    /// # Errors
    /// When the table is full; what was written before that stays.
    pub fn write_connections(&mut self, open: &[(SourceKey, u64)]) -> Result<(), Error> {
        let counts =
            open.iter().map(|(_, open)| OpenCount::new(u32::try_from(*open).unwrap_or(i32::MAX as u32)));
        let counts: Vec<_> = counts.collect();
        let sources: Vec<_> = open.iter().map(|(source, _)| *source).collect();
        bpf::update_all(self.descriptor(COUNTS)?, &sources, &counts)
            .map_err(|error| self.not_written(COUNTS, error))
    }

    /// Removes a source from the table. Returns how many connections were counted there at that moment; none if it was not there.
    fn remove_source(&self, source: &SourceKey) -> Result<Option<OpenCount>, Error> {
        let failed = |source| Error::Table { table: COUNTS, source };
        bpf::take(self.descriptor(COUNTS)?, source).map_err(failed)
    }
}

impl Maps {
    /// Tells whether a socket, by its cookie, is of a connection that came through the guard.
    pub fn came_through(&self) -> impl Fn(u64) -> bool {
        let sockets =
            self.get(SOCKETS).and_then(|sockets| Ok(HashMap::<&MapData, u64, Tracked>::try_from(sockets)?));
        let sockets = sockets.ok();
        move |cookie| sockets.as_ref().is_some_and(|sockets| sockets.get(&cookie, 0).is_ok())
    }

    /// For how many connections, and for how many sources that have some, the tables are made.
    ///
    /// # Errors
    /// When the tables cannot be read.
    pub fn room_for_connections(&self) -> Result<(u32, u32), Error> {
        Ok((self.capacity(SOCKETS)?, self.capacity(COUNTS)?))
    }

    /// What a connection of `client` to `port` (as the client asked for it) is counted under; none if the port is not guarded.
    pub fn source_of(&self, client: IpAddr, port: u16) -> Option<SourceKey> {
        track::source(&Live(self), client.into(), port, boot_now)
    }

    /// The prefix that a source is.
    pub fn source_net(&self, source: &SourceKey) -> IpNet {
        let address = IpAddr::from(source.address());
        let service = self.live().ok().and_then(|live| Live(self).service(live.slot, source.service()));
        let length = service.map(|service| match address {
            IpAddr::V4(_) => u32::from_be_bytes(service.ipv4_mask()).count_ones(),
            IpAddr::V6(_) => u128::from_be_bytes(service.ipv6_mask()).count_ones(),
        });
        // A service that is gone tells no length; its sources are shown as the addresses that they begin with.
        let net = length.and_then(|length| IpNet::new(address, u8::try_from(length).ok()?).ok());
        net.unwrap_or_else(|| address.into())
    }
}

impl Datapath {
    /// Corrects what is counted. The program of the kernel does it, so that it goes together with what happens meanwhile.
    ///
    /// # Errors
    /// When the kernel does not run it.
    pub fn correct(&mut self, correction: &Correction) -> Result<(), Error> {
        let frame = correction.encode();
        let options = TestRunOptions { data_in: Some(&frame), ..Default::default() };
        match self.load_program(CORRECTOR)?.test_run(options)?.return_value {
            XDP_PASS => Ok(()),
            other => Err(Error::Load(format!("{CORRECTOR} returned {other}"))),
        }
    }

    /// Makes room: removes a source that has no connection. One that has got one meanwhile stays counted.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub fn forget_source(&mut self, source: SourceKey) -> Result<(), Error> {
        match self.maps.remove_source(&source)?.map(OpenCount::open) {
            None | Some(0) => Ok(()),
            Some(amount) => self.correct(&Correction::Add { source, amount }),
        }
    }
}
