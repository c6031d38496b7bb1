//! `GET /v1/log/{fs}?from=XID[&follow=true]`: the part of a master's change log that is still in its
//! journal, as JSON lines like those of `log.jsonl.zst`. What fails on the way is a last line
//! `{"error":…}`: the status was sent long before.
//!
//! With `follow` the answer does not end before the client or the daemon goes. The journal wakes
//! nobody when it grows (that would cost each operation), so it is looked at a few times a second.

use super::{Failure, Peer, Shared, blocking};
use crate::journal::read_range;
use crate::tiering::change_log::log_record;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::response::{IntoResponse, Response};
use cbfs_core::api::ErrorBody;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::ids::Xid;
use serde::Deserialize;
use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

/// Between two looks into a journal that did not grow.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Bytes sent at once.
const CHUNK: usize = 64 << 10;
/// Chunks on their way to a client that does not keep up; then reading waits.
const CHUNKS: usize = 8;

/// What is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Range {
    /// The first transaction.
    from: u64,
    /// Go on with what comes.
    #[serde(default)]
    follow: bool,
}

pub(super) async fn change_log(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(fs): Path<String>,
    Query(range): Query<Range>,
) -> std::result::Result<Response, Failure> {
    let Shared {
        manager, stopped, ..
    } = shared;
    let journal = blocking(move || {
        // It tells the names of all files, whatever the modes of their directories.
        peer.may_change().map_err(|e| {
            let text = "only root and the daemon's user may read the change log";
            let hint = e.hint_text().unwrap_or_default().to_owned();
            Error::new(ErrorKind::Credentials, text).hint(hint)
        })?;
        manager.journal_of(&fs)
    });
    let journal = journal.await?;
    let (sender, chunks) = mpsc::channel(CHUNKS);
    let reader = Reader {
        journal,
        next: Xid(range.from),
        chunks: sender,
        stopped,
    };
    std::thread::Builder::new()
        .name("change-log-api".into())
        .spawn(move || reader.run(range.follow))
        .context(|| "a thread could not be started".into())?;
    let body = Body::from_stream(ReceiverStream::new(chunks));
    Ok(([("content-type", "application/x-ndjson")], body).into_response())
}

struct Reader {
    journal: PathBuf,
    next: Xid,
    chunks: mpsc::Sender<std::result::Result<Vec<u8>, Infallible>>,
    stopped: watch::Receiver<bool>,
}

impl Reader {
    fn run(mut self, follow: bool) {
        loop {
            match self.send_new() {
                Ok(true) => {}
                Ok(false) => return, // nobody listens any more
                Err(e) => {
                    if let Ok(mut line) = serde_json::to_vec(&ErrorBody::from(&e)) {
                        line.push(b'\n');
                        let _ = self.chunks.blocking_send(Ok(line)); // or nobody listens
                    }
                    return;
                }
            }
            // An error means that the server is gone.
            let stopped = *self.stopped.borrow() || self.stopped.has_changed().is_err();
            if !follow || stopped || self.chunks.is_closed() {
                return;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Send what the journal has from `next` on; `false` when nobody listens.
    fn send_new(&mut self) -> Result<bool> {
        let mut chunk = Vec::new();
        let mut heard = true;
        let (chunks, next) = (&self.chunks, &mut self.next);
        read_range(&self.journal, *next, Xid(u64::MAX), |record| {
            if record.xid < *next || !heard {
                return Ok(()); // a mark of the journal's own, or not wanted
            }
            serde_json::to_writer(&mut chunk, &log_record(&record))
                .context(|| "a record could not be written".into())?;
            chunk.push(b'\n');
            *next = record.xid.next();
            if chunk.len() >= CHUNK {
                heard = chunks.blocking_send(Ok(std::mem::take(&mut chunk))).is_ok();
            }
            Ok(())
        })?;
        if heard && !chunk.is_empty() {
            heard = self.chunks.blocking_send(Ok(chunk)).is_ok();
        }
        Ok(heard)
    }
}
