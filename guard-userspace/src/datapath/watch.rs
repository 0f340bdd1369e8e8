//! What somebody wants to see of drops: said to the program, and what it shows.

use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::PerCpuArray;
use aya_log::EbpfLogger;
use guard_common::abi::{Allowance, Sample, Watch};

use super::load::causes;
use super::{Datapath, Error, Maps, bpf};

const TABLE: &str = "WATCH";

/// The allowance for frames; that for lines is the other one.
const FRAMES: u32 = 0;

impl Maps {
    /// What is wanted at this moment.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn watch(&self) -> Result<Watch, Error> {
        Ok(self.array::<Watch>(TABLE)?.get(&0, 0)?)
    }

    /// Says what is wanted from now on.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn set_watch(&self, watch: &Watch) -> Result<(), Error> {
        bpf::update(self.descriptor(TABLE)?, &0_u32, watch)
            .map_err(|source| Error::Table { table: TABLE, source })
    }

    /// Frames that were wanted and not shown, on all CPUs, since the maps were made: past the allowance, and for want of room.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn not_shown(&self) -> Result<(u64, u64), Error> {
        let allowances = PerCpuArray::<_, Allowance>::try_from(self.get("ALLOWANCES")?)?;
        let frames = allowances.get(&FRAMES, 0)?;
        Ok(frames.iter().fold((0, 0), |(skipped, lost), cpu| (skipped + cpu.skipped, lost + cpu.lost)))
    }
}

/// The log of the program in the kernel: drops, a line each. Readable when there is something in it.
pub struct KernelLog {
    logger: EbpfLogger<Lines>,
    lines: Lines,
}

impl Datapath {
    /// What the program logs, while it is asked to.
    ///
    /// # Errors
    /// When it was taken before.
    pub fn kernel_log(&mut self) -> Result<KernelLog, Error> {
        let lines = Lines::default();
        let logger = EbpfLogger::init_with_logger(&mut self.ebpf, lines.clone());
        Ok(KernelLog { logger: logger.map_err(|error| Error::Load(causes(&error)))?, lines })
    }
}

impl KernelLog {
    /// The drops that were logged since the last call, as far as the lines tell.
    pub fn take(&mut self) -> Vec<Sample> {
        self.logger.flush();
        let lines = std::mem::take(&mut *self.lines.lock());
        lines.iter().filter_map(|line| drop_of(line)).collect()
    }
}

impl AsRawFd for KernelLog {
    fn as_raw_fd(&self) -> RawFd {
        self.logger.as_raw_fd()
    }
}

/// Where aya's logger puts what it reads.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.lock().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// The numbers of a line, in the order in which the program writes them; nothing, if a later build wrote it.
fn drop_of(line: &str) -> Option<Sample> {
    let words: Vec<&str> = line.split(' ').collect();
    let [reason, service, passed, protocol, source, source_port, port, length] = words.try_into().ok()?;
    let source: Ipv6Addr = source.parse().ok()?;
    Some(Sample {
        packets: 1,
        reason: reason.parse().ok()?,
        service: service.parse().ok()?,
        passed: passed.parse().ok()?,
        protocol: protocol.parse().ok()?,
        source: source.octets(),
        source_port: source_port.parse().ok()?,
        port: port.parse().ok()?,
        length: length.parse().ok()?,
        ..Sample::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use guard_common::{Address, Reason};

    #[test]
    fn a_line_of_the_kernel_is_a_drop() {
        let drop = drop_of("7 1 0 6 ::ffff:10.1.2.3 40000 8000 74").unwrap();
        assert_eq!(drop.source(), Address::v4([10, 1, 2, 3]));
        assert_eq!((drop.reason(), drop.service, drop.passed), (Some(Reason::Denied), 1, 0));
        assert_eq!((drop.protocol, drop.source_port, drop.port, drop.length), (6, 40_000, 8000, 74));
        let drop = drop_of("12 0 1 0 fd00::1 0 0 60").unwrap();
        assert_eq!((drop.reason(), drop.passed), (Some(Reason::Malformed), 1));
        for nonsense in ["", "7", "7 1 0 6 nobody 1 2 3", "700 1 0 6 ::1 1 2 3", "7 1 0 6 ::1 1 2"] {
            assert_eq!(drop_of(nonsense), None, "{nonsense:?}");
        }
    }
}
