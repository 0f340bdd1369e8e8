use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use tracing::level_filters::LevelFilter;
use tracing::warn;

use super::Global;
use super::policy_source::{PolicySource, Source};
use crate::agent::{self, Settings};
use crate::config::{self, Log, LogFormat, LogLevel};

/// Run the agent in the foreground; logs go to stderr
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  guard run                                                       with /etc/guard/guard.toml
  guard run --config ./guard.toml --monitor                       drop nothing, count what would be dropped
  guard run -i eth0 -p 8000 -a 10.0.0.0/8 -a fd00:1::/64          without a file

SIGINT and SIGTERM end the agent; the kernel goes on to enforce the policy (on_exit = \"keep\") until `guard detach`.
Needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON.")]
pub(super) struct Run {
    #[command(flatten)]
    source: PolicySource,
}

impl Run {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let source = self.source.read()?;
        log_to_stderr(&source.checked.policy.log);
        for warning in &source.checked.warnings {
            warn!("{warning}");
        }
        self.check_interfaces(&source)?;
        let settings = Settings {
            policy: source.checked.policy,
            file: source.file,
            pins: global.pins(),
            socket: global.socket.clone(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("cannot start the agent's threads")?;
        runtime.block_on(agent::run(settings))?;
        Ok(ExitCode::SUCCESS)
    }

    /// Interfaces are of this host, so only `run` asks for them; a file's have a place in it, a flag's have their flag.
    fn check_interfaces(&self, source: &Source) -> Result<()> {
        for name in &source.checked.policy.attach.interfaces {
            let Err(error) = agent::resolve_interfaces(name) else { continue };
            match &source.file {
                _ if self.source.names_interfaces() => bail!("--interface {name}: {error}"),
                Some(file) => {
                    let file = file.display().to_string();
                    config::refuse_interface(&source.text, &file, name, &error.to_string())?;
                }
                None => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn log_to_stderr(log: &Log) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let logger = tracing_subscriber::fmt()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_target(false);
    match log.format {
        LogFormat::Text => logger.init(),
        LogFormat::Json => logger.json().init(),
    }
}
