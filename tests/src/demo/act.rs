//! What the hosts do.

use anyhow::Result;

use super::report::Report;
use super::{OTHER_PORT, PORT, interrupt};
use crate::net::Host;
use crate::scene::{CLIENT, STRANGER};

/// Seconds that curl waits for a connection, and for all of an answer.
const CONNECT: &str = "2";
const ANSWER: &str = "60";

/// A streamed completion and a plain one.
pub(super) fn ask_model(client: &Host, server: &str, report: &mut Report<'_>) -> Result<()> {
    interrupt::check()?;
    let source = CLIENT[usize::from(server.contains(':'))];
    let (url, models) = (url(server, PORT, "/v1/completions"), url(server, PORT, "/v1/models"));
    let (_, models) = client.output("curl", &["-s", "--connect-timeout", CONNECT, "-m", ANSWER, &models])?;
    let model =
        serde_json::from_str::<serde_json::Value>(&models).unwrap_or_default()["data"][0]["id"].clone();
    let request = serde_json::json!({ "model": model, "prompt": "Hello", "max_tokens": 20, "stream": true })
        .to_string();
    let arguments = [
        "-sN",
        "--connect-timeout",
        CONNECT,
        "-m",
        ANSWER,
        "-H",
        "content-type: application/json",
        "-d",
        &request,
        &url,
    ];
    let (ok, text) = client.output("curl", &arguments)?;
    let events = text.lines().filter(|line| line.starts_with("data: {")).count();
    let whole = ok && events > 0 && text.contains("data: [DONE]");
    report.outcome(source, "a streamed completion", whole, &format!("{events} events"), true);
    Ok(())
}

/// What a stranger may and may not do.
pub(super) fn be_strange(stranger: &Host, server: &str, report: &mut Report<'_>) -> Result<()> {
    interrupt::check()?;
    let source = STRANGER[usize::from(server.contains(':'))];
    let got = get(stranger, server, PORT, "/v1/models");
    report.outcome(
        source,
        "a request to the model",
        got,
        if got { "an answer" } else { "no answer, timed out" },
        false,
    );
    let got = get(stranger, server, OTHER_PORT, "/health");
    report.outcome(
        source,
        "a request to the port beside it",
        got,
        if got { "an answer" } else { "no answer" },
        true,
    );
    let (got, _) = stranger.output("ping", &["-c", "1", "-W", "2", server])?;
    report.outcome(source, "a ping", got, if got { "a reply" } else { "no reply" }, true);
    Ok(())
}

/// Whether a URL answers with success.
pub(super) fn get(host: &Host, server: &str, port: u16, path: &str) -> bool {
    let url = url(server, port, path);
    let arguments = ["-sf", "--connect-timeout", CONNECT, "-m", ANSWER, "-o", "/dev/null", &url];
    host.output("curl", &arguments).is_ok_and(|(ok, _)| ok)
}

fn url(server: &str, port: u16, path: &str) -> String {
    if server.contains(':') {
        format!("http://[{server}]:{port}{path}")
    } else {
        format!("http://{server}:{port}{path}")
    }
}
