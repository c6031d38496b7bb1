//! What changes a request for a snapshot.

use super::{Answer, Peer, Shared, blocking};
use axum::Json;
use axum::extract::{ConnectInfo, Path, State};
use cbfs_core::api::{ScheduleInfo, SnapshotInfo};
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
    shared: State<Shared>,
    peer: ConnectInfo<Peer>,
    snapshot: Path<(String, u64)>,
) -> Answer<SnapshotInfo> {
    retry_or_not(shared, peer, snapshot, false).await
}

/// A path of its own: a daemon of before it was there must not take it for the other.
pub(super) async fn retry_dry_run(
    shared: State<Shared>,
    peer: ConnectInfo<Peer>,
    snapshot: Path<(String, u64)>,
) -> Answer<SnapshotInfo> {
    retry_or_not(shared, peer, snapshot, true).await
}

async fn retry_or_not(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path((fs, number)): Path<(String, u64)>,
    dry_run: bool,
) -> Answer<SnapshotInfo> {
    let work = move || {
        // Also to ask: the bucket is asked for that.
        peer.may_change()?;
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
