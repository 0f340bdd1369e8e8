//! The steps to a verdict, in words.

mod probe;
mod words;

use std::collections::BTreeMap;
use std::net::IpAddr;

use guard_common::abi::ServiceId;
use guard_common::observe::{Observer, Step};
use guard_common::parse::{Headers, Protocol};
use guard_common::{Tables, decide};
use serde::{Deserialize, Serialize};

/// A packet that is asked about: the first of a connection (TCP), or any (UDP).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub source: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// What a packet would get now, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub source: IpAddr,
    pub protocol: String,
    pub port: u16,
    /// Empty if the port is of no service.
    pub service: String,
    /// `pass`, `drop` or `would_drop`.
    pub verdict: String,
    pub reason: String,
    /// In the order in which they are taken; the last one decided.
    pub steps: Vec<ExplainedStep>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedStep {
    pub step: String,
    pub text: String,
}

/// Explains a packet by the tables as they are. Nothing in them is changed if their words are read-only ones.
///
/// `now` is in nanoseconds of the clock of the tables' times.
pub fn explain<T: Tables>(
    question: &Question,
    tables: &T,
    names: &BTreeMap<ServiceId, String>,
    now: u64,
) -> Explanation {
    let mut steps = Steps::default();
    let verdict =
        decide(probe::frame(question).as_slice(), &mut Headers::default(), tables, || now, &mut steps);
    let service = names.get(&verdict.service).cloned().unwrap_or_default();
    Explanation {
        source: question.source,
        protocol: words::protocol(question.protocol).into(),
        port: question.port,
        verdict: verdict.action.name().into(),
        reason: verdict.reason.name().into(),
        steps: words::of_steps(&steps.0, question, tables, names, now),
        service,
    }
}

#[derive(Default)]
struct Steps(Vec<Step>);

impl Observer for Steps {
    fn step(&mut self, step: Step) {
        self.0.push(step);
    }
}
