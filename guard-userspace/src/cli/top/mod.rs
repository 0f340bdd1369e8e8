//! `guard top`: a live view.
//!
//! | module | what it does |
//! | --- | --- |
//! | `state` | what is known and what the person at the keys wants to see of it |
//! | `keys` | what a key does |
//! | `draw` | the screen |
//! | `figures` | figures in little room |
//! | `text` | all of it as text, once |
//! | `style` | what the terminal can show |
//! | `feed` | asks the agent, beside all that |

mod draw;
mod feed;
mod figures;
mod keys;
mod state;
mod style;
mod text;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::Global;
use super::output::{print, print_json};
use crate::agent::top::{Sort, Top, TopQuery};
use crate::control::path;
use feed::{Feed, News};
use keys::Wish;
use state::State;

/// How soon a key is answered.
const BETWEEN_KEYS: Duration = Duration::from_millis(50);

/// Show live who sends how much, and block from there
#[derive(Args, Debug)]
#[command(after_help = "\
The rates are those of the last second: by service, verdict and reason, and by source. The kernel counts them only while the command runs.

Keys:
  s S       sort by another column, reverse
  /         filter
  j k       select (arrows, too)
  b u       block, unblock
  p         pause
  ?         help
  q         quit

Examples:
  guard top
  guard top --sort dropped
  guard top --once                      once, as text
  guard top --once --json | jq '.sources[:5]'

Environment:
  NO_COLOR   set: no colours")]
pub(super) struct ShowTop {
    /// By what sources are sorted
    #[arg(long, value_enum, default_value_t = Sort::Packets)]
    sort: Sort,
    /// So many sources at most
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
    /// Print what happens in one second, and end
    #[arg(long)]
    once: bool,
}

impl ShowTop {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let query = TopQuery { sort: self.sort, count: usize::from(self.count), ..TopQuery::default() };
        if self.once {
            let top = once(global, &query)?;
            if global.json {
                print_json(&top)?
            } else {
                print(&text::text(&top, self.sort))?
            }
            return Ok(ExitCode::SUCCESS);
        }
        if global.json || !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
            eprintln!("guard: top needs a terminal: use --once, with --json for scripts");
            return Ok(ExitCode::from(2));
        }
        // Whoever cannot be asked is found out before the screen is taken.
        global.client().get::<Top>(&path_of(&query))?;
        live(global, query)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn path_of(query: &TopQuery) -> String {
    format!("{}?{}", path::TOP, query.to_query())
}

/// What happens in a second.
fn once(global: &Global, query: &TopQuery) -> Result<Top> {
    global.client().get::<Top>(&path_of(query))?;
    thread::sleep(Duration::from_secs(1));
    Ok(global.client().get(&path_of(query))?)
}

fn live(global: &Global, query: TopQuery) -> Result<()> {
    let feed = Feed::start(global.client(), query.clone()).context("cannot start to ask the agent")?;
    let mut state = State::new(query, style::Style::of_environment());
    // This also sees to it that a panic leaves the terminal as it was.
    let mut terminal = ratatui::try_init().context("cannot take the terminal")?;
    let ended = run(global, &mut terminal, &mut state, &feed);
    ratatui::try_restore().context("cannot give the terminal back: type `reset`")?;
    ended
}

fn run(
    global: &Global,
    terminal: &mut ratatui::DefaultTerminal,
    state: &mut State,
    feed: &Feed,
) -> Result<()> {
    loop {
        terminal.draw(|frame| draw::screen(frame, state)).context("cannot draw")?;
        match feed.next(BETWEEN_KEYS) {
            Ok(News::Top(top)) => state.take(*top),
            Ok(News::Events(events)) => state.take_events(events),
            Ok(News::Failed(why)) => state.fail(why),
            Ok(News::End) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        while event::poll(Duration::ZERO).context("cannot read the keys")? {
            let Event::Key(key) = event::read().context("cannot read the keys")? else { continue };
            if key.kind != KeyEventKind::Press {
                continue;
            }
            match keys::press(state, key) {
                Wish::Nothing => {}
                Wish::Quit => return Ok(()),
                Wish::Ask => feed.ask(&state.query),
                Wish::Do(order) => {
                    let said = order.carry_out(global).unwrap_or_else(|error| format!("not done: {error:#}"));
                    state.say(said);
                    feed.ask(&state.query);
                }
            }
        }
    }
}
