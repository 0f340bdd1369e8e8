//! The screen, drawn into memory.

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::keys;
use super::super::state::Order;
use super::super::style::Style;
use super::*;
use crate::agent::top::{CounterRate, TopQuery};

pub(in super::super) fn top() -> Top {
    let source = |net: &str, packets: f64, blocked| SourceRate {
        source: net.parse().unwrap(),
        service: "vllm".into(),
        packets_per_second: packets,
        bytes_per_second: packets * 1000.0,
        openings_per_second: 2.0,
        dropped_per_second: 0.0,
        connections: 7,
        limit_used: Some(0.42),
        blocked,
    };
    let counter = |verdict: &str, reason: &str, packets| CounterRate {
        service: "vllm".into(),
        verdict: verdict.into(),
        reason: reason.into(),
        packets_per_second: packets,
        bytes_per_second: packets * 60.0,
    };
    let status = serde_json::json!({
        "version": "0.1.0", "revision": "", "pid": 1, "uptime_seconds": 7300,
        "policy": { "file": null, "generation": 3, "loaded_at": null, "unconfirmed_for": null, "reload_error": null },
        "problems": ["eth7: there is no such interface"],
        "interfaces": [{ "name": "eth0", "index": 2, "mode": "native", "multi_buffer": true, "why": null }],
        "services": [], "counters": []
    });
    Top {
        status: serde_json::from_value(status).unwrap(),
        seconds: 1.0,
        counters: vec![counter("pass", "allowed", 12_345.0), counter("drop", "not_allowed", 1_234_567.0)],
        source_count: 3,
        sources: vec![
            source("10.1.7.4/32", 12_345.0, false),
            source("10.1.7.5/32", 300.0, true),
            source("fd00:1:2:3::/64", 29.4, false),
        ],
    }
}

fn state() -> State {
    let mut state = State::new(TopQuery::default(), Style::plain());
    state.take(top());
    state.take_events(vec!["2026-01-01T00:00:00Z drop 192.0.2.1:4000 to tcp port 8000 (vllm)".into()]);
    state
}

fn drawn(state: &State, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen(frame, state)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn all_of_it_is_on_a_small_screen() {
    let text = drawn(&state(), 80, 24);
    for wanted in [
        "guard 0.1.0  up 2h 1m  eth0 (native)  policy 3",
        "PROBLEM: eth7: there is no such interface",
        "pkts/sv",
        "1.2M",
        "12k",
        "10.1.7.4",
        "fd00:1:2:3::/64",
        "42%",
        "blocked",
        "192.0.2.1:4000",
        "q quit",
    ] {
        assert!(text.contains(wanted), "{wanted}:\n{text}");
    }
    assert!(text.is_ascii(), "{text}");
}

#[test]
fn no_size_is_too_small_or_too_large() {
    let mut state = state();
    state.order = Some(Order::Block("10.1.7.4/32".parse().unwrap()));
    for (width, height) in [(1, 1), (20, 5), (80, 24), (200, 50), (500, 3)] {
        for shows_help in [true, false] {
            state.shows_help = shows_help;
            drawn(&state, width, height);
        }
    }
    let text = drawn(&state, 80, 24);
    assert!(text.contains("guard block 10.1.7.4/32 --for 1h --scope services --kill"), "{text}");
    drawn(&State::new(TopQuery::default(), Style::plain()), 80, 24);
}

#[test]
fn the_selected_source_is_marked() {
    let mut state = state();
    keys::press(&mut state, ratatui::crossterm::event::KeyCode::Down.into());
    keys::press(&mut state, ratatui::crossterm::event::KeyCode::Down.into());
    let text = drawn(&state, 80, 24);
    assert!(text.contains(">10.1.7.5"), "{text}");
}
