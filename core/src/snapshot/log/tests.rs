use super::*;
use crate::error::Result;
use crate::handle::Handle;
use crate::ids::Xid;
use crate::inode::Timestamp;
use crate::snapshot::FailureType;
use proptest::prelude::*;
use std::sync::atomic::{AtomicI64, Ordering};
use uuid::Uuid;

/// One second later at each look.
#[derive(Default)]
struct Ticking(AtomicI64);

impl Clock for Ticking {
    fn now(&self) -> Timestamp {
        Timestamp::from_parts(1_700_000_000 + self.0.fetch_add(1, Ordering::SeqCst), 0)
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(Ticking::default())
}

fn create(path: &Path) -> Result<StatusLog> {
    let name = Some("before-upgrade".to_owned());
    StatusLog::create(
        path,
        SnapshotNumber(7),
        name,
        SnapshotKind::User,
        Epoch(3),
        clock(),
    )
}

fn new_log() -> (tempfile::TempDir, PathBuf, StatusLog) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0000000007.jsonl");
    let log = create(&path).unwrap();
    (dir, path, log)
}

fn state(state: SnapshotState) -> StatusEvent {
    StatusEvent::State { state }
}

fn attempt(id: &str) -> StatusEvent {
    StatusEvent::Attempt {
        attempt: id.to_owned(),
        boot_id: format!("boot-of-{id}"),
        kept: None,
        anew_because: None,
    }
}

fn made(key: &str, size: u64) -> StatusEvent {
    StatusEvent::ObjectMade {
        key: key.to_owned(),
        size,
    }
}

fn sent(key: &str, size: u64) -> StatusEvent {
    StatusEvent::ObjectSent {
        key: key.to_owned(),
        size,
    }
}

fn append_all(log: &mut StatusLog, events: Vec<StatusEvent>) {
    for event in events {
        log.append(event).unwrap();
    }
}

#[test]
fn a_request_is_on_the_disk_before_it_is_accepted() {
    let (dir, path, log) = new_log();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 2);
    assert_eq!(
        text.lines().next().unwrap(),
        r#"{"at":"2023-11-14T22:13:20Z","event":"requested","number":7,"name":"before-upgrade","kind":"user","epoch":3}"#
    );
    assert_eq!(log.status().state, SnapshotState::Queued);
    assert_eq!(log.path(), path);
    assert_eq!(
        StatusLog::open(&path, clock()).unwrap().status(),
        log.status()
    );
    assert_eq!(create(&path).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "no temporary file stays"
    );
    let none = StatusLog::open(&dir.path().join("none"), clock()).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound);
}

#[test]
fn the_log_read_back_tells_the_same_as_the_writer() {
    use SnapshotState::*;
    let (_dir, path, mut log) = new_log();
    let fs = Handle::new("home", Uuid::from_u128(1)).unwrap();
    assert_eq!(log.status().to_info(&fs, 4).queue_place, 4);
    append_all(
        &mut log,
        vec![
            StatusEvent::Cut {
                xid: Xid(99),
                held_us: Some(70),
            },
            state(Collected),
            StatusEvent::Planned {
                inodes: 10,
                files: 5,
                bytes: 5000,
            },
            attempt("a1"),
            state(Writing),
            StatusEvent::Progress {
                files: 2,
                bytes: 2000,
            },
            made("s/0001.tar.zst", 100),
            made("s/toc\n\"x", 50),
            sent("s/0001.tar.zst", 100),
            StatusEvent::Retry {
                what: "PUT".into(),
                reason: "503".into(),
                wait_ms: 1600,
            },
        ],
    );
    let info = log.status().to_info(&fs, 4);
    assert_eq!(
        (info.queue_place, info.xid, info.inodes),
        (0, Some(Xid(99)), 10)
    );
    assert_eq!((info.files_done, info.files_total), (2, 5));
    assert_eq!((info.bytes_done, info.bytes_total), (2000, 5000));
    assert_eq!((info.objects_made, info.made_bytes), (2, 150));
    assert_eq!((info.objects_sent, info.sent_bytes), (1, 100));
    assert_eq!((info.retries, info.reason.as_deref()), (1, Some("503")));
    assert_eq!((info.state, info.fs), (Writing, fs));
    assert!(info.updated_at > info.requested_at);
    assert_eq!(log.status().boot_id.as_deref(), Some("boot-of-a1"));
    append_all(
        &mut log,
        vec![state(Written), state(Copying), state(Complete)],
    );
    assert_eq!(log.status().reason, None);
    assert_eq!(log.status().state_times.len(), 6);
    let read = SnapshotStatus::parse(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(&read, log.status());
    assert_eq!(StatusLog::open(&path, clock()).unwrap().status(), &read);
}

#[test]
fn a_new_attempt_starts_from_nothing_and_a_resumed_one_does_not() {
    use SnapshotState::*;
    let (_dir, _path, mut log) = new_log();
    append_all(
        &mut log,
        vec![
            StatusEvent::Cut {
                xid: Xid(9),
                held_us: Some(70),
            },
            state(Collected),
            attempt("a1"),
            state(Writing),
            StatusEvent::Progress { files: 1, bytes: 2 },
            made("k", 3),
            sent("k", 3),
            attempt("a1"),
        ],
    );
    assert_eq!((log.status().made.len(), log.status().sent.len()), (1, 1));
    append_all(&mut log, vec![attempt("a2")]);
    let status = log.status();
    assert!(status.made.is_empty() && status.sent.is_empty());
    assert_eq!((status.files_done, status.bytes_done), (0, 0));
    assert_eq!(
        (status.attempt.as_deref(), status.xid),
        (Some("a2"), Some(Xid(9)))
    );
    append_all(&mut log, vec![state(Queued)]);
    assert_eq!(log.status().xid, None, "there will be another cut");
}

#[test]
fn a_failure_stands_until_it_is_tried_again() {
    use SnapshotState::*;
    let (_dir, _path, mut log) = new_log();
    let failure = FailureType::Transient;
    append_all(
        &mut log,
        vec![
            StatusEvent::Failure {
                failure,
                reason: "403".into(),
            },
            state(Failed),
        ],
    );
    assert_eq!(log.status().failure, Some(FailureType::Transient));
    append_all(&mut log, vec![state(Queued)]);
    assert_eq!(
        (log.status().failure, log.status().reason.as_deref()),
        (None, Some("403"))
    );
}

#[test]
fn an_illegal_transition_is_refused_and_nothing_is_written() {
    use SnapshotState::*;
    let (_dir, path, mut log) = new_log();
    let before = std::fs::read(&path).unwrap();
    let status = log.status().clone();
    let again = StatusEvent::Requested {
        number: SnapshotNumber(7),
        name: None,
        kind: SnapshotKind::User,
        epoch: Epoch(1),
    };
    for event in [state(Queued), state(Writing), state(Complete), again] {
        assert_eq!(log.append(event).unwrap_err().kind(), ErrorKind::Conflict);
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(log.status(), &status);
    append_all(&mut log, vec![state(Cancelled)]);
    for event in [state(Collected), StatusEvent::CancelRequested] {
        assert_eq!(log.append(event).unwrap_err().kind(), ErrorKind::Conflict);
    }
    assert_eq!(
        StatusLog::open(&path, clock()).unwrap().status().state,
        Cancelled
    );
}

#[test]
fn a_withdrawn_request_says_so_until_it_ends_and_a_retry_begins_anew() {
    let (_dir, path, mut log) = new_log();
    append_all(
        &mut log,
        vec![
            state(SnapshotState::Collected),
            StatusEvent::Failure {
                failure: FailureType::Transient,
                reason: "503".to_owned(),
            },
            StatusEvent::CancelRequested,
        ],
    );
    let status = StatusLog::open(&path, clock()).unwrap().status().clone();
    assert!(status.cancel_requested && status.failing_since.is_some());
    assert_eq!(status.failed_attempts, 1);
    append_all(&mut log, vec![state(SnapshotState::Cancelled)]);
    assert!(!log.status().cancel_requested);
    assert_eq!(log.status().reason, None);
    append_all(&mut log, vec![state(SnapshotState::Queued)]);
    let status = log.status();
    assert_eq!(
        (status.failing_since.as_ref(), status.failed_attempts),
        (None, 0)
    );
    assert_eq!(status.xid, None);
}

#[test]
fn what_arrives_ends_a_failure_unless_an_attempt_has_failed() {
    let sent = || StatusEvent::ObjectSent {
        key: "k".to_owned(),
        size: 1,
    };
    let (_dir, _path, mut log) = new_log();
    append_all(
        &mut log,
        vec![StatusEvent::Retry {
            what: "PUT k".to_owned(),
            reason: "503".to_owned(),
            wait_ms: 1,
        }],
    );
    assert!(log.status().failing_since.is_some());
    append_all(&mut log, vec![sent()]);
    assert_eq!(log.status().failing_since, None);
    append_all(
        &mut log,
        vec![
            StatusEvent::Failure {
                failure: FailureType::Transient,
                reason: "disk full".to_owned(),
            },
            sent(),
        ],
    );
    assert!(log.status().failing_since.is_some());
}

#[test]
fn time_in_which_the_file_system_is_deleted_is_no_failure() {
    let (_dir, path, mut log) = new_log();
    let failure = || StatusEvent::Failure {
        failure: FailureType::Transient,
        reason: "503".to_owned(),
    };
    append_all(&mut log, vec![failure(), StatusEvent::FsDeleted]);
    let status = StatusLog::open(&path, clock()).unwrap().status().clone();
    assert_eq!(
        (status.failing_since.as_ref(), status.failed_attempts),
        (None, 0)
    );
    append_all(&mut log, vec![failure()]);
    let status = log.status();
    assert_eq!(status.failing_since.as_ref(), Some(&status.updated_at));
}

#[test]
fn every_transition_is_judged_by_the_state_machine() {
    use SnapshotState::*;
    let all = [
        Queued, Collected, Writing, Written, Copying, Complete, Failed, Cancelled,
    ];
    let line = |event| StatusLine {
        at: "t".to_owned(),
        event,
    };
    for from in all {
        for to in all {
            let (_dir, _path, log) = new_log();
            let mut status = log.status().clone();
            status.state = from;
            let result = status.apply(&line(state(to)));
            assert_eq!(result.is_ok(), from.may_become(to), "{from:?} {to:?}");
            assert_eq!(status.state, if result.is_ok() { to } else { from });
        }
    }
}

#[test]
fn a_torn_last_line_is_cut_off_and_writing_goes_on() {
    let (_dir, path, mut log) = new_log();
    append_all(&mut log, vec![state(SnapshotState::Collected)]);
    let status = log.status().clone();
    let whole = std::fs::read(&path).unwrap();
    append_all(&mut log, vec![attempt("a1")]);
    let longer = std::fs::read(&path).unwrap();
    for cut in whole.len()..longer.len() {
        std::fs::write(&path, &longer[..cut]).unwrap();
        assert_eq!(SnapshotStatus::parse(&longer[..cut]).unwrap(), status);
        let mut log = StatusLog::open(&path, clock()).unwrap();
        assert_eq!(log.status(), &status);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        append_all(&mut log, vec![attempt("a2")]);
        let read = SnapshotStatus::parse(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(read.attempt.as_deref(), Some("a2"));
    }
}

#[test]
fn damage_elsewhere_names_file_and_line_and_is_not_touched() {
    let (_dir, path, _log) = new_log();
    let good = std::fs::read_to_string(&path).unwrap();
    let complete = r#"{"at":"t","event":"state","state":"complete"}"#;
    for (bad, line) in [
        (
            format!("{good}garbage\n{}", good.lines().last().unwrap()),
            3,
        ),
        (format!("{good}{complete}\n"), 3),
        (good.replacen("\"number\":7", "\"number\":\"7", 1), 1),
        (format!("{}\n", good.lines().last().unwrap()), 1),
        ("\n".to_owned(), 1),
        (
            format!("{good}{{\"at\":\"t\",\"event\":\"state\",\"state\":5}}\n"),
            3,
        ),
        (format!("{good}{{\"at\":\"t\",\"event\":\"cut\"}}\n"), 3),
    ] {
        std::fs::write(&path, &bad).unwrap();
        let error = StatusLog::open(&path, clock()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damage, "{bad}");
        let text = error.to_string();
        assert!(
            text.contains("0000000007.jsonl") && text.contains(&format!("line {line} ")),
            "{text}"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), bad);
    }
    for empty in ["", "{\"at\""] {
        std::fs::write(&path, empty).unwrap();
        assert_eq!(
            StatusLog::open(&path, clock()).unwrap_err().kind(),
            ErrorKind::Damage
        );
    }
}

#[test]
fn lines_of_a_newer_version_are_skipped_or_refused_by_name() {
    let (_dir, path, log) = new_log();
    let good = std::fs::read_to_string(&path).unwrap();
    let with = |line: &str| format!("{good}{line}\n");
    let text = with(r#"{"at":"2030-01-01T00:00:00Z","event":"archived","state":7}"#)
        + "{\"at\":\"t\",\"event\":\"state\",\"state\":\"collected\",\"extra\":1}\n";
    let status = SnapshotStatus::parse(text.as_bytes()).unwrap();
    assert_eq!(
        (status.unknown_events, status.state),
        (1, SnapshotState::Collected)
    );
    assert_eq!(log.status().unknown_events, 0);
    for (line, word) in [
        (
            r#"{"at":"t","event":"state","state":"verifying"}"#,
            "verifying",
        ),
        (
            r#"{"at":"t","event":"failure","failure":"eternal","reason":"x"}"#,
            "eternal",
        ),
    ] {
        std::fs::write(&path, with(line)).unwrap();
        let error = StatusLog::open(&path, clock()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FormatTooNew);
        assert!(
            error.causes().iter().any(|cause| cause.contains(word)),
            "{:?}",
            error.causes()
        );
        assert_eq!(error.hint_text(), Some("upgrade CBFS on this machine"));
    }
}

#[test]
fn every_event_of_this_version_is_known_to_the_parser() {
    use SnapshotState::*;
    let (_dir, path, mut log) = new_log();
    append_all(
        &mut log,
        vec![
            attempt("a"),
            StatusEvent::Cut {
                xid: Xid(1),
                held_us: Some(70),
            },
            StatusEvent::Planned {
                inodes: 1,
                files: 1,
                bytes: 1,
            },
            StatusEvent::Progress { files: 1, bytes: 1 },
            made("k", 1),
            sent("k", 1),
            StatusEvent::Retry {
                what: "PUT".into(),
                reason: "503".into(),
                wait_ms: 1,
            },
            StatusEvent::Failure {
                failure: FailureType::Permanent,
                reason: "403".into(),
            },
            state(Failed),
        ],
    );
    let read = SnapshotStatus::parse(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!((read.unknown_events, &read), (0, log.status()));
}

#[test]
fn a_failed_write_poisons_the_log_when_it_cannot_be_undone() {
    let (_dir, _path, mut log) = new_log();
    let before = log.status().clone();
    log.file = OpenOptions::new().append(true).open("/dev/full").unwrap();
    let first = log.append(attempt("a1")).unwrap_err();
    assert_eq!(first.kind(), ErrorKind::Failed);
    assert!(
        first.causes()[0].contains("No space"),
        "{:?}",
        first.causes()
    );
    let second = log.append(attempt("a1")).unwrap_err();
    assert!(second.to_string().contains("an earlier write"), "{second}");
    assert_eq!(log.status(), &before);
}

fn any_event() -> impl Strategy<Value = StatusEvent> {
    let states = prop::sample::select(vec![
        SnapshotState::Queued,
        SnapshotState::Collected,
        SnapshotState::Writing,
        SnapshotState::Written,
        SnapshotState::Copying,
        SnapshotState::Complete,
        SnapshotState::Failed,
    ]);
    prop_oneof![
        states.prop_map(state),
        "[a-c]".prop_map(|id| attempt(&id)),
        ("\\PC{0,8}", any::<u64>()).prop_map(|(key, size)| made(&key, size)),
        ("\\PC{0,8}", any::<u64>()).prop_map(|(key, size)| sent(&key, size)),
        any::<u64>().prop_map(|xid| StatusEvent::Cut {
            xid: Xid(xid),
            held_us: Some(70)
        }),
        (any::<u64>(), any::<u64>())
            .prop_map(|(files, bytes)| StatusEvent::Progress { files, bytes }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn writer_and_parser_agree_and_any_cut_of_the_log_is_a_status(
        events in prop::collection::vec(any_event(), 0..20), cut in 0.0..1.0f64,
    ) {
        let (_dir, path, mut log) = new_log();
        for event in events {
            if let Err(e) = log.append(event) {
                prop_assert_eq!(e.kind(), ErrorKind::Conflict);
            }
        }
        let bytes = std::fs::read(&path).unwrap();
        prop_assert_eq!(&SnapshotStatus::parse(&bytes).unwrap(), log.status());
        let first = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
        let cut = first + ((bytes.len() - first) as f64 * cut) as usize;
        prop_assert!(SnapshotStatus::parse(&bytes[..cut]).is_ok());
    }
}
