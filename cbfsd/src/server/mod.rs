//! The API server: HTTP/1.1 with JSON over a Unix socket (routes in `cbfs_core::api`). The socket is
//! 0660; root and the daemon's own user may change things, everybody else who can open it reads.
//!
//! Handlers that touch the disk or the bucket run on tokio's blocking threads.

mod bucket_metrics;
mod change_log;
mod epochs;
mod events;
mod metrics;
mod retirement;
mod snapshots;

use crate::manager::Manager;
use axum::body::Body;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use cbfs_core::api::{
    DaemonStatus, ErrorBody, InstanceInfo, MountRequest, ReloadInfo, SnapshotInfo, SnapshotRequest,
    UmountRequest, WarmInfo, WarmRequest,
};
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::ids::SnapshotNumber;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::UnixListener;
use tokio::sync::{Notify, watch};

/// What handlers share.
#[derive(Clone)]
struct Shared {
    manager: Arc<Manager>,
    started_at: String,
    shutdown: Arc<Notify>,
    /// Dropped when the server stops: ends the event streams, which would hold it up.
    stopped: watch::Receiver<bool>,
}

/// Who is on the other end of the socket.
#[derive(Debug, Clone, Copy)]
struct Peer {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Peer {
        Peer {
            uid: stream.io().peer_cred().ok().map(|c| c.uid()),
        }
    }
}

impl Peer {
    /// # Errors
    /// [`ErrorKind::Credentials`] unless the peer is root or the daemon's user.
    fn may_change(self) -> Result<()> {
        let own = rustix::process::geteuid().as_raw();
        if self.uid.is_some_and(|uid| uid == 0 || uid == own) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Credentials,
            "only root and the daemon's user may change things",
        )
        .hint("use sudo, or start a daemon of your own (CBFS_STATE_DIR, CBFS_SOCKET)"))
    }
}

/// An error on its way out.
struct Failure(Error);

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure(e)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.0.kind() {
            ErrorKind::Usage => StatusCode::BAD_REQUEST,
            ErrorKind::Credentials => StatusCode::FORBIDDEN,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::BucketUnreachable => StatusCode::BAD_GATEWAY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(ErrorBody::from(&self.0))).into_response()
    }
}

type Answer<T> = std::result::Result<Json<T>, Failure>;

/// Listen on `socket`. A socket file that nobody answers on is replaced.
pub fn bind(socket: &FilePath) -> Result<UnixListener> {
    let describe = || format!("the socket {} could not be opened", socket.display());
    if let Some(dir) = socket.parent()
        && !dir.is_dir()
    {
        fs::create_dir_all(dir).context(describe)?;
    }
    if socket.exists() {
        if std::os::unix::net::UnixStream::connect(socket).is_ok() {
            let text = format!("another daemon answers on {}", socket.display());
            return Err(Error::new(ErrorKind::Conflict, text)
                .hint("stop it, or give this one another CBFS_SOCKET"));
        }
        fs::remove_file(socket).context(describe)?;
    }
    let listener = UnixListener::bind(socket).context(describe)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o660)).context(describe)?;
    Ok(listener)
}

/// Serve until `shutdown` is notified.
pub async fn serve(
    listener: UnixListener,
    manager: Arc<Manager>,
    started_at: String,
    shutdown: Arc<Notify>,
) -> std::io::Result<()> {
    let (end_streams, stopped) = watch::channel(false);
    let shared = Shared {
        manager,
        started_at,
        shutdown: Arc::clone(&shutdown),
        stopped,
    };
    let app = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/instances", get(instances))
        .route("/v1/instances/{id}", get(instance))
        .route(
            "/v1/instances/{id}/unpublished",
            get(retirement::unpublished),
        )
        .route("/v1/instances/{id}/export", get(retirement::export))
        .route("/v1/instances/{id}/demote", post(retirement::demote))
        .route("/v1/instances/{id}/delete", post(retirement::delete))
        .route("/v1/instances/{id}/warm", post(warm))
        .route("/v1/mounts", post(mount))
        .route("/v1/umounts", post(umount))
        .route("/v1/slaves/{id}/refresh", post(refresh_slave))
        .route("/v1/snapshots", post(create_snapshot))
        .route("/v1/snapshots/{fs}", get(snapshot_list))
        .route("/v1/snapshots/{fs}/{number}", get(snapshot))
        .route("/v1/snapshots/{fs}/{number}/log", get(snapshot_log))
        .route(
            "/v1/epochs/{fs}/promote",
            get(epochs::promotion).post(epochs::promote),
        )
        .route("/v1/log/{fs}", get(change_log::change_log))
        .route(
            "/v1/snapshots/{fs}/{number}/cancel",
            post(snapshots::cancel),
        )
        .route("/v1/snapshots/{fs}/{number}/retry", post(snapshots::retry))
        .route(
            "/v1/snapshots/{fs}/{number}/retry/dry-run",
            post(snapshots::retry_dry_run),
        )
        .route("/v1/snapshots/{fs}/schedule", post(snapshots::schedule))
        .route("/v1/events", get(events::events))
        .route("/v1/reload", post(reload))
        .route("/v1/shutdown", post(stop))
        .route("/metrics", get(metrics::metrics))
        .fallback(|| async {
            Failure(Error::new(
                ErrorKind::NotFound,
                "the daemon has no such route",
            ))
        })
        .with_state(shared);
    let service = app.into_make_service_with_connect_info::<Peer>();
    let graceful = async move {
        shutdown.notified().await;
        // No stream listening any more is fine.
        let _ = end_streams.send(true);
    };
    axum::serve(listener, service)
        .with_graceful_shutdown(graceful)
        .await
}

/// Run work that blocks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> std::result::Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Failure),
        Err(e) => Err(Failure(
            Error::failed("the daemon failed inside; see its log").because(e),
        )),
    }
}

async fn status(State(shared): State<Shared>) -> Answer<DaemonStatus> {
    let status = blocking(move || {
        let manager = &shared.manager;
        Ok(DaemonStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: manager.node().to_owned(),
            pid: std::process::id(),
            started_at: shared.started_at,
            state_dir: manager.state_dir().to_owned(),
            instances: manager.instances(),
            snapshots: manager.open_snapshots(),
            buckets: cbfs_core::bucket::traffic(),
            promotions: manager.promotions(),
        })
    });
    Ok(Json(status.await?))
}

async fn instances(State(shared): State<Shared>) -> Answer<Vec<InstanceInfo>> {
    Ok(Json(
        blocking(move || Ok(shared.manager.instances())).await?,
    ))
}

async fn instance(State(shared): State<Shared>, Path(id): Path<String>) -> Answer<InstanceInfo> {
    Ok(Json(blocking(move || shared.manager.instance(&id)).await?))
}

/// A JSON body; a malformed one is a usage error with the parser's words.
fn body<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::new(ErrorKind::Usage, "the request cannot be understood").because(e))
}

async fn mount(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    bytes: axum::body::Bytes,
) -> Answer<InstanceInfo> {
    let work = move || {
        peer.may_change()?;
        let request: MountRequest = body(&bytes)?;
        shared.manager.mount(&request)
    };
    Ok(Json(blocking(work).await?))
}

async fn umount(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    bytes: axum::body::Bytes,
) -> Answer<InstanceInfo> {
    let work = move || {
        peer.may_change()?;
        let request: UmountRequest = body(&bytes)?;
        shared.manager.umount(&request)
    };
    Ok(Json(blocking(work).await?))
}

async fn refresh_slave(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(id): Path<String>,
) -> Answer<InstanceInfo> {
    let work = move || {
        peer.may_change()?;
        shared.manager.refresh(&id)
    };
    Ok(Json(blocking(work).await?))
}

async fn warm(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(id): Path<String>,
    bytes: axum::body::Bytes,
) -> Answer<WarmInfo> {
    let given_up = Arc::new(AtomicBool::new(false));
    let _gives_up = GivesUp(Arc::clone(&given_up));
    let Shared {
        manager,
        mut stopped,
        ..
    } = shared;
    let work = move || {
        peer.may_change()?; // it fills the disk
        let request: WarmRequest = body(&bytes)?;
        manager.warm(&id, &request, &given_up)
    };
    let stopping = async move {
        // An error means that the server is gone.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    tokio::select! {
        done = blocking(work) => Ok(Json(done?)),
        // It may wait for the bucket for long: the end of the daemon does not wait for it.
        () = stopping => Err(Failure(Error::new(
            ErrorKind::DaemonUnreachable,
            "the daemon is stopping",
        )
        .hint("go on when it runs again: what was fetched stays"))),
    }
}

/// Ends the work of a handler that is dropped, because the client is gone, or has answered.
struct GivesUp(Arc<AtomicBool>);

impl Drop for GivesUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn create_snapshot(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    bytes: axum::body::Bytes,
) -> Answer<SnapshotInfo> {
    let work = move || {
        peer.may_change()?;
        let request: SnapshotRequest = body(&bytes)?;
        shared.manager.snapshots_of(&request.fs)?.request(&request)
    };
    Ok(Json(blocking(work).await?))
}

async fn snapshot_list(
    State(shared): State<Shared>,
    Path(fs): Path<String>,
) -> Answer<Vec<SnapshotInfo>> {
    Ok(Json(
        blocking(move || Ok(shared.manager.snapshots_of(&fs)?.list())).await?,
    ))
}

async fn snapshot(
    State(shared): State<Shared>,
    Path((fs, number)): Path<(String, u64)>,
) -> Answer<SnapshotInfo> {
    let work = move || {
        shared
            .manager
            .snapshots_of(&fs)?
            .get(SnapshotNumber(number))
    };
    Ok(Json(blocking(work).await?))
}

async fn snapshot_log(
    State(shared): State<Shared>,
    Path((fs, number)): Path<(String, u64)>,
) -> std::result::Result<Response, Failure> {
    let work = move || {
        shared
            .manager
            .snapshots_of(&fs)?
            .log(SnapshotNumber(number))
    };
    let log = blocking(work).await?;
    Ok(([("content-type", "application/x-ndjson")], Body::from(log)).into_response())
}

async fn reload(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Answer<ReloadInfo> {
    let work = move || {
        peer.may_change()?;
        crate::reload::reload(&shared.manager)
    };
    Ok(Json(blocking(work).await?))
}

async fn stop(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Answer<serde_json::Value> {
    peer.may_change()?;
    shared.shutdown.notify_one();
    Ok(Json(serde_json::json!({})))
}
