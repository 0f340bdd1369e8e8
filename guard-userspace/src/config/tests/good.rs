//! Policies that are right.
