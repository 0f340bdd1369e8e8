//! Loading the object, or taking over what is pinned.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as StdError;
use std::os::fd::OwnedFd;

use aya::maps::{MapData, MapError, MapInfo};
use aya::programs::links::FdLink;
use aya::programs::{Program, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use guard_common::abi;

use super::maps::{Maps, NAMES};
use super::pins::{Alone, MapSet, Pins, is_there};
use super::repair::HeldLink;
use super::succession::{self, Succession};
use super::{Error, host, stack};

/// The compiled program, aligned as an ELF file must be.
#[repr(align(8))]
struct Aligned<T: ?Sized>(T);
static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/guard.o")));

/// The program for frames in several buffers, the one for frames in one, and the one for IP packets without an Ethernet header.
pub(super) const MULTI_BUFFER: &str = "guard_frags";
pub(super) const SINGLE_BUFFER: &str = "guard";
pub(super) const IP_PACKETS: &str = "guard_ip";

/// How much room the tables have. They are made once, and kept by what is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Blocked addresses, and as many blocked prefixes.
    pub blocks: u32,
    /// Sources whose rates are tracked.
    pub sources: u32,
    /// Open connections, and sources that have some.
    pub connections: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self { blocks: 1 << 20, sources: 1 << 18, connections: 1 << 17 }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub capacities: Capacities,
    /// Where to pin; without, all of it ends with the process.
    pub pins: Option<Pins>,
    /// Stops the program's clock at this many nanoseconds: for tests that compare it with the host's build.
    pub fixed_time: Option<u64>,
    /// Leaves out what is noted of packets (samples, evidence, captures, traffic of sources): for the test of what that costs.
    pub without_notes: bool,
}

/// The program and its maps, loaded.
pub struct Datapath {
    pub(super) ebpf: Ebpf,
    pub(super) maps: Maps,
    pub(super) pins: Option<Pins>,
    /// Held as long as the pins are this process' to change.
    _alone: Option<Alone>,
    /// Where the maps are pinned.
    pub(super) set: Option<MapSet>,
    /// Whether that set has all that it needs, so that the next start may use it.
    pub(super) complete: bool,
    pub(super) succession: Option<Succession>,
    /// Older sets whose counters are taken over, by their names.
    pub(super) carried: BTreeSet<String>,
    /// Which of the two programs this kernel takes.
    pub(super) multi_buffer: bool,
    /// The pinned links, by the index of their interface.
    pub(super) links: BTreeMap<u32, HeldLink>,
    /// Links that end with this process.
    pub(super) unpinned: Vec<OwnedFd>,
    pub(super) unpinned_trackers: Vec<FdLink>,
    /// The pinned links of the programs that count connections, held open too.
    pub(super) trackers: BTreeMap<&'static str, OwnedFd>,
}

impl Datapath {
    /// Loads the program into the kernel. Pinned maps of this build's shape are taken over; from others a new set is filled, see
    /// [`complete`](Self::complete) and [`retire`](Self::retire).
    ///
    /// # Errors
    /// When the kernel or the privileges do not suffice, or when the kernel refuses the program.
    pub fn open(options: &Options) -> Result<Self, Error> {
        host::check()?;
        let alone =
            options.pins.as_ref().map(|pins| pins.prepare().and_then(|()| pins.alone())).transpose()?;
        options.pins.as_ref().map(super::ownership::claim).transpose()?;
        let choice = options.pins.as_ref().map(|pins| choose_set(pins, &options.capacities)).transpose()?;
        let multi_buffer = host::takes_multi_buffer();
        let mut ebpf = load_object(options, choice.as_ref().map(|choice| &choice.set))?;
        let mut maps = Maps::take(&mut ebpf)?;
        let (set, complete, predecessor) = match choice {
            Some(Choice { set, complete, predecessor }) => (Some(set), complete, predecessor),
            None => (None, true, None),
        };
        let succeed = |(old, why): (MapSet, String)| succession::succeed(&old, why, &mut maps);
        let succession = predecessor.map(succeed).transpose()?;
        let pins = options.pins.clone();
        let (links, unpinned) = (BTreeMap::new(), Vec::new());
        let mut datapath = Self {
            ebpf,
            maps,
            pins,
            _alone: alone,
            set,
            complete,
            succession,
            carried: BTreeSet::new(),
            multi_buffer,
            links,
            unpinned,
            unpinned_trackers: Vec::new(),
            trackers: BTreeMap::new(),
        };
        datapath.load_program(if multi_buffer { MULTI_BUFFER } else { SINGLE_BUFFER })?;
        Ok(datapath)
    }

    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    pub fn maps_mut(&mut self) -> &mut Maps {
        &mut self.maps
    }

    /// The program of this name, loaded if it was not yet.
    pub(super) fn load_program(&mut self, name: &'static str) -> Result<&mut Xdp, Error> {
        let program = self.ebpf.program_mut(name).ok_or(Error::NoProgram(name))?;
        let Program::Xdp(program) = program else { return Err(Error::NoProgram(name)) };
        if program.fd().is_err() {
            program.load().map_err(|error| Error::Load(causes(&error)))?;
        }
        Ok(program)
    }

    pub(super) fn main_program(&self) -> &'static str {
        if self.multi_buffer { MULTI_BUFFER } else { SINGLE_BUFFER }
    }
}

fn load_object(options: &Options, set: Option<&MapSet>) -> Result<Ebpf, Error> {
    let capacities = sizes(&options.capacities);
    let mut loader = EbpfLoader::new();
    for (name, size) in &capacities {
        loader.map_max_entries(name, *size);
    }
    if let Some(set) = set {
        for name in NAMES {
            loader.map_pin_path(name, Cow::Owned(set.map(name)));
        }
    }
    let fixed_time = options.fixed_time.unwrap_or(0);
    loader.override_global("FIXED_TIME", &fixed_time, true);
    let notes = u8::from(!options.without_notes);
    loader.override_global("NOTES", &notes, true);
    loader.load(&OBJECT.0).map_err(|error| not_loaded(&error))
}

fn not_loaded(error: &EbpfError) -> Error {
    if let EbpfError::MapError(MapError::CreateError { io_error, .. }) = error
        && io_error.raw_os_error() == Some(libc::ENOMEM)
    {
        return Error::NoRoom(causes(error));
    }
    Error::Load(causes(error))
}

/// The tables whose size is configured.
fn sizes(capacities: &Capacities) -> [(&'static str, u32); 6] {
    [
        ("BLOCKS", capacities.blocks),
        ("BLOCK_PREFIXES", capacities.blocks),
        ("METERS", capacities.sources),
        ("CONNECTIONS", capacities.connections),
        ("SOCKETS", capacities.connections),
        ("FLOWS", capacities.connections),
    ]
}

/// The stack of a program and of the deepest function that it may call.
pub(super) fn stack_depth(program: &'static str) -> Result<u32, Error> {
    let object = parse_object()?;
    let main = object.programs.get(program).ok_or(Error::NoProgram(program))?.function_key();
    let depth = |key| object.functions.get(key).map_or(0, |function| stack::depth(&function.instructions));
    let others = object
        .functions
        .keys()
        .filter(|key| object.programs.values().all(|program| program.function_key() != **key));
    Ok(depth(&main) + others.map(depth).max().unwrap_or(0))
}

pub(super) fn parse_object() -> Result<aya_obj::Object, Error> {
    aya_obj::Object::parse(&OBJECT.0).map_err(|error| Error::Load(causes(&error)))
}

/// The set of pinned maps to use.
struct Choice {
    set: MapSet,
    complete: bool,
    /// The set in use until now, and why it cannot be used any longer.
    predecessor: Option<(MapSet, String)>,
}

fn choose_set(pins: &Pins, capacities: &Capacities) -> Result<Choice, Error> {
    let predecessor = match pins.current_set()? {
        None => None,
        Some(set) => match misfit(&set, capacities)? {
            None => return Ok(Choice { set, complete: true, predecessor: None }),
            Some(why) => Some((set, why)),
        },
    };
    Ok(Choice { set: pins.begin_set()?, complete: false, predecessor })
}

/// Why a set cannot be used by this build. aya opens a pinned map without a look at it: a map of another shape would be read wrongly.
fn misfit(set: &MapSet, capacities: &Capacities) -> Result<Option<String>, Error> {
    if set.version() != abi::VERSION {
        return Ok(Some(format!(
            "its layout is version {}, and this build's {}",
            set.version(),
            abi::VERSION
        )));
    }
    let object = parse_object()?;
    let sizes = sizes(capacities);
    for name in NAMES {
        let path = set.map(name);
        if !is_there(&path)? {
            return Ok(Some(format!("{name} is missing")));
        }
        let expected = object.maps.get(name).ok_or(Error::NoMap(name))?;
        let found = MapData::from_pin(&path)?.info()?;
        let max_entries =
            sizes.iter().find(|(sized, _)| *sized == name).map_or(expected.max_entries(), |(_, size)| *size);
        if let Some(difference) = difference(&found, expected, max_entries)? {
            return Ok(Some(format!("{name} has {difference}")));
        }
    }
    Ok(None)
}

fn difference(found: &MapInfo, expected: &aya_obj::Map, max_entries: u32) -> Result<Option<String>, Error> {
    let pairs = [
        ("type", found.map_type()? as u32, expected.map_type()),
        ("key size", found.key_size(), expected.key_size()),
        ("value size", found.value_size(), expected.value_size()),
        ("entries", found.max_entries(), max_entries),
    ];
    let differs = pairs.iter().find(|(_, found, expected)| found != expected);
    Ok(differs.map(|(what, found, expected)| format!("{what} {found} instead of {expected}")))
}

/// An error and all that led to it, in one line.
pub(super) fn causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_read_the_clock_that_goes_on_while_the_machine_is_suspended() {
        /// BPF_JMP | BPF_CALL, BPF_FUNC_ktime_get_ns, BPF_FUNC_ktime_get_boot_ns (linux/bpf.h).
        const CALL: u8 = 0x85;
        const MONOTONIC: i32 = 5;
        const BOOT: i32 = 125;
        let object = parse_object().unwrap();
        let callers = |helper| -> Vec<&str> {
            let is_call = |code, source, number| code == CALL && source == 0 && number == helper;
            let calls = |function: &&aya_obj::Function| {
                function.instructions.iter().any(|of| is_call(of.code, of.src_reg(), of.imm))
            };
            object.functions.values().filter(calls).map(|function| function.name.as_str()).collect()
        };
        // The limiter alone goes by the clock that stands still: it is in the programs that judge packets, and where a fragment is charged.
        for name in callers(MONOTONIC) {
            let judges = ["guard", "guard_frags", "guard_ip"].contains(&name) || name.contains("charge");
            assert!(judges, "{name}");
        }
        assert!(!callers(MONOTONIC).is_empty());
        for name in ["guard", "guard_frags", "guard_ip", "names"] {
            assert!(callers(BOOT).iter().any(|caller| caller.contains(name)), "{name}: {:?}", callers(BOOT));
        }
    }
}
