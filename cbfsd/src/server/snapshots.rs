//! What changes a request for a snapshot.

use super::{Answer, Peer, Shared, blocking, body};
use axum::Json;
use axum::extract::{ConnectInfo, Path, State};
use cbfs_core::api::{RetryRequest, ScheduleInfo, SnapshotInfo};
use cbfs_core::ids::SnapshotNumber;

pub(super) async fn cancel(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path((fs, number)): Path<(String, u64)>,
) -> Answer<SnapshotInfo> {
    let work = move || {
        peer.may_change()?;
        let service = shared.manager.snapshots_of(&fs)?;
        service.cancel(SnapshotNumber(number))
    };
    Ok(Json(blocking(work).await?))
}

pub(super) async fn retry(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path((fs, number)): Path<(String, u64)>,
    bytes: axum::body::Bytes,
) -> Answer<SnapshotInfo> {
    let work = move || {
        let RetryRequest { dry_run } = body(&bytes)?;
        if !dry_run {
            peer.may_change()?;
        }
        let service = shared.manager.snapshots_of(&fs)?;
        service.retry(SnapshotNumber(number), dry_run)
    };
    Ok(Json(blocking(work).await?))
}

pub(super) async fn schedule(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(fs): Path<String>,
) -> Answer<ScheduleInfo> {
    let work = move || {
        peer.may_change()?;
        shared.manager.snapshots_of(&fs)?.refresh_settings()
    };
    Ok(Json(blocking(work).await?))
}
