//! What daemons and buckets tell: how it changes the state.

use crate::fixtures::{
    BUCKET, COLOUR, Told, at, bucket, home, instance, lost, note, request, slave, status,
};
use cbfs_core::api::{DaemonEvent, ErrorDetail, Severity};
use cbfs_core::error::ErrorKind;
use cbfs_core::snapshot::SnapshotState;
use cbfs_tui::bucket_view::ViewKey;
use cbfs_tui::message::{Effect, Message, News};
use cbfs_tui::state::Link;
use serde_json::json;

fn key() -> ViewKey {
    ViewKey {
        bucket: BUCKET.into(),
        fs: home(),
    }
}

fn texts(told: &Told) -> Vec<String> {
    let all = told.state.events.newest_first();
    all.map(|(_, e)| e.note.text.clone()).collect()
}

#[test]
fn a_daemon_goes_and_comes_back_and_both_are_told_once() {
    let mut told = Told::new(80, 24);
    told.news(News::Status(Box::new(status(vec![instance(json!({}))]))));
    told.news(lost())
        .later(3_000)
        .news(lost())
        .later(4_000)
        .news(lost());
    assert!(matches!(told.state.daemons[0].link, Link::Lost { .. }));
    assert_eq!(texts(&told), ["the daemon of node-a-4 went away"]);
    // What was known stays on the screen.
    assert!(told.screen(&COLOUR).contains("home"));
    told.news(News::Status(Box::new(status(vec![instance(json!({}))]))));
    assert!(matches!(told.state.daemons[0].link, Link::Connected { .. }));
    assert_eq!(texts(&told)[0], "the daemon of node-a-4 is back after 7.0s");
    told.news(News::Status(Box::new(status(vec![instance(json!({}))]))));
    assert_eq!(texts(&told).len(), 2);
}

#[test]
fn an_older_answer_does_not_undo_a_newer_event() {
    let mut told = Told::working(80, 24);
    let complete = json!({"updated_at": "2026-03-14T12:00:09Z"});
    told.snapshot(request(43, "complete", complete));
    let mut crossed = status(vec![instance(json!({})), slave()]);
    crossed.snapshots = vec![request(43, "copying", json!({}))];
    told.news(News::Status(Box::new(crossed)));
    let row = told
        .state
        .snapshot_rows
        .iter()
        .find(|r| r.id.number.0 == 43)
        .unwrap();
    assert_eq!(row.state, SnapshotState::Complete);
}

#[test]
fn the_rate_of_a_snapshot_is_measured_and_the_rest_foretold() {
    let told = Told::working(120, 40);
    let screen = told.screen(&COLOUR);
    assert!(screen.contains("86M/s"), "{screen}");
    assert!(
        screen.contains("64%  430M of 668M  31/48 objects"),
        "{screen}"
    );
    assert!(screen.contains("0:02 left"), "{screen}");
    let meters = &told.state.daemons[0].meters;
    assert_eq!(meters.len(), 1);
}

#[test]
fn the_meter_goes_when_the_snapshot_ends() {
    let mut told = Told::working(80, 24);
    told.snapshot(request(
        43,
        "complete",
        json!({"updated_at": "2026-03-14T12:00:09Z"}),
    ));
    assert!(told.state.daemons[0].meters.is_empty());
}

#[test]
fn a_bucket_is_looked_at_once_and_again_when_something_changed_or_after_a_while() {
    let mut told = Told::new(80, 24);
    told.news(News::Status(Box::new(status(vec![instance(json!({}))]))));
    assert!(matches!(&told.effects[..], [Effect::LookAtBucket(k, _)] if *k == key()));
    told.later(1_000);
    assert!(told.effects.is_empty(), "it is under way");
    told.tell(Message::Bucket(key(), Ok(Box::new(bucket()))));
    assert!(told.effects.is_empty());
    told.snapshot(request(42, "complete", json!({})));
    assert_eq!(told.effects.len(), 1, "a snapshot became complete");
    told.tell(Message::Bucket(key(), Ok(Box::new(bucket()))));
    told.later(59_000);
    assert!(told.effects.is_empty());
    told.later(1_000);
    assert!(
        matches!(&told.effects[..], [Effect::LookAtBucket(_, known)] if known.epochs.len() == 7)
    );
}

#[test]
fn a_bucket_that_cannot_be_read_is_told_once_and_not_asked_at_once_again() {
    let mut told = Told::new(80, 24);
    told.news(News::Status(Box::new(status(vec![instance(json!({}))]))));
    let error = ErrorDetail {
        kind: ErrorKind::Credentials,
        message: "the bucket refuses us".into(),
        hint: None,
        causes: vec![],
    };
    for _ in 0..3 {
        told.tell(Message::Bucket(key(), Err(error.clone())));
        assert!(told.effects.is_empty());
        told.snapshot(request(42, "complete", json!({})));
        assert!(told.effects.is_empty());
        told.later(60_000);
        assert_eq!(told.effects.len(), 1);
    }
    assert_eq!(texts(&told).len(), 1);
    assert!(
        told.screen(&COLOUR)
            .contains("the bucket cannot be read from here")
    );
}

#[test]
fn a_deleted_snapshot_leaves_the_list_with_the_next_look() {
    let mut told = Told::working(80, 24);
    let mut view = bucket();
    view.snapshots.remove(&at(38, 7));
    view.snapshots.remove(&at(41, 7));
    view.deleted.extend([at(38, 7), at(41, 7)]);
    told.tell(Message::Bucket(key(), Ok(Box::new(view))));
    let numbers: Vec<u64> = told
        .state
        .snapshot_rows
        .iter()
        .map(|r| r.id.number.0)
        .collect();
    assert_eq!(
        numbers,
        [44, 43, 42, 40, 39],
        "41 is known to the daemon too"
    );
}

#[test]
fn a_status_log_that_is_shown_is_read_again_while_it_grows() {
    let mut told = Told::working(80, 24);
    told.keys(&["2", "Down", "Enter"]);
    let log = Effect::ReadLog(0, home(), at(43, 7).number);
    assert_eq!(told.effects, std::slice::from_ref(&log));
    let grown = |second: u64| {
        request(
            43,
            "copying",
            json!({"updated_at": format!("2026-03-14T12:01:0{second}Z")}),
        )
    };
    told.snapshot(grown(1));
    assert!(told.effects.is_empty(), "not more than once a second");
    told.later(1_000);
    told.snapshot(grown(2));
    assert_eq!(told.effects, [log]);
    told.keys(&["Esc"]);
    told.later(1_000);
    told.snapshot(grown(3));
    assert!(told.effects.is_empty() && told.state.log.is_none());
}

#[test]
fn an_unmounted_slave_goes_with_the_next_status() {
    let mut told = Told::working(80, 24);
    told.news(News::Status(Box::new(status(vec![instance(json!({}))]))));
    assert_eq!(told.state.instance_rows.len(), 1);
    assert_eq!(
        told.state.buckets.len(),
        1,
        "nothing is kept of what is gone"
    );
}

#[test]
fn notes_of_daemons_keep_their_severity() {
    let mut told = Told::new(80, 24);
    told.event(note("warning", "2026-03-14T12:00:00Z", "hot", &[]));
    let (_, event) = told.state.events.newest_first().next().unwrap();
    assert_eq!(
        (event.note.severity, event.daemon),
        (Severity::Warning, Some(0))
    );
    // One that does not exist is no reason to fall over.
    told.tell(Message::Daemon(
        7,
        News::Event(Box::new(DaemonEvent::Instance {
            instance: serde_json::from_value(instance(json!({}))).unwrap(),
        })),
    ));
}
