//! What a key does.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::state::{Order, State};
use crate::agent::top::Sort;

/// What follows from a key, beyond the screen.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    Quit,
    /// The agent is to be asked for something else.
    Ask,
    Do(Order),
}

/// Longer than any prefix or name.
const LONGEST_FILTER: usize = 64;

#[expect(clippy::wildcard_enum_match_arm, reason = "there are keys without end")]
pub(super) fn press(state: &mut State, key: KeyEvent) -> Wish {
    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
        return Wish::Quit;
    }
    if let Some(order) = state.order.take() {
        return match key.code {
            KeyCode::Char('y' | 'Y') => Wish::Do(order),
            _ => {
                state.say("nothing was done".into());
                Wish::Nothing
            }
        };
    }
    if state.is_typing {
        type_filter(state, key.code);
        return Wish::Nothing;
    }
    state.said = None;
    if std::mem::take(&mut state.shows_help) {
        return Wish::Nothing;
    }
    match key.code {
        KeyCode::Char('q') => return Wish::Quit,
        KeyCode::Char('?' | 'h') => state.shows_help = true,
        KeyCode::Char('p' | ' ') => state.is_paused = !state.is_paused,
        KeyCode::Char('/') => state.is_typing = true,
        KeyCode::Esc => state.filter.clear(),
        KeyCode::Char('s') => {
            state.query.sort = after(state.query.sort);
            return Wish::Ask;
        }
        KeyCode::Char('S') => state.is_reversed = !state.is_reversed,
        KeyCode::Down | KeyCode::Char('j') => state.move_by(1),
        KeyCode::Up | KeyCode::Char('k') => state.move_by(-1),
        KeyCode::PageDown => state.move_by(10),
        KeyCode::PageUp => state.move_by(-10),
        KeyCode::Char('b') => propose(state, Order::Block),
        KeyCode::Char('u') => propose(state, Order::Unblock),
        _ => {}
    }
    Wish::Nothing
}

fn after(sort: Sort) -> Sort {
    let place = Sort::ALL.iter().position(|other| *other == sort).unwrap_or(0);
    Sort::ALL.get(place + 1).copied().unwrap_or_default()
}

fn propose(state: &mut State, order: fn(ipnet::IpNet) -> Order) {
    match state.selected_source().map(|source| source.source) {
        Some(net) => state.order = Some(order(net)),
        None => state.say("select a source first, with the arrows".into()),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "there are keys without end")]
fn type_filter(state: &mut State, key: KeyCode) {
    match key {
        KeyCode::Enter => state.is_typing = false,
        KeyCode::Esc => {
            state.is_typing = false;
            state.filter.clear();
        }
        KeyCode::Backspace => drop(state.filter.pop()),
        KeyCode::Char(letter) if state.filter.len() < LONGEST_FILTER => state.filter.push(letter),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::draw::tests::top;
    use super::super::style::Style;
    use super::*;
    use crate::agent::top::TopQuery;

    fn presses(state: &mut State, keys: &str) -> Wish {
        let mut wish = Wish::Nothing;
        for key in keys.chars() {
            wish =
                press(state, KeyEvent::from(if key == '\n' { KeyCode::Enter } else { KeyCode::Char(key) }));
        }
        wish
    }

    fn state() -> State {
        let mut state = State::new(TopQuery::default(), Style::plain());
        state.take(top());
        state
    }

    #[test]
    fn nothing_is_done_without_a_yes() {
        let mut state = state();
        assert_eq!(presses(&mut state, "b"), Wish::Nothing);
        assert_eq!(state.order, None, "nothing is selected");
        assert_eq!(presses(&mut state, "jjbn"), Wish::Nothing);
        assert_eq!((state.order.clone(), state.said.as_deref()), (None, Some("nothing was done")));
        let second = state.sources()[1].source;
        assert_eq!(presses(&mut state, "by"), Wish::Do(Order::Block(second)));
        assert_eq!(presses(&mut state, "uy"), Wish::Do(Order::Unblock(second)));
        assert_eq!(presses(&mut state, "bq"), Wish::Nothing, "a key that is no answer does nothing");
        assert_eq!(presses(&mut state, "q"), Wish::Quit);
    }

    #[test]
    fn a_filter_is_text_or_a_prefix() {
        let mut state = state();
        let all = state.sources().len();
        assert_eq!(presses(&mut state, "/10.0.0.0/8\n"), Wish::Nothing);
        assert!(state.sources().iter().all(|source| source.source.to_string().starts_with("10.")));
        assert!(state.sources().len() < all);
        press(&mut state, KeyEvent::from(KeyCode::Esc));
        assert_eq!(state.sources().len(), all);
        presses(&mut state, "/q");
        assert!(state.is_typing && state.filter == "q", "it is a letter here");
    }

    #[test]
    fn what_is_selected_stays_selected() {
        let mut state = state();
        presses(&mut state, "jj");
        let selected = state.selected_source().cloned().unwrap();
        presses(&mut state, "S");
        assert_eq!(state.selected_source(), Some(&selected));
        assert_eq!(presses(&mut state, "s"), Wish::Ask);
        assert_eq!(state.query.sort, Sort::Bytes);
        presses(&mut state, "p");
        let mut other = top();
        other.sources.clear();
        state.take(other);
        assert_eq!(state.selected_source(), Some(&selected), "paused");
    }
}
