//! Showing drops to somebody who watches.

use core::ptr::addr_of_mut;

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_log_ebpf::info;
use guard_common::abi::{Allowance, Captured, SHOWN, Sample, Watch};
use guard_common::gcra::Word;

use crate::maps::{CAPTURES, Shown, WATCH, allowance, kept, watch_word};
use crate::now;
use crate::packet::{hold, u64_at};
use crate::word::{MapWord, forget};

const WORD: usize = size_of::<u64>();

/// What becomes of the packet that was kept last; a drop is shown, if somebody wants it. This takes nothing that differs from path to path, so
/// the verifier walks through it once.
#[inline(never)]
pub fn finish(ctx: *mut xdp_md) -> xdp_action::Type {
    let Some(packet) = kept() else { return xdp_action::XDP_DROP };
    if packet.reason().is_some_and(|reason| reason.drops())
        && let Some(watch) = WATCH.get_ptr_mut(0)
    {
        show(ctx, watch, packet);
    }
    if packet.passed == 0 { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

#[inline(always)]
fn show(ctx: *mut xdp_md, watch: *mut Watch, drop: &Sample) {
    let word = watch_word();
    if word == 0 {
        return;
    }
    let now = now();
    if Watch::is_over(word, now) {
        // Nobody writes it anew: the agent is dead, and from the next packet on this costs nothing.
        // SAFETY: the value was just looked up; its word is aligned.
        let _ = unsafe { MapWord::new(addr_of_mut!((*watch).word)) }.compare_exchange(word, 0);
        return;
    }
    // SAFETY: the agent may be writing another wish. Then a frame may be shown that nobody wants, and the agent leaves it out.
    if unsafe { &*watch }.wants(word, drop)
        && let Some(allowance) = allowance(Shown::Frame)
        && allowance.spend(now, Allowance::FRAMES)
        && !show_frame(ctx, drop)
    {
        allowance.lost += 1;
    }
    if Watch::logs(word)
        && let Some(allowance) = allowance(Shown::Line)
        && allowance.spend(now, Allowance::LINES)
    {
        log(ctx, drop);
    }
}

/// Returns false if there is no room.
#[inline(always)]
fn show_frame(ctx: *mut xdp_md, drop: &Sample) -> bool {
    let Some(mut entry) = CAPTURES.reserve(0) else { return false };
    let captured: *mut Captured = entry.as_mut_ptr();
    // SAFETY: the entry has room for all of it, as the verifier checks again at load.
    unsafe {
        let at = now();
        addr_of_mut!((*captured).drop).write(Sample { at, packets: 1, ..*drop });
        addr_of_mut!((*captured).interface).write((*ctx).ingress_ifindex);
        let shown = copy(ctx, addr_of_mut!((*captured).bytes).cast());
        addr_of_mut!((*captured).shown).write(shown as u32);
    }
    entry.submit(0);
    true
}

/// Copies the beginning of the frame, of its first buffer if it has several, and returns how much that is.
///
/// # Safety
/// There is room for [`SHOWN`] bytes at `to`.
#[inline(always)]
unsafe fn copy(ctx: *mut xdp_md, to: *mut u8) -> usize {
    // SAFETY: the kernel gave this context to the program.
    let (start, end) = unsafe { ((*ctx).data as usize, (*ctx).data_end as usize) };
    let shown = forget((end - start).min(SHOWN) as u64) as usize;
    let mut copied = 0;
    while copied + WORD <= SHOWN && start + copied + WORD <= end {
        // SAFETY: both lie within the frame and the room.
        unsafe { to.add(copied).cast::<u64>().write_unaligned(u64_at(start + copied)) };
        copied += WORD;
    }
    // The last word, part of which is there already.
    let last = shown.wrapping_sub(WORD);
    if last <= SHOWN - WORD {
        let from = hold(start + last);
        if from + WORD <= end {
            // SAFETY: as before.
            unsafe { to.add(last).cast::<u64>().write_unaligned(u64_at(from)) };
        }
    }
    shown
}

/// A line of numbers, which the agent gives names to: each name that could be in it would be a path of its own for the verifier.
#[inline(never)]
fn log(ctx: *mut xdp_md, drop: &Sample) {
    info!(
        ctx,
        "{} {} {} {} {:i} {} {} {}",
        drop.reason,
        drop.service,
        drop.passed,
        drop.protocol,
        drop.source,
        drop.source_port,
        drop.port,
        drop.length,
    );
}
