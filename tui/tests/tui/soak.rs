//! A day's worth of events: what is kept stays bounded, and only rows on the screen are built.

use crate::fixtures::{
    BUCKET, COLOUR, PLAIN, Told, at, bucket, home, instance, lost, note, request, slave, status,
};
use cbfs_tui::bucket_view::ViewKey;
use cbfs_tui::history::SAMPLES;
use cbfs_tui::message::{Message, News};
use cbfs_tui::snapshot_rows::settle;
use cbfs_tui::state::{EVENTS_KEPT, Pane, REQUESTS_KEPT};
use serde_json::{Value, json};

/// One snapshot from request to its end, as a daemon tells it.
fn recorded(number: u64) -> Vec<Value> {
    let updated = |n: u64| {
        format!(
            "2026-03-14T{:02}:{:02}:{:02}Z",
            number / 3600 % 24,
            number / 60 % 60,
            n
        )
    };
    let mut told = vec![
        json!({"state": "queued", "updated_at": updated(0)}),
        json!({"state": "collected", "updated_at": updated(1), "bytes_total": 1000}),
    ];
    for n in 2..5 {
        told.push(json!({"state": "writing", "updated_at": updated(n), "bytes_total": 1000, "bytes_done": n * 100}));
    }
    told.push(json!({"state": "copying", "updated_at": updated(8), "retries": 1, "reason": "503"}));
    let end = if number.is_multiple_of(50) {
        "failed"
    } else {
        "complete"
    };
    told.push(json!({"state": end, "updated_at": updated(9)}));
    told
}

#[test]
fn a_day_of_events_takes_no_more_than_its_bounds() {
    let mut told = Told::new(120, 40);
    told.lazy = true;
    told.news(News::Status(Box::new(status(vec![
        instance(json!({})),
        slave(),
    ]))));
    let key = ViewKey {
        bucket: BUCKET.into(),
        fs: home(),
    };
    for number in 1..=5_200_u64 {
        for changed in recorded(number) {
            let state = changed["state"].as_str().unwrap().to_owned();
            told.state.now.0 += 250;
            told.snapshot(request(number, &state, changed));
        }
        for n in 0..2 {
            told.event(note(
                "info",
                "2026-03-14T12:00:00Z",
                &format!("note {number}.{n}"),
                &["why"],
            ));
        }
        let traffic = json!({"read_bytes": number * 1000, "puts": number});
        let changed = instance(json!({"traffic": traffic, "xid": number}));
        told.news(News::Status(Box::new(status(vec![changed, slave()]))));
        if number.is_multiple_of(400) {
            told.tell(Message::Bucket(key.clone(), Ok(Box::new(bucket()))));
            settle(&mut told.state);
            told.screen(&COLOUR);
        }
        if number.is_multiple_of(700) {
            told.news(lost());
        }
    }
    let state = &told.state;
    assert_eq!(state.events.len(), EVENTS_KEPT);
    let daemon = &state.daemons[0];
    assert!(
        daemon.requests.len() <= REQUESTS_KEPT && daemon.requests.len() >= REQUESTS_KEPT * 9 / 10
    );
    assert!(daemon.meters.is_empty());
    assert_eq!(
        state.buckets.len(),
        1,
        "only what was selected was looked at"
    );
    assert!(state.snapshot_rows.len() <= REQUESTS_KEPT + 4);
    for watched in daemon.instances.values() {
        for series in [
            &watched.read,
            &watched.written,
            &watched.changes,
            &watched.puts,
            &watched.gets,
            &watched.sent,
            &watched.received,
        ] {
            assert!(series.len() <= SAMPLES);
        }
    }
    assert!(state.notice.is_none() && state.log.is_none() && state.overlay.is_none());
}

#[test]
fn among_a_thousand_snapshots_and_ten_thousand_events_every_row_can_be_reached() {
    let mut told = Told::new(120, 40);
    told.news(News::Status(Box::new(status(vec![instance(json!({}))]))));
    let requests = (1..=1_000).map(|n| request(n, "complete", json!({})));
    told.news(News::Requests(home(), requests.collect()));
    for n in 0..EVENTS_KEPT {
        told.event(note(
            "info",
            "2026-03-14T12:00:00Z",
            &format!("event {n}"),
            &[],
        ));
    }
    told.keys(&["2", "End"]);
    assert_eq!(told.state.selected_snapshot().unwrap().id, at(1, 7));
    for _ in 0..500 {
        told.keys(&["Up"]);
        told.screen(&PLAIN);
    }
    assert_eq!(told.state.selected_snapshot().unwrap().id, at(501, 7));
    assert!(told.screen(&PLAIN).contains(">  501 + complete"));
    told.keys(&["6", "End"]);
    assert!(told.screen(&COLOUR).contains("event 0"));
    told.keys(&["Home", "/", "event 99", "Enter"]);
    assert_eq!(told.state.focus, Pane::Events);
    assert!(told.screen(&COLOUR).contains("event 9999"));
    assert_eq!(told.state.filtered_events().count(), 111);
}
