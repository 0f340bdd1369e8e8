//! What a host serves: nginx, which answers by itself and has the server of streams behind it.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::net::{Host, Running};
use crate::streams::StreamingServer;
use crate::{stale, wait};

const PATIENCE: Duration = Duration::from_secs(60);
const STREAMS_PORT: u16 = 8001;

pub(super) struct Servers<'a> {
    _streams: StreamingServer<'a>,
    _nginx: Running,
    _directory: TempDir,
}

impl<'a> Servers<'a> {
    /// Starts them and waits until they answer. Both run where this thread does.
    pub(super) fn start(host: &'a Host, streaming_server: &Path) -> Result<Self> {
        let streams = StreamingServer::start(host, &streaming_server.display().to_string(), STREAMS_PORT)?;
        let directory = tempfile::Builder::new().prefix(&stale::prefix()).tempdir()?;
        let path = directory.path().display().to_string();
        let (file, log) = (format!("{path}/nginx.conf"), format!("{path}/error.log"));
        fs::write(&file, configuration(&path)).context("cannot write nginx.conf")?;
        let mut command = host.command("nginx");
        command.args(["-p", &path, "-c", &file, "-e", &log]).stdin(Stdio::null());
        let nginx = host.start(&mut command)?;
        let answers = || {
            let url = "http://127.0.0.1:8000/v1/models";
            host.output("curl", &["-sf", "-m", "2", url]).is_ok_and(|(ok, _)| ok)
        };
        let ready = wait::within(PATIENCE, answers);
        ensure!(ready, "nginx does not start: {}", fs::read_to_string(log).unwrap_or_default());
        Ok(Self { _streams: streams, _nginx: nginx, _directory: directory })
    }
}

/// One process, so that it ends with its handle; its files are its own.
fn configuration(directory: &str) -> String {
    let places: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {directory}/{kind};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {directory}/nginx.pid;\nevents {{ worker_connections 4096; }}\n\
         http {{\n{places}access_log off;\nkeepalive_requests 1000000000;\nserver {{\nlisten 8000 backlog=4096;\n\
         location / {{ default_type text/plain; return 200 \"ok\\n\"; }}\n\
         location /v1/ {{ proxy_pass http://127.0.0.1:{STREAMS_PORT}; proxy_buffering off; }}\n}}\n}}\n"
    )
}
