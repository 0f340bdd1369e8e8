//! The XDP program of guard: context, decision, counter, action. What is decided, and why, is in `guard-common`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod fragments;
mod maps;
mod notes;
mod packet;
mod tables;
mod tracker;
mod watch;
mod word;

use aya_ebpf::Global;
use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_ktime_get_ns};
use aya_ebpf::macros::{btf_tracepoint, classifier, xdp};
use aya_ebpf::programs::{BtfTracePointContext, TcContext, XdpContext};
use guard_common::abi::Correction;
use guard_common::packet::WithoutEthernet;
use guard_common::parse::Headers;
use guard_common::{Packet, decide};

use crate::notes::{Outcome, Suspicion};
use crate::packet::Frame;
use crate::tables::Maps;
use crate::tracker::Socket;

/// A stretch of time in which a CPU looks into a number of drops is 2^5 jiffies: 32 to 320 ms. The kernel tells jiffies at the cost of a
/// load, unlike the time.
const STRETCH: u32 = 5;

/// Set by tests that compare this program with the host's build of the decision; 0 reads the clock.
#[unsafe(no_mangle)]
static FIXED_TIME: Global<u64> = Global::new(0);

/// 0 leaves out all that is noted of drops: for the test of what that costs. The verifier takes away what is never reached.
#[unsafe(no_mangle)]
static NOTES: Global<u8> = Global::new(1);

/// For devices whose frames may lie in several buffers (MTU above about 3,500); Linux 5.18.
#[xdp(frags)]
pub fn guard_frags(ctx: XdpContext) -> u32 {
    judge(&Frame::<true>::new(&ctx), &ctx)
}

/// For older kernels and devices that take no frames in several buffers.
#[xdp]
pub fn guard(ctx: XdpContext) -> u32 {
    judge(&Frame::<false>::new(&ctx), &ctx)
}

/// For devices that hand over IP packets without an Ethernet header. They show a program one buffer, in generic mode alone.
#[xdp]
pub fn guard_ip(ctx: XdpContext) -> u32 {
    judge(&WithoutEthernet(Frame::<false>::new(&ctx)), &ctx)
}

#[inline(always)]
fn judge(frame: &impl Packet, ctx: &XdpContext) -> u32 {
    let mut headers = Headers::default();
    let mut suspicion = Suspicion::default();
    let verdict = decide(frame, &mut headers, &Maps, now, &mut suspicion);
    // From here on the verifier knows nothing of the verdict, so it walks through what follows once, and not once for each.
    let outcome = Outcome::new(verdict, &suspicion, headers.part);
    if outcome.is_fragment() {
        return fragments::finish(ctx.ctx, &headers, outcome);
    }
    maps::count(verdict.counter(), headers.length.into());
    if let Some(weight) = weight(outcome) {
        notes::note(&headers, outcome.with_weight(weight));
        return watch::finish(ctx.ctx);
    }
    if outcome.has_passed() { XDP_PASS } else { XDP_DROP }
}

/// For how many packets one stands in what is noted; none if it is not noted.
#[inline(always)]
fn weight(outcome: Outcome) -> Option<u32> {
    if NOTES.load() == 0 {
        return None;
    }
    let (weight, is_wanted) = if outcome.is_drop() {
        // SAFETY: the helper takes nothing and has no effect.
        let (weight, is_watched) = maps::weight(unsafe { bpf_jiffies64() } >> STRETCH);
        (weight, weight != 0 || is_watched)
    } else {
        (1, outcome.is_guarded() && maps::may_count_traffic())
    };
    (is_wanted || outcome.is_suspected()).then_some(weight)
}

/// Drops everything, while the agent moves the program from one device to another.
#[classifier]
pub fn guard_shut(_: TcContext) -> i32 {
    TC_ACT_SHOT
}

/// Counts the connections of clients, in every network namespace. What it sees twice counts once.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn guard_connections(ctx: BtfTracePointContext) -> i32 {
    changed(&ctx)
}

/// The same. A packet may end a connection while this CPU is in the program above for another, and the kernel runs no program inside of
/// itself; it runs this one.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn guard_connections_nested(ctx: BtfTracePointContext) -> i32 {
    changed(&ctx)
}

#[inline(always)]
fn changed(ctx: &BtfTracePointContext) -> i32 {
    // SAFETY: the first argument of this tracepoint is the socket.
    let socket = unsafe { Socket::new(ctx.arg(0)) };
    tracker::changed(socket, ctx.arg(1), ctx.arg(2));
    0
}

/// Runs only when the agent asks (`BPF_PROG_TEST_RUN`): what is counted is changed here alone.
#[xdp]
pub fn guard_correct(ctx: XdpContext) -> u32 {
    match Correction::decode(&Frame::<false>::new(&ctx)) {
        Some(correction) => {
            tracker::correct(correction);
            XDP_PASS
        }
        None => XDP_ABORTED,
    }
}

/// The clock that goes on while the machine is suspended: blocks and deadlines end on time.
#[inline(always)]
fn now() -> u64 {
    match FIXED_TIME.load() {
        // SAFETY: the helper takes nothing and has no effect.
        0 => unsafe { bpf_ktime_get_boot_ns() },
        fixed => fixed,
    }
}

/// The clock of the limiter; see [`guard_common::Tables::limiter_now`].
#[inline(always)]
fn limiter_now() -> u64 {
    match FIXED_TIME.load() {
        // SAFETY: the helper takes nothing and has no effect.
        0 => unsafe { bpf_ktime_get_ns() },
        fixed => fixed,
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // A panic that can be reached becomes an endless loop, which the verifier refuses at load.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
