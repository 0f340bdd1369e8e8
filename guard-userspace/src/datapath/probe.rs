//! Single frames through the program that the kernel runs, and what the kernel says of the program.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use aya::programs::{TestRun, TestRunOptions, TestRunResult, Xdp};
use guard_common::Action;

use super::load::{IP_PACKETS, MULTI_BUFFER, SINGLE_BUFFER};
use super::{Datapath, Error};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// What the verifier and the compiler made of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramSize {
    pub name: &'static str,
    /// Instructions that the verifier walked through, over all paths.
    pub verified: u32,
    /// Instructions of the program, as the kernel has translated them.
    pub translated: u32,
    /// Bytes of machine code.
    pub machine_code: u32,
    /// Bytes of stack, of the 512 that there are.
    pub stack: u32,
}

/// A program in the kernel.
#[derive(Clone, Copy, Debug)]
pub struct LoadedProgram<'a> {
    pub descriptor: BorrowedFd<'a>,
    /// Whether it takes frames in several buffers.
    pub multi_buffer: bool,
}

impl Datapath {
    /// Runs the program on one frame (`BPF_PROG_TEST_RUN`). A `would_drop` is a pass to the kernel.
    ///
    /// # Errors
    /// When the kernel does not run it: a frame is at least 14 bytes long, and at most one page less some room.
    pub fn run_frame(&self, frame: &[u8]) -> Result<Action, Error> {
        action(self.run(frame, 1)?.return_value)
    }

    /// Runs the program for devices without an Ethernet header on one IP packet.
    ///
    /// # Errors
    /// As [`run_frame`](Self::run_frame).
    pub fn run_ip_packet(&mut self, packet: &[u8]) -> Result<Action, Error> {
        let options = TestRunOptions { data_in: Some(packet), repeat: 1, ..Default::default() };
        action(self.load_program(IP_PACKETS)?.test_run(options)?.return_value)
    }

    /// Runs the program on one frame many times over and returns how long one run took in the mean, by the kernel's clock.
    ///
    /// # Errors
    /// As [`run_frame`](Self::run_frame).
    pub fn time_frame(&self, frame: &[u8], runs: u32) -> Result<Duration, Error> {
        Ok(self.run(frame, runs)?.duration)
    }

    /// The program itself, for a test that calls it from another one.
    ///
    /// # Errors
    /// When it is not loaded.
    pub fn program(&self) -> Result<LoadedProgram<'_>, Error> {
        let name = self.main_program();
        let program: &Xdp = self.ebpf.program(name).ok_or(Error::NoProgram(name))?.try_into()?;
        Ok(LoadedProgram { descriptor: program.fd()?.as_fd(), multi_buffer: self.multi_buffer })
    }

    fn run(&self, frame: &[u8], runs: u32) -> Result<TestRunResult, Error> {
        let name = self.main_program();
        let program: &Xdp = self.ebpf.program(name).ok_or(Error::NoProgram(name))?.try_into()?;
        let options = TestRunOptions { data_in: Some(frame), repeat: runs, ..Default::default() };
        Ok(program.test_run(options)?)
    }

    /// The size of each program that this kernel takes.
    ///
    /// # Errors
    /// When one does not load.
    pub fn sizes(&mut self) -> Result<Vec<ProgramSize>, Error> {
        let mut names = vec![SINGLE_BUFFER, IP_PACKETS];
        names.extend(self.multi_buffer.then_some(MULTI_BUFFER));
        names.into_iter().map(|name| self.size_of(name)).collect()
    }

    fn size_of(&mut self, name: &'static str) -> Result<ProgramSize, Error> {
        let info = self.load_program(name)?.info()?;
        Ok(ProgramSize {
            name,
            verified: info.verified_instruction_count().unwrap_or(0),
            translated: info.size_translated().unwrap_or(0) / 8,
            machine_code: info.size_jitted(),
            stack: super::load::stack_depth(name)?,
        })
    }
}

fn action(returned: u32) -> Result<Action, Error> {
    match returned {
        XDP_PASS => Ok(Action::Pass),
        XDP_DROP => Ok(Action::Drop),
        other => Err(Error::Load(format!("the program returned {other}, which is neither pass nor drop"))),
    }
}
