//! `/v1/events`: server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use super::Shared;
use crate::manager::Told;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream;
use std::convert::Infallible;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;

pub(super) async fn events(State(shared): State<Shared>, headers: HeaderMap) -> impl IntoResponse {
    let last = headers
        .get("last-event-id")
        .map(|id| id.to_str().unwrap_or_default().to_owned());
    let (missed, live) = shared.manager.events().subscribe(last.as_deref());
    let missed = missed.into_iter().filter_map(|told| encode(&told));
    // A listener that fell behind misses events: it asks for the state now and then anyway.
    let live = BroadcastStream::new(live).filter_map(|told| encode(&told.ok()?));
    let all = futures_util::StreamExt::chain(stream::iter(missed), live);
    let mut stopped = shared.stopped;
    let until = async move {
        // An error means that the server is gone.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    Sse::new(futures_util::StreamExt::take_until(all, Box::pin(until)))
        .keep_alive(KeepAlive::default())
}

fn encode((id, event): &Told) -> Option<Result<Event, Infallible>> {
    let sent = Event::default();
    let sent = match id {
        Some(id) => sent.id(id),
        None => sent,
    };
    match sent.json_data(event) {
        Ok(sent) => Some(Ok(sent)),
        Err(e) => {
            tracing::error!("an event could not be written as JSON: {e}");
            None
        }
    }
}
