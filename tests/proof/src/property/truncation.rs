//! Frames that end early.

use guard_common::{Packet, Reason};

use crate::moment::Moment;

/// What was dropped is dropped for the same reason when less of it arrives, or it is malformed; but a shorter packet may be within
/// the limit of bytes, or the bound of fragments, that the whole was over.
pub fn truncation_never_turns_a_drop_into_an_allowed(moment: &Moment<'_>) {
    let whole = moment.seen.verdict.reason;
    if !whole.drops() || matches!(whole, Reason::ByteRate | Reason::FragmentRate) {
        return;
    }
    let mut judge = moment.instead();
    for end in ends(moment.frame) {
        let cut = judge(&Beginning { bytes: &moment.frame[..end], length: end });
        let reason = cut.verdict.reason;
        assert!([whole, Reason::Malformed].contains(&reason), "{end} bytes of it: {cut:?}\n{moment}");
    }
}

/// A frame in several buffers offers the first one to read, and counts with all its bytes.
pub fn a_first_buffer_that_ends_early_is_judged_alike_or_malformed(moment: &Moment<'_>) {
    let mut judge = moment.instead();
    for end in ends(moment.frame) {
        let cut = judge(&Beginning { bytes: &moment.frame[..end], length: moment.frame.len() });
        let alike = cut.verdict == moment.seen.verdict && cut.meters == moment.seen.meters;
        assert!(
            alike || cut.verdict.reason == Reason::Malformed,
            "{end} bytes in the first: {cut:?}\n{moment}"
        );
    }
}

/// Each place in the headers of most frames, some further behind.
fn ends(frame: &[u8]) -> impl Iterator<Item = usize> + use<> {
    const EACH: usize = 96;
    let length = frame.len();
    (0..length.min(EACH)).chain((EACH..length).step_by(61)).chain(length.checked_sub(1))
}

/// The bytes that can be read of a packet, and its length.
struct Beginning<'a> {
    bytes: &'a [u8],
    length: usize,
}

impl Packet for Beginning<'_> {
    fn length(&self) -> usize {
        self.length
    }

    fn first_buffer(&self) -> usize {
        self.bytes.len()
    }

    fn copy<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.copy(offset)
    }
}
