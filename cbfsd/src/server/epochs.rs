//! Promotion.

use super::{Answer, Peer, Shared, blocking, body};
use axum::Json;
use axum::extract::{ConnectInfo, Path, State};
use cbfs_core::api::{PromoteRequest, PromotionInfo};

pub(super) async fn promote(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(fs): Path<String>,
    bytes: axum::body::Bytes,
) -> Answer<PromotionInfo> {
    let work = move || {
        let request: PromoteRequest = body(&bytes)?;
        if !request.dry_run {
            peer.may_change()?;
        }
        shared.manager.promote(&fs, &request)
    };
    Ok(Json(blocking(work).await?))
}

pub(super) async fn promotion(
    State(shared): State<Shared>,
    Path(fs): Path<String>,
) -> Answer<PromotionInfo> {
    Ok(Json(blocking(move || shared.manager.promotion(&fs)).await?))
}
