//! Asks the agent, beside the screen, and hears when it is to end.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use super::path_of;
use crate::agent::top::{Top, TopQuery};
use crate::cli::events;
use crate::control::{Client, path};
use crate::events::Page;

const BETWEEN_QUESTIONS: Duration = Duration::from_secs(1);
/// So many events are asked for.
const EVENTS: usize = 20;

/// What is new.
pub(super) enum News {
    Top(Box<Top>),
    /// The last ones, a line each, the newest last.
    Events(Vec<String>),
    Failed(String),
    /// A signal says so.
    End,
}

pub(super) struct Feed {
    news: Receiver<News>,
    query: Arc<Mutex<TopQuery>>,
    now: Sender<()>,
}

impl Feed {
    pub(super) fn start(client: Client, query: TopQuery) -> io::Result<Self> {
        let query = Arc::new(Mutex::new(query));
        let (sender, news) = mpsc::channel();
        let (now, asked) = mpsc::channel();
        listen_for_signals(sender.clone())?;
        let asks = Arc::clone(&query);
        thread::Builder::new().name("feed".into()).spawn(move || {
            loop {
                let query = asks.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let told = [
                    client.get::<Top>(&path_of(&query)).map(|top| News::Top(Box::new(top))),
                    client.get::<Page>(&format!("{}?last={EVENTS}", path::EVENTS)).map(lines),
                ];
                for news in told {
                    let news = news.unwrap_or_else(|error| News::Failed(error.to_string()));
                    if sender.send(news).is_err() {
                        return;
                    }
                }
                if let Err(RecvTimeoutError::Disconnected) = asked.recv_timeout(BETWEEN_QUESTIONS) {
                    return;
                }
            }
        })?;
        Ok(Self { news, query, now })
    }

    pub(super) fn next(&self, patience: Duration) -> Result<News, RecvTimeoutError> {
        self.news.recv_timeout(patience)
    }

    /// Asks this from now on, and at once.
    pub(super) fn ask(&self, query: &TopQuery) {
        self.query.lock().unwrap_or_else(PoisonError::into_inner).clone_from(query);
        // If nobody listens, there is news of that.
        let _ = self.now.send(());
    }
}

fn lines(page: Page) -> News {
    News::Events(page.entries.iter().map(|entry| events::render(entry).trim_end().to_owned()).collect())
}

/// So that the terminal is given back.
fn listen_for_signals(sender: Sender<News>) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            let (Ok(mut end), Ok(mut hangup)) =
                (signal(SignalKind::terminate()), signal(SignalKind::hangup()))
            else {
                return;
            };
            tokio::select! {
                _ = end.recv() => {}
                _ = hangup.recv() => {}
            }
            // The screen may have ended by itself.
            let _ = sender.send(News::End);
        });
    })?;
    Ok(())
}
