//! Any world, any frames: every property of the decision.
#![no_main]

use guard_proof::case::Case;
use guard_proof::property;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| property::check(&Case::read(bytes)));
