//! Any text: every property of the policy's reader.
#![no_main]

use guard_proof::policy;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| policy::check(text));
