//! The little of bpf(2) that measurements need beside guard: bare maps and programs of a few instructions.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`instruction`] | instructions by their names |
//! | [`generator`] | a program that sends frames |
//! | [`paced`] | one that sends them at a pace |
//! | [`random_sources`] | a program that gives each packet another source address before it hands it on |
//! | [`known_work`] | a program of known work, to hold others against |

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper")]

pub mod generator;
pub mod instruction;
pub mod known_work;
pub mod paced;
pub mod random_sources;

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

const CREATE: libc::c_int = 0;
const LOOK_UP: libc::c_int = 1;
const PIN: libc::c_int = 6;
const UPDATE: libc::c_int = 2;
const LOAD: libc::c_int = 5;
const DESCRIPTOR_OF_PROGRAM: libc::c_int = 13;
const TEST_RUN: libc::c_int = 10;
const UPDATE_BATCH: libc::c_int = 26;
const LINK: libc::c_int = 28;

const XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const MULTI_BUFFER: u32 = 1 << 5;
/// XDP_FLAGS_DRV_MODE: in the driver.
const NATIVE: u32 = 1 << 2;
const LIVE_FRAMES: u32 = 1 << 1;

pub const HASH: u32 = 1;
pub const ARRAY: u32 = 2;
pub const PROGRAMS: u32 = 3;
pub const TRIE: u32 = 11;
/// Elements are allocated when they are written, not when the map is made.
pub const NO_PREALLOC: u32 = 1;

/// The shape of a map.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Shape {
    pub kind: u32,
    pub key: u32,
    pub value: u32,
    pub entries: u32,
    pub flags: u32,
}

/// A map, gone with this value.
pub struct Map(OwnedFd);

impl Map {
    /// # Errors
    /// When the kernel does not make it.
    pub fn new(shape: Shape) -> Result<Self> {
        let mut attributes = shape;
        let descriptor = call(CREATE, &mut attributes).with_context(|| format!("cannot make {shape:?}"))?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Writes all pairs, in one batch.
    ///
    /// # Errors
    /// When the kernel does not take all of them.
    pub fn write_all<const K: usize, const V: usize>(
        &self,
        keys: &[[u8; K]],
        values: &[[u8; V]],
    ) -> Result<()> {
        let mut attributes = Batch {
            batches: [0; 2],
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: u32::try_from(keys.len().min(values.len())).context("too many entries")?,
            map: self.0.as_raw_fd().cast_unsigned(),
            flags: [0; 2],
        };
        call(UPDATE_BATCH, &mut attributes).context("cannot write a batch").map(drop)
    }

    /// Pins it. The file is the caller's to remove.
    ///
    /// # Errors
    /// When there is something, or no file system of BPF.
    pub fn pin(&self, path: &Path) -> Result<()> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        let mut attributes = [name.as_ptr() as u64, u64::from(self.0.as_raw_fd().cast_unsigned())];
        call(PIN, &mut attributes).with_context(|| format!("cannot pin {}", path.display())).map(drop)
    }

    /// The first value of an array, in words; its size is that of as many.
    fn first<const WORDS: usize>(&self) -> Result<[u64; WORDS]> {
        let (key, mut value) = (0_u32, [0; WORDS]);
        let mut attributes = Element {
            map: u64::from(self.0.as_raw_fd().cast_unsigned()),
            key: std::ptr::from_ref(&key) as u64,
            value: std::ptr::from_mut(&mut value) as u64,
            flags: 0,
        };
        call(LOOK_UP, &mut attributes).context("cannot read from an array")?;
        Ok(value)
    }

    /// Bytes that the kernel accounts for the map.
    ///
    /// # Errors
    /// When it does not say.
    pub fn memory(&self) -> Result<u64> {
        told(self.as_fd(), "memlock:")
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An XDP program.
pub struct Program(OwnedFd);

impl Program {
    /// # Errors
    /// When the verifier refuses it.
    pub fn load(instructions: &[u64], multi_buffer: bool) -> Result<Self> {
        let licence = c"Dual MIT/GPL";
        let mut log = vec![0_u8; 1 << 16];
        let mut attributes = Load {
            kind: XDP,
            count: u32::try_from(instructions.len())?,
            instructions: instructions.as_ptr() as u64,
            licence: licence.as_ptr() as u64,
            log_level: 1,
            log_size: 1 << 16,
            log: log.as_mut_ptr() as u64,
            kernel: 0,
            flags: if multi_buffer { MULTI_BUFFER } else { 0 },
            name: *b"guard_bench\0\0\0\0\0",
            interface: 0,
            attach: ATTACH_XDP,
        };
        let descriptor = call(LOAD, &mut attributes).with_context(|| {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            format!("the verifier refuses: {}", String::from_utf8_lossy(&log[..end]))
        })?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// One that is loaded, by the kernel's number of it.
    ///
    /// # Errors
    /// When there is none, or it is not for XDP.
    pub fn of_number(number: u32) -> Result<Self> {
        let mut attributes = [number, 0, 0];
        let descriptor = call(DESCRIPTOR_OF_PROGRAM, &mut attributes)
            .with_context(|| format!("there is no program {number}"))?;
        // SAFETY: the kernel has just made this descriptor for us.
        let program = Self(unsafe { OwnedFd::from_raw_fd(descriptor) });
        let kind = told(program.as_fd(), "prog_type:")?;
        ensure!(kind == u64::from(XDP), "program {number} is not for XDP");
        Ok(program)
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A number that the kernel tells of a map or a program.
fn told(descriptor: BorrowedFd<'_>, key: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd()))?;
    let number = text.lines().find_map(|line| line.strip_prefix(key));
    number.and_then(|number| number.trim().parse().ok()).context("the kernel does not say")
}

/// Runs a program on a frame. Returns its answer.
///
/// # Errors
/// When the kernel does not run it.
pub fn run(program: BorrowedFd<'_>, frame: &[u8]) -> Result<u32> {
    Ok(test_run(program, frame, 1)?.returned)
}

/// Runs a program on a frame many times over. Returns nanoseconds a run, by the kernel's clock.
///
/// # Errors
/// When the kernel does not run it.
pub fn time(program: BorrowedFd<'_>, frame: &[u8], runs: u32) -> Result<u32> {
    Ok(test_run(program, frame, runs)?.duration)
}

fn test_run(program: BorrowedFd<'_>, frame: &[u8], runs: u32) -> Result<TestRun> {
    let mut attributes = TestRun {
        program: program.as_raw_fd().cast_unsigned(),
        length: u32::try_from(frame.len())?,
        frame: frame.as_ptr() as u64,
        runs,
        ..TestRun::default()
    };
    call(TEST_RUN, &mut attributes).context("the kernel does not run the program")?;
    Ok(attributes)
}

/// Puts a program on an interface of this thread's namespace, in the driver, for as long as what is returned lives.
///
/// # Errors
/// When the kernel refuses.
pub fn attach(program: BorrowedFd<'_>, interface: u32) -> Result<OwnedFd> {
    let program = program.as_raw_fd().cast_unsigned();
    let mut attributes = Link { program, interface, kind: ATTACH_XDP, flags: NATIVE };
    let descriptor = call(LINK, &mut attributes).context("the program cannot be attached")?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Runs a program on real frames, which go where it says.
fn send_live(program: BorrowedFd<'_>, frame: &[u8], interface: u32, count: u32) -> Result<()> {
    let length = u32::try_from(frame.len())?;
    // A `struct xdp_md`: where the frame ends, and where it is said to come from.
    let context = [0, length, 0, interface, 0, 0];
    let mut attributes = TestRun {
        program: program.as_raw_fd().cast_unsigned(),
        length,
        frame: frame.as_ptr() as u64,
        runs: count,
        context_lengths: [size_of_val(&context) as u32, 0],
        contexts: [context.as_ptr() as u64, 0],
        flags: LIVE_FRAMES,
        ..TestRun::default()
    };
    Ok(call(TEST_RUN, &mut attributes).map(drop)?)
}

/// Puts a program into the first place of a map of programs.
fn put(programs: &Map, program: BorrowedFd<'_>) -> Result<()> {
    let (key, value) = (0_u32, program.as_raw_fd().cast_unsigned());
    let mut attributes = Element {
        map: u64::from(programs.0.as_raw_fd().cast_unsigned()),
        key: std::ptr::from_ref(&key) as u64,
        value: std::ptr::from_ref(&value) as u64,
        flags: 0,
    };
    call(UPDATE, &mut attributes).context("a program cannot be called by another").map(drop)
}

/// The parts of `union bpf_attr` in include/uapi/linux/bpf.h, each for its command.
#[repr(C)]
struct Element {
    map: u64,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct Batch {
    batches: [u64; 2],
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    flags: [u64; 2],
}

#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    returned: u32,
    length: u32,
    room: u32,
    frame: u64,
    out: u64,
    runs: u32,
    duration: u32,
    context_lengths: [u32; 2],
    contexts: [u64; 2],
    flags: u32,
    cpu: u32,
    batch: u32,
    padding: u32,
}

#[repr(C)]
struct Link {
    program: u32,
    interface: u32,
    kind: u32,
    flags: u32,
}

fn call<A>(command: libc::c_int, attributes: &mut A) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are of the layout that the command takes, and what they point to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<A>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // A descriptor or 0.
    Ok(result as libc::c_int)
}
