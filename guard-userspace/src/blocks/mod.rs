//! Blocks: of whom, for how long, why; in the kernel and in the ledger at once.
//!
//! | module | what it does |
//! | --- | --- |
//! | `register` | blocks and unblocks, with and without an agent |
//! | `told` | what the kernel was told |
//! | `drift` | whether the kernel still has that |
//! | `left_out` | blocks that the tables have no room for |
//! | `made` | blocks that no command asked for |
//! | `mend` | brings back what another program has changed there |
//! | `record` | what the ledger is told, or will be |
//! | `notes` | what the audit log says of it |
//! | `clock` | the time of day, and the clock by which the kernel ends a block |
//! | `synchronized` | whether the time of day can be believed |
//! | `nested` | prefixes within prefixes: what the kernel must be told of each |
//! | `protected` | whom a block must not hit by mistake |
//! | `list` | lists from standard input |

mod clock;
mod drift;
mod left_out;
pub mod list;
mod made;
mod mend;
pub mod nested;
mod notes;
pub mod protected;
mod record;
mod register;
mod synchronized;
mod told;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::autoblock::Evidence;

pub use clock::{Clock, shifted};
pub use notes::event;
pub use protected::{Protected, Refusal};
pub use register::{Blocked, Register, RegisterError, Unblocked};
pub use synchronized::is_synchronized;

/// What a block keeps out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// All traffic of the source.
    Host,
    /// Its traffic to guarded ports.
    Services,
}

/// Who made a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Manual,
    Auto,
}

/// A block as the ledger keeps it. Times are milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    pub net: IpNet,
    pub scope: Scope,
    pub origin: Origin,
    pub reason: Option<String>,
    /// What an automatic block goes by, with its figures.
    pub evidence: Option<Value>,
    /// Who asked for it.
    pub by: String,
    pub since: u64,
    /// None: forever.
    pub until: Option<u64>,
}

/// Addresses and prefixes that are blocked, and blocks that were added since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockCounts {
    pub manual: u64,
    pub auto: u64,
    pub added_manual: u64,
    pub added_auto: u64,
}

/// Of a block only whom and until when: a time of day, or none for ever.
pub type End = (IpNet, Scope, Option<u64>);

impl Block {
    pub const fn end(&self) -> End {
        (self.net, self.scope, self.until)
    }

    /// The reason, and in words what an automatic block goes by beside it.
    pub fn why(&self) -> String {
        let evidence = self.evidence.as_ref().map(|evidence| {
            Evidence::deserialize(evidence)
                .map_or_else(|_| evidence.to_string(), |evidence| evidence.to_string())
        });
        let parts: Vec<String> = self.reason.iter().cloned().chain(evidence).collect();
        parts.join("; ")
    }

    /// Whether it ends when the other does, or before.
    pub fn ends_no_later_than(&self, other: &Self) -> bool {
        self.until.is_some_and(|until| other.until.is_none_or(|other| until <= other))
    }
}

impl Scope {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Services => "services",
        }
    }
}

impl Origin {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Auto => "auto",
        }
    }
}

/// How long a block may last that has an end: ten years.
pub const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

/// A time in UTC, to the second. It may come from a ledger that is not right.
pub fn date(millis: u64) -> String {
    /// The last second that the format has: that of the year 9999.
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let time = UNIX_EPOCH + Duration::from_millis(millis).min(LAST);
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Milliseconds since the epoch.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn no_time_is_too_late_for_a_date() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(u64::MAX), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn a_block_says_why() {
        let figures = json!({ "kind": "refused", "service": "vllm", "count": 9000, "threshold": 6000, "window": 60, "strike": 2 });
        let cases = [
            (None, None, ""),
            (Some("scans us"), None, "scans us"),
            (Some("too much"), Some(figures), "too much; service vllm, 2nd block"),
            // Of a newer guard.
            (Some("too much"), Some(json!({ "new": 1 })), "too much; {\"new\":1}"),
        ];
        for (reason, evidence, expected) in cases {
            let block = Block {
                net: "10.0.0.1/32".parse().unwrap(),
                scope: Scope::Services,
                origin: Origin::Auto,
                reason: reason.map(String::from),
                evidence,
                by: "guard".into(),
                since: 0,
                until: None,
            };
            assert_eq!(block.why(), expected);
        }
    }
}
