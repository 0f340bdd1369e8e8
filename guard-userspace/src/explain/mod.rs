//! The steps to a verdict, in words.

mod background;
mod probe;
mod words;

use std::collections::BTreeMap;
use std::net::IpAddr;

use guard_common::abi::ServiceId;
use guard_common::observe::{Observer, Step};
use guard_common::parse::{Headers, Protocol};
use guard_common::{Reason, Tables, decide};
use serde::{Deserialize, Serialize};

pub use background::{Background, Place};

use crate::autoblock::Hypothetical;
use crate::control::BlockStatus;

/// A packet that is asked about: the first of a connection (TCP), or any (UDP).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub source: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// What a packet would get now, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// The prefix of the policy that decides whether the source may come, where the agent knows it.
    pub rule: Option<Place>,
    /// The limits that were asked, as they stand.
    pub limits: Vec<LimitState>,
    /// The block that decided.
    pub block: Option<BlockStatus>,
    /// The block that there would be, if the service did not only monitor.
    #[serde(default)]
    pub would_block: Option<Hypothetical>,
    /// What to do if it is not as it should be.
    pub advice: Option<String>,
}

/// A limit of a source at this moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitState {
    /// `packets`, `bytes`, `new_connections` or `open_connections`.
    pub limit: String,
    /// Whether one more is.
    pub within: bool,
    /// How much may come at once; of open connections, how many there may be.
    pub most: u64,
    /// How much of it may come now.
    pub left: u64,
    /// When all of it may; 0 for open connections, which do not come back by themselves.
    pub full_again_seconds: f64,
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
    background: &Background<'_>,
    now: u64,
) -> Explanation {
    let mut steps = Steps::default();
    let verdict =
        decide(probe::frame(question).as_slice(), &mut Headers::default(), tables, || now, &mut steps);
    let service = names.get(&verdict.service).cloned().unwrap_or_default();
    let rule = background.rule(&service, question.source);
    let told = words::Told { question, tables, names, background, service: &service, now };
    let (steps, limits) = told.of_steps(&steps.0);
    Explanation {
        source: question.source,
        protocol: words::protocol(question.protocol).into(),
        port: question.port,
        verdict: verdict.action.name().into(),
        reason: verdict.reason.name().into(),
        steps,
        rule,
        limits,
        block: background.block(&service).filter(|_| verdict.reason == Reason::Blocked).cloned(),
        would_block: background.would_block(&service, question.source).cloned(),
        advice: background.advice(verdict.reason, &service, question.source),
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
