//! Test networks and senders.
