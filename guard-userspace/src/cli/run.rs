use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::{Result, anyhow};
use clap::Args;
use tracing::level_filters::LevelFilter;
use tracing::{error, warn};
use tracing_subscriber::Registry;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;

use super::Global;
use super::policy_source::PolicySource;
use crate::agent::log::{Farewell, Writer};
use crate::agent::{self, End, Refused, Settings};
use crate::config::{Log, LogFormat, LogLevel, Origin, Source};

/// Run the agent in the foreground; logs go to stderr
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  With /etc/guard/guard.toml:
    guard run
  Drop nothing, and count what would be dropped:
    guard run --config ./guard.toml --monitor
  Without a file:
    guard run -i eth0 -p 8000 -a 10.0.0.0/8 -a fd00:1::/64

The agent makes a changed policy file live, as `guard reload` and SIGHUP do. It refuses a file with an error. If it cannot use the file at a start, it uses the last policy that was live.

SIGINT and SIGTERM end the agent. The kernel goes on to enforce the policy until `guard detach`, unless the policy says on_exit = \"detach\".

Exit status: 0 a signal ended the agent, 4 `guard detach` ended it, 1 it failed.

The agent needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON.")]
pub(super) struct Run {
    #[command(flatten)]
    source: PolicySource,
    /// Do not reload when the policy file changes; `guard reload` and SIGHUP do
    #[arg(long)]
    no_watch: bool,
    /// Write dropped packets to the log, too; `guard debug drops` does it for a while
    #[arg(long)]
    log_drops: bool,
}

/// The exit status after `guard detach`. The unit does not restart an agent that ends with it.
const DETACHED: u8 = 4;

impl Run {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let (origin, source, refused) = self.policy(global)?;
        let _farewell = log_to_stderr(&source.checked.policy.log);
        for warning in &source.checked.warnings {
            warn!("{warning}");
        }
        let settings = Settings {
            origin,
            refused,
            watch: !self.no_watch,
            pins: global.pins(),
            socket: global.socket.clone(),
            state: global.state.clone(),
            log_drops: self.log_drops,
            log_level: set_log_level,
        };
        Ok(match agent::run(settings, &source)? {
            End::Asked => ExitCode::SUCCESS,
            End::Detached => ExitCode::from(DETACHED),
        })
    }
}

impl Run {
    /// Where the policy is from, and the policy. Where it cannot be used, the last one that was live is, with why.
    ///
    /// # Errors
    /// When there was none before either.
    fn policy(&self, global: &Global) -> Result<(Origin, Source, Option<Refused>)> {
        let origin = self.source.origin();
        let read = origin.as_ref().map_err(|error| anyhow!("{error:#}")).and_then(Origin::read);
        let origin = origin.unwrap_or_else(|_| self.source.of_default_file());
        match read {
            Ok(source) => Ok((origin, source, None)),
            Err(error) => match agent::last_policy(&global.state, &origin) {
                Ok(Some(source)) => {
                    let refused = Refused { why: format!("{error:#}"), by_kernel: false };
                    Ok((origin, source, Some(refused)))
                }
                Ok(None) => Err(error),
                Err(unusable) => Err(anyhow!("{error:#}\n{unusable:#}")),
            },
        }
    }
}

/// How much is logged at this moment.
static LOG_LEVEL: OnceLock<Handle<LevelFilter, Registry>> = OnceLock::new();

fn set_log_level(level: LogLevel) {
    if let Some(handle) = LOG_LEVEL.get() {
        // The subscriber lives as long as the process.
        let _ = handle.reload(filter(level));
    }
}

const fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Logs to stderr, without ever waiting for its reader.
fn log_to_stderr(log: &Log) -> Option<Farewell> {
    let (writer, farewell) = match Writer::begin(std::io::stderr()) {
        Ok((writer, farewell)) => (BoxMakeWriter::new(move || writer.clone()), Some(farewell)),
        // A log that may wait is better than none.
        Err(_) => (BoxMakeWriter::new(std::io::stderr), None),
    };
    let (level, handle) = reload::Layer::new(filter(log.level));
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(writer)
        .with_target(false);
    let registry = tracing_subscriber::registry().with(level);
    match log.format {
        LogFormat::Text => registry.with(lines).init(),
        LogFormat::Json => registry.with(lines.json()).init(),
    }
    // A process logs to stderr once.
    let _ = LOG_LEVEL.set(handle);
    // What a panic says is a line of the log too: the usual way would wait for the reader.
    std::panic::set_hook(Box::new(|panic| error!("{panic}")));
    farewell
}
