//! Both servers over memory instead of sockets: what a client sends is there as a whole, and so is what it is answered.

use std::cell::Cell;
use std::future::pending;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::time::sleep;

use super::http::{self, Bounds};
use super::places::Owner;

/// Longer answers than this are read while they come.
const BUFFER: usize = 64 << 10;

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Stranger<K> {
    pub(super) owner: Owner,
    pub(super) known: K,
}

impl Default for Stranger<()> {
    fn default() -> Self {
        Self { owner: Owner::Unknown, known: () }
    }
}

/// One client, and no other after it.
struct One(Option<DuplexStream>);

impl Listener for One {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.take() {
            Some(stream) => (stream, ()),
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// What a server answers to a client that sends these bytes, and closes once no answer has come for `patience`.
pub(super) async fn answers<K: Clone + Send + Sync + 'static>(
    bytes: &[u8],
    bounds: Bounds,
    router: Router,
    client: Stranger<K>,
    patience: Duration,
) -> Vec<u8> {
    let (theirs, server) = duplex(BUFFER);
    let (mut reader, mut writer) = tokio::io::split(theirs);
    let (_goes_on, stopped) = watch::channel(false);
    let know = |_: &DuplexStream| (client.owner, client.known.clone());
    let length = Cell::new(0);
    let send = async {
        // The server may refuse it before the end.
        let _ = writer.write_all(bytes).await;
        let mut before = usize::MAX;
        while length.get() != before {
            before = length.get();
            sleep(patience).await;
        }
        let _ = writer.shutdown().await;
        pending::<()>().await;
    };
    let mut answers = Vec::new();
    let receive = async {
        while reader.read_buf(&mut answers).await.is_ok_and(|read| read > 0) {
            length.set(answers.len());
        }
    };
    tokio::select! {
        () = http::serve(One(Some(server)), bounds, router, know, stopped) => {}
        () = send => {}
        () = receive => {}
    }
    answers
}
