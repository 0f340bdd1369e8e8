//! The XDP program of guard: context, decision, counter, action. What is decided, and why, is in `guard-common`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod maps;
mod packet;
mod tables;
mod word;

use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_xdp_get_buff_len};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use guard_common::{Action, Packet, decide};

use crate::packet::Frame;
use crate::tables::Maps;

/// Set by tests that compare this program with the host's build of the decision; 0 reads the clock.
#[unsafe(no_mangle)]
static FIXED_TIME: Global<u64> = Global::new(0);

/// For devices whose frames may lie in several buffers (MTU above about 3,500); Linux 5.18.
#[xdp(frags)]
pub fn guard_frags(ctx: XdpContext) -> u32 {
    // SAFETY: the helper only reads the context that the kernel gave to this program.
    let length = unsafe { bpf_xdp_get_buff_len(ctx.ctx) };
    judge(&ctx, length as usize)
}

/// For older kernels and devices that take no frames in several buffers.
#[xdp]
pub fn guard(ctx: XdpContext) -> u32 {
    let length = ctx.data_end() - ctx.data();
    judge(&ctx, length)
}

#[inline(always)]
fn judge(ctx: &XdpContext, length: usize) -> u32 {
    let frame = Frame::new(ctx, length);
    let verdict = decide(&frame, &Maps, now, &mut ());
    maps::count(verdict, frame.length());
    match verdict.action {
        Action::Pass | Action::WouldDrop => XDP_PASS,
        Action::Drop => {
            debug!(
                ctx,
                "drop: {} of service {}, {} bytes",
                verdict.reason.name(),
                verdict.service.get(),
                length
            );
            XDP_DROP
        }
    }
}

#[inline(always)]
fn now() -> u64 {
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
