//! `decide` is total.

use guard_common::{Packet, Verdict};

use crate::moment::Moment;

/// No panic, and one verdict, of those that exist, for one service that exists; counted once, with all its bytes.
pub fn every_frame_gets_one_possible_verdict(moment: &Moment<'_>) {
    let mut memory = moment.world.memory();
    memory.set_meters(&moment.meters);
    memory.set_fragments(&moment.fragments);
    let verdict = memory.judge(moment.frame, moment.now, &mut ());
    assert_eq!(verdict, moment.seen.verdict, "being watched changes the verdict\n{moment}");
    assert!(Verdict::possible(verdict.service).any(|possible| possible == verdict), "{moment}");
    let exists = verdict.service.get() == 0 || moment.world.service(verdict.service).is_some();
    assert!(exists, "there is no such service\n{moment}");
    let counted: Vec<_> = memory.counters().values().collect();
    let [(counted, counter)] = counted.as_slice() else { panic!("counted {counted:?}\n{moment}") };
    let length = moment.frame.length() as u64;
    assert_eq!((*counted, counter.packets, counter.bytes), (verdict, 1, length), "{moment}");
}
