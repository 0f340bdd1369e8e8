//! The screen: as little as 80 columns and 24 lines.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style as Look};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row, Table, TableState, Wrap};

use super::figures::{SPARK, name, percent, short, sparkline};
use super::state::{Kind, State};
use crate::agent::top::{Sort, SourceRate, Top};

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

#[cfg(test)]
pub(super) mod tests;
