//! What sources send, while somebody wants to know.

/// What a source has sent to a service since its entry was made. The table forgets sources, so an entry may begin anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Traffic {
    /// Those that passed and those that did not.
    pub packets: u64,
    /// Of whole frames.
    pub bytes: u64,
    /// Packets that ask for a new TCP connection.
    pub openings: u64,
    /// Packets that were dropped, or would be where the service only monitors.
    pub dropped: u64,
}
