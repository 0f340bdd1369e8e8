//! What fuzzing starts with: the same on every machine.

use fastrand::Rng;

use crate::case::{Case, HEAD};

const CASES: u64 = 400;
const POLICIES: u64 = 60;
const PACKAGED: &str = include_str!("../../../packaging/guard.toml");
const DOCS: &str = include_str!("../../../docs/policy.md");

/// Worlds with frames near to what they judge.
pub fn decide() -> Vec<Vec<u8>> {
    let case = |seed| {
        let mut rng = Rng::with_seed(seed);
        let head: Vec<u8> = (0..HEAD).map(|_| rng.u8(..)).collect();
        let frames: Vec<u64> = (0..rng.usize(1..5)).map(|_| rng.u64(..)).collect();
        Case::write(&head, &frames)
    };
    (0..CASES).map(case).collect()
}

/// What guard comes with, the examples of its documentation, and the policies of random worlds.
pub fn policy() -> Vec<String> {
    let examples = DOCS.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let worlds = (0..POLICIES).map(|seed| {
        let mut rng = Rng::with_seed(seed);
        let head: Vec<u8> = (0..HEAD).map(|_| rng.u8(..)).collect();
        Case::read(&head).world.policy.to_toml()
    });
    [PACKAGED].into_iter().chain(examples).map(str::to_owned).chain(worlds).collect()
}

/// A request for each path of the control socket, as the commands send it.
pub fn control() -> Vec<Vec<u8>> {
    let block = r#"{"nets":["10.0.0.1/32","fd00::/64"],"scope":"services","lasts":3600000,"reason":"scans us","caller":"10.0.0.5","force":false,"kill":true,"skip_protected":true}"#;
    let apply = r#"{"policy":"[attach]\ninterfaces = [\"eth0\"]\n","file":"/etc/guard/guard.toml","confirm_within":60000}"#;
    let posts = [
        ("block", block),
        ("unblock", r#"{"nets":["10.0.0.1/32"]}"#),
        ("log-drops", r#"{"lasts":60000}"#),
        ("apply", apply),
        ("reload", ""),
        ("confirm", ""),
        ("detach", ""),
    ];
    let gets = [
        "status",
        "blocks",
        "connections",
        "explain?source=10.0.0.1&port=8000&protocol=tcp",
        "events?last=10&wait=1000&source=fd00::1",
        "events",
    ];
    let post = |(path, body): &(&str, &str)| {
        let length = body.len();
        format!(
            "POST /v1/{path} HTTP/1.1\r\nhost: guard\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    let get = |path: &&str| format!("GET /v1/{path} HTTP/1.1\r\nhost: guard\r\n\r\n");
    let chunked = format!(
        "POST /v1/unblock HTTP/1.1\r\nhost: guard\r\ntransfer-encoding: chunked\r\n\r\n18\r\n{}\r\n0\r\n\r\n",
        r#"{"nets":["10.0.0.1/32"]}"#
    );
    let texts = posts.iter().map(post).chain(gets.iter().map(get)).chain([chunked]);
    texts.map(String::into_bytes).collect()
}

/// What scrapers, health checks and people ask for.
pub fn metrics() -> Vec<Vec<u8>> {
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n");
    let texts = [
        get("/metrics", ""),
        get("/metrics", &format!("Accept: {accept}\r\nAccept-Encoding: gzip\r\n")),
        get("/healthz", "Connection: close\r\n"),
        get("/readyz?verbose=1", ""),
        get("/metrics", "").repeat(5),
        "GET /healthz HTTP/1.0\r\n\r\n".replace("1.0", "1.1\r\nHost: x"),
        "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
    ];
    texts.map(String::into_bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_the_same_each_time() {
        assert_eq!(decide(), decide());
        assert_eq!(policy(), policy());
        assert_eq!((control(), metrics()), (control(), metrics()));
    }
}
