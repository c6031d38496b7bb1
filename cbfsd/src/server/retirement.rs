//! What a fenced master has, and the end of instances.

use super::{Answer, Failure, Peer, Shared, blocking, body};
use axum::Json;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, State};
use axum::response::{IntoResponse, Response};
use cbfs_core::api::{InstanceInfo, RetireRequest, UnpublishedInfo};
use cbfs_core::error::Context;
use std::io::{self, BufWriter, Write};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Bytes sent at once.
const CHUNK: usize = 1 << 20;
/// Chunks on their way to a client that does not keep up; then reading waits.
const CHUNKS: usize = 4;

pub(super) async fn unpublished(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(id): Path<String>,
) -> Answer<UnpublishedInfo> {
    let work = move || {
        peer.may_change()?; // it tells names, whatever the modes of their directories
        shared.manager.unpublished(&id)
    };
    Ok(Json(blocking(work).await?))
}

/// A tar. What fails on the way breaks the connection: a tar without its end is none.
pub(super) async fn export(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(id): Path<String>,
) -> std::result::Result<Response, Failure> {
    let (manager, asked) = (shared.manager.clone(), id.clone());
    let judge = move || {
        peer.may_change()?;
        manager.unpublished(&asked).map(drop)
    };
    blocking(judge).await?;
    let (sender, chunks) = mpsc::channel(CHUNKS);
    let run = move || {
        let mut out = BufWriter::with_capacity(CHUNK, Chunks(sender.clone()));
        let written = shared.manager.export_unpublished(&id, &mut out);
        if let Err(e) = written {
            tracing::error!(instance = id, causes = ?e.causes(), "export: {e}");
            // Nobody may listen any more.
            let _ = sender.blocking_send(Err(io::Error::other(e.to_string())));
        }
    };
    std::thread::Builder::new()
        .name("export".into())
        .spawn(run)
        .context(|| "a thread could not be started".into())?;
    let body = Body::from_stream(ReceiverStream::new(chunks));
    Ok(([("content-type", "application/x-tar")], body).into_response())
}

/// Sends what is written.
struct Chunks(mpsc::Sender<io::Result<Vec<u8>>>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(bytes.to_vec()));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) async fn demote(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(id): Path<String>,
    bytes: axum::body::Bytes,
) -> Answer<Option<InstanceInfo>> {
    let work = move || {
        peer.may_change()?;
        let request: RetireRequest = body(&bytes)?;
        shared.manager.demote(&id, &request)
    };
    Ok(Json(blocking(work).await?))
}

pub(super) async fn delete(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(id): Path<String>,
    bytes: axum::body::Bytes,
) -> Answer<InstanceInfo> {
    let work = move || {
        peer.may_change()?;
        let request: RetireRequest = body(&bytes)?;
        shared.manager.delete_instance(&id, &request)
    };
    Ok(Json(blocking(work).await?))
}
