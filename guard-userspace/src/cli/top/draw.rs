//! The screen: as little as 80 columns and 24 lines.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style as Look};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row, Table, TableState, Wrap};

use super::state::{HISTORY, Kind, State};
use super::style::Bars;
use crate::agent::top::{Sort, SourceRate, Top};
use crate::cli::output::table;

/// Columns of a sparkline: each is of some seconds.
const SPARK: usize = 20;
const HELP: &str = "\
s, S      sort by the next column; the other way round
/         filter: text, or a prefix such as 10.0.0.0/8; Esc: all
arrows    select a source (j, k, PgUp, PgDn)
b, u      block or unblock the selected source, after a question
p, space  pause: the screen stands still
q         quit

A rate is packets, bytes, new TCP connections or drops in a second,
of the second before. \"limit\" says how much of its limits a source
uses, of the one that has least left.";

pub(super) fn screen(frame: &mut Frame<'_>, state: &State) {
    let kinds = state.history.len().min(usize::from(frame.area().height / 4)) as u16;
    let events = if frame.area().height >= 30 { 8 } else { 4 };
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(kinds + 1),
        Constraint::Min(3),
        Constraint::Length(events + 1),
        Constraint::Length(1),
    ]);
    let [header, rates, sources, events, footer] = areas.areas(frame.area());
    frame.render_widget(Paragraph::new(head(state)), header);
    frame.render_widget(self::rates(state), rates);
    let mut selected = TableState::new().with_selected(state.place());
    frame.render_stateful_widget(self::sources(state), sources, &mut selected);
    frame.render_widget(self::events(state, events.height), events);
    frame.render_widget(Paragraph::new(foot(state)), footer);
    if state.shows_help {
        dialog(frame, "keys", HELP);
    }
    if let Some(order) = &state.order {
        dialog(frame, "really?", &format!("{}\n\ny: do it      any other key: leave it", order.command()));
    }
}

fn head(state: &State) -> Vec<Line<'static>> {
    let Some(Top { status, source_count, .. }) = &state.top else {
        return vec![Line::from("guard top: asking the agent"), trouble(state)];
    };
    let interfaces =
        status.interfaces.iter().map(|interface| format!("{} ({})", interface.name, interface.mode));
    let interfaces: Vec<_> = interfaces.collect();
    let up = humantime::format_duration(std::time::Duration::from_secs(
        status.uptime_seconds.unwrap_or(0) / 60 * 60,
    ));
    let open: u64 = status.connections.iter().map(|count| count.connections).sum();
    let first = format!(
        "guard {}  up {up}  {}  policy {}  blocks {}+{}  sources {source_count}  connections {open}",
        status.version,
        interfaces.join(" "),
        status.policy.generation,
        status.blocks.manual,
        status.blocks.auto,
    );
    vec![Line::from(Span::styled(first, Look::new().add_modifier(Modifier::BOLD))), trouble(state)]
}

/// What is not as it should be.
fn trouble(state: &State) -> Line<'static> {
    let problems = state.top.as_ref().map(|top| top.status.problems.as_slice()).unwrap_or_default();
    let bad = state.style.coloured(Color::Red).add_modifier(Modifier::BOLD);
    match (&state.failed, problems) {
        (Some(why), _) => Line::styled(format!("NO ANSWER: {why}"), bad),
        (None, [first, rest @ ..]) => {
            let more = if rest.is_empty() {
                String::new()
            } else {
                format!(" (and {} more: guard status)", rest.len())
            };
            Line::styled(format!("PROBLEM: {first}{more}"), bad)
        }
        (None, []) => Line::from(""),
    }
}

fn rates(state: &State) -> Table<'static> {
    let heading = ["service", "verdict", "reason", "packets/s", "", "bytes/s"].map(Cell::from);
    let mut kinds: Vec<(&Kind, &VecDeque<u64>)> = state.history.iter().collect();
    // What there is most of: in the minute, so that lines do not jump.
    kinds.sort_by_key(|(_, history)| std::cmp::Reverse(history.iter().sum::<u64>()));
    let rows = kinds.into_iter().map(|(kind, history)| {
        let (service, verdict, reason) = kind;
        let bytes = state.top.iter().flat_map(|top| &top.counters);
        let mut bytes = bytes
            .filter(|rate| rate.service == *service && rate.verdict == *verdict && rate.reason == *reason);
        let bytes = bytes.next().map_or(0.0, |rate| rate.bytes_per_second);
        let colour = match verdict.as_str() {
            "pass" => Color::Green,
            "drop" => Color::Red,
            _ => Color::Yellow,
        };
        let service = if service.is_empty() { "-" } else { service };
        Row::new([
            Cell::from(service.to_owned()),
            Cell::from(verdict.clone()),
            Cell::from(reason.clone()),
            Cell::from(Line::from(short(history.back().copied().unwrap_or(0) as f64)).right_aligned()),
            Cell::from(sparkline(history, &state.style.bars)),
            Cell::from(Line::from(short(bytes)).right_aligned()),
        ])
        .style(state.style.coloured(colour))
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(10),
        Constraint::Length(15),
        Constraint::Length(9),
        Constraint::Length(SPARK as u16),
        Constraint::Length(8),
    ];
    Table::new(rows, widths).header(Row::new(heading).style(title()))
}

fn sources(state: &State) -> Table<'static> {
    let names = ["source", "service", "pkts/s", "bytes/s", "new/s", "drops/s", "open", "limit"];
    // The columns that can be sorted by stand in the order of the keys.
    let sorted = Sort::ALL.iter().position(|sort| *sort == state.query.sort).map_or(0, |place| place + 2);
    let heading = names.iter().enumerate().map(|(column, name)| {
        let mark = if column == sorted { if state.is_reversed { "^" } else { "v" } } else { "" };
        let cell = Line::from(format!("{name}{mark}"));
        Cell::from(if (2..8).contains(&column) { cell.right_aligned() } else { cell })
    });
    let rows: Vec<Row<'static>> = state.sources().into_iter().map(|source| row(source, state)).collect();
    let widths = [
        Constraint::Fill(3),
        Constraint::Fill(1),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(6),
        Constraint::Length(8),
        Constraint::Length(5),
        Constraint::Length(7),
    ];
    Table::new(rows, widths)
        .header(Row::new(heading).style(title()))
        .row_highlight_style(Look::new().add_modifier(Modifier::REVERSED))
        .highlight_symbol(">")
}

fn row(source: &SourceRate, state: &State) -> Row<'static> {
    let right = |text: String| Cell::from(Line::from(text).right_aligned());
    let look = match source {
        SourceRate { blocked: true, .. } => state.style.coloured(Color::Red),
        SourceRate { limit_used: Some(used), .. } if *used > 0.8 => state.style.coloured(Color::Yellow),
        _ => Look::new(),
    };
    Row::new([
        Cell::from(name(source)),
        Cell::from(source.service.clone()),
        right(short(source.packets_per_second)),
        right(short(source.bytes_per_second)),
        right(short(source.openings_per_second)),
        right(short(source.dropped_per_second)),
        right(source.connections.to_string()),
        right(if source.blocked { "blocked".into() } else { percent(source) }),
    ])
    .style(look)
}

fn events(state: &State, height: u16) -> Paragraph<'static> {
    let shown = usize::from(height.saturating_sub(1));
    let last = state.events.iter().skip(state.events.len().saturating_sub(shown));
    let lines: Vec<Line<'static>> = last.map(|event| Line::from(event.clone())).collect();
    Paragraph::new(lines).block(
        Block::new()
            .borders(Borders::TOP)
            .border_set(ratatui::symbols::border::Set {
                horizontal_top: "-",
                ..ratatui::symbols::border::PLAIN
            })
            .title("last events "),
    )
}

fn foot(state: &State) -> Line<'static> {
    if state.is_typing {
        return Line::from(format!("filter: {}_   Enter: keep   Esc: all", state.filter));
    }
    if let Some(said) = &state.said {
        return Line::styled(said.clone(), Look::new().add_modifier(Modifier::BOLD));
    }
    let paused = if state.is_paused { "PAUSED  " } else { "" };
    let filter = if state.filter.is_empty() { String::new() } else { format!("filter {}  ", state.filter) };
    Line::from(format!(
        "{paused}{filter}s sort  / filter  arrows select  b block  u unblock  p pause  ? help  q quit"
    ))
}

fn dialog(frame: &mut Frame<'_>, title: &'static str, text: &str) {
    let width = text.lines().map(|line| line.chars().count()).max().unwrap_or(0) as u16 + 4;
    let height = text.lines().count() as u16 + 2;
    let area = frame.area();
    let (width, height) = (width.min(area.width), height.min(area.height));
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let block = Block::bordered().border_set(PLAIN_BORDER).title(title);
    frame.render_widget(Paragraph::new(text.to_owned()).wrap(Wrap { trim: false }).block(block), place);
}

/// For all terminals.
const PLAIN_BORDER: ratatui::symbols::border::Set<'static> = ratatui::symbols::border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

const fn title() -> Look {
    Look::new().add_modifier(Modifier::BOLD).add_modifier(Modifier::UNDERLINED)
}

/// All of it as text, once.
pub(super) fn text(top: &Top, sort: Sort) -> String {
    let mut rates = vec![["service", "verdict", "reason", "packets/s", "bytes/s"].map(String::from).to_vec()];
    rates.extend(top.counters.iter().map(|rate| {
        let service = if rate.service.is_empty() { "-" } else { &rate.service };
        vec![
            service.into(),
            rate.verdict.clone(),
            rate.reason.clone(),
            short(rate.packets_per_second),
            short(rate.bytes_per_second),
        ]
    }));
    let heading = ["source", "service", "packets/s", "bytes/s", "new/s", "dropped/s", "open", "limit"];
    let mut sources = vec![heading.map(String::from).to_vec()];
    sources.extend(top.sources.iter().map(|source| {
        vec![
            name(source),
            source.service.clone(),
            short(source.packets_per_second),
            short(source.bytes_per_second),
            short(source.openings_per_second),
            short(source.dropped_per_second),
            source.connections.to_string(),
            if source.blocked { "blocked".into() } else { percent(source) },
        ]
    }));
    format!(
        "{}\n{}\n{} of {} sources, by {}; rates of {:.1} s\n",
        table(&rates),
        table(&sources),
        top.sources.len(),
        top.source_count,
        sort.name(),
        top.seconds
    )
}

/// An address stands for itself, a group with its length.
fn name(source: &SourceRate) -> String {
    let net = source.source;
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

fn percent(source: &SourceRate) -> String {
    source.limit_used.map(|used| format!("{:.0}%", used * 100.0)).unwrap_or_default()
}

/// A figure in four characters or five: `0`, `12`, `3.4k`, `1.2M`.
fn short(figure: f64) -> String {
    let (scaled, unit) = match figure {
        0.0..1e4 => return format!("{figure:.0}"),
        1e4..1e6 => (figure / 1e3, "k"),
        1e6..1e9 => (figure / 1e6, "M"),
        _ => (figure / 1e9, "G"),
    };
    if scaled < 10.0 { format!("{scaled:.1}{unit}") } else { format!("{scaled:.0}{unit}") }
}

/// The minute before, its peak as high as a line.
fn sparkline(history: &VecDeque<u64>, bars: &Bars) -> String {
    let missing = HISTORY - history.len().min(HISTORY);
    let seconds: Vec<u64> = std::iter::repeat_n(0, missing).chain(history.iter().copied()).collect();
    let columns: Vec<u64> =
        seconds.chunks(HISTORY / SPARK).map(|chunk| chunk.iter().copied().max().unwrap_or(0)).collect();
    let peak = columns.iter().copied().max().unwrap_or(0).max(1);
    // What is not nothing is seen.
    let bar = |column: &u64| bars.get((column * 8).div_ceil(peak) as usize).copied().unwrap_or(" ");
    columns.iter().map(bar).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::keys;
    use super::super::state::Order;
    use super::super::style::{BARS, PLAIN_BARS, Style};
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

    #[test]
    fn figures_are_short() {
        for (figure, expected) in [
            (0.0, "0"),
            (29.4, "29"),
            (9_999.0, "9999"),
            (12_345.0, "12k"),
            (1_234_567.0, "1.2M"),
            (2.5e10, "25G"),
        ] {
            assert_eq!(short(figure), expected);
        }
    }

    #[test]
    fn a_sparkline_ends_with_now() {
        let history: VecDeque<u64> = [0, 0, 0, 80, 80, 80, 10, 10, 10].into();
        assert_eq!(sparkline(&history, &PLAIN_BARS), format!("{}#.", " ".repeat(SPARK - 2)));
        assert_eq!(sparkline(&VecDeque::new(), &BARS), " ".repeat(SPARK));
    }
}
