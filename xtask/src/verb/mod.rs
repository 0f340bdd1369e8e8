//! One file per verb.

pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod demo;
pub(crate) mod deny;
pub(crate) mod fuzz;
pub(crate) mod mutants;
pub(crate) mod screens;
pub(crate) mod test;
pub(crate) mod verify;
pub(crate) mod vm;
