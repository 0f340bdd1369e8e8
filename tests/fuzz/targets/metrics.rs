//! Any bytes: every property of what a client sends to the port of metrics.
#![no_main]

use guard_proof::http;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| http::metrics(bytes));
