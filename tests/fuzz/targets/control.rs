//! Any bytes: every property of what a client sends to the control socket.
#![no_main]

use guard_proof::http;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| http::control(bytes));
