//! Screens, as a person sees them. The pictures are in `snapshots/`.

use crate::fixtures::{
    COLOUR, HOME, PLAIN, Told, at, home, instance, lost, note, request, slave, status,
};
use cbfs_core::api::ErrorDetail;
use cbfs_core::error::ErrorKind;
use cbfs_core::snapshot::{StatusEvent, StatusLine};
use cbfs_tui::glyphs::{ASCII, UNICODE};
use cbfs_tui::message::{Message, News};
use cbfs_tui::theme::Theme;
use cbfs_tui::view::Look;
use insta::assert_snapshot;
use ratatui::style::Color;
use serde_json::json;

#[test]
fn at_80_by_24_all_panes_are_there() {
    assert_snapshot!(Told::working(80, 24).screen(&COLOUR));
}

#[test]
fn at_120_by_40_there_is_more_of_each() {
    assert_snapshot!(Told::working(120, 40).screen(&COLOUR));
}

#[test]
fn at_40_by_10_one_pane_at_a_time_is_useful() {
    let mut told = Told::working(40, 10);
    let mut screens = Vec::new();
    for _ in 0..6 {
        screens.push(told.screen(&COLOUR));
        told.keys(&["Tab"]);
    }
    assert_snapshot!(screens.join("\n\n"));
}

#[test]
fn ascii_is_enough() {
    let screen = Told::working(80, 24).screen(&PLAIN);
    assert!(screen.is_ascii());
    assert_snapshot!(screen);
}

#[test]
fn without_colours_nothing_is_lost() {
    let told = Told::working(80, 24);
    let mono = Look {
        theme: Theme::MONOCHROME,
        glyphs: UNICODE,
    };
    assert_eq!(told.screen(&mono), told.screen(&COLOUR));
    let buffer = told.buffer(&mono);
    let plain = |c: Color| c == Color::Reset;
    assert!(
        buffer
            .content
            .iter()
            .all(|cell| plain(cell.fg) && plain(cell.bg))
    );
    // The selected row is still told.
    let reversed =
        |c: &ratatui::buffer::Cell| c.modifier.contains(ratatui::style::Modifier::REVERSED);
    assert!(buffer.content.iter().any(reversed));
}

#[test]
fn every_size_of_a_terminal_can_be_drawn() {
    let mut told = Told::working(80, 24);
    for look in [COLOUR, PLAIN] {
        for overlay in [&[][..], &["?"], &["Enter"], &["s"], &["/"]] {
            for (columns, rows) in [
                (1, 1),
                (2, 3),
                (10, 4),
                (20, 5),
                (59, 17),
                (60, 18),
                (61, 30),
                (250, 80),
            ] {
                told.tell(Message::Resize(columns, rows));
                told.keys(overlay);
                told.screen(&look);
                told.keys(&["Esc"]);
            }
        }
    }
}

#[test]
fn nothing_known_yet() {
    assert_snapshot!(Told::new(80, 24).screen(&COLOUR));
}

#[test]
fn a_daemon_that_is_away_is_told_with_the_next_try() {
    let mut told = Told::working(80, 24);
    told.news(lost()).later(12_000).news(lost());
    assert_snapshot!(told.screen(&COLOUR));
}

#[test]
fn a_daemon_that_never_answered_is_told() {
    let mut told = Told::new(80, 24);
    told.news(lost());
    assert_snapshot!(told.screen(&COLOUR));
}

#[test]
fn a_daemon_that_hangs_is_told() {
    let mut told = Told::working(80, 24);
    told.later(9_000);
    let first = told.screen(&COLOUR);
    assert!(
        first
            .lines()
            .next()
            .unwrap()
            .contains("⚠ no answer for 9.0s"),
        "{first}"
    );
}

#[test]
fn a_fenced_master_is_told_everywhere() {
    let mut told = Told::working(80, 24);
    let fenced = instance(json!({"health": "fenced",
        "problems": ["a later epoch has taken over: this master is read-only"]}));
    told.news(News::Status(Box::new(status(vec![fenced, slave()]))));
    told.event(note(
        "error",
        "2026-03-14T12:00:41Z",
        "the master is fenced: read-only",
        &["a later epoch has taken over"],
    ));
    let panes = told.screen(&COLOUR);
    told.keys(&["Enter"]);
    assert_snapshot!(format!("{panes}\n\n{}", told.screen(&COLOUR)));
}

#[test]
fn each_state_of_a_snapshot_looks_different() {
    let mut screens = Vec::new();
    for state in [
        "queued",
        "collected",
        "writing",
        "written",
        "copying",
        "complete",
        "failed",
        "cancelled",
    ] {
        let mut told = Told::new(80, 24);
        told.news(News::Status(Box::new(status(vec![instance(json!({}))]))));
        let progress = json!({"bytes_total": 1000, "bytes_done": 640, "files_total": 10, "files_done": 6,
            "objects_made": 4, "objects_sent": 1, "made_bytes": 400, "sent_bytes": 100,
            "reason": if state == "failed" { Some("403 Forbidden") } else { None }});
        told.news(News::Requests(home(), vec![request(7, state, progress)]));
        let screen = told.screen(&COLOUR);
        let pane = screen
            .lines()
            .skip(1)
            .take(10)
            .map(|l| l.chars().skip(27).collect::<String>());
        screens.push(pane.collect::<Vec<_>>().join("\n"));
    }
    assert_snapshot!(screens.join("\n\n"));
}

#[test]
fn a_snapshot_that_is_being_cancelled_says_so() {
    let mut told = Told::working(80, 24);
    let updated = "2026-03-14T12:01:00Z";
    told.snapshot(request(
        43,
        "copying",
        json!({"cancelling": true, "updated_at": updated}),
    ));
    assert!(told.screen(&COLOUR).contains("▶ cancelling"));
}

#[test]
fn several_daemons_are_told_apart() {
    let mut told = Told::with_sockets(&["/run/a.sock", "/run/b.sock"], 120, 40);
    told.news(News::Status(Box::new(status(vec![instance(json!({}))]))));
    let mut other = status(vec![instance(json!({"epoch": 6, "health": "fenced"}))]);
    other.node = "node-b-4712".into();
    told.tell(Message::Daemon(1, News::Status(Box::new(other))));
    told.tell(Message::Daemon(1, lost()));
    assert_snapshot!(told.screen(&COLOUR));
}

#[test]
fn the_help_is_the_table_of_keys() {
    let mut told = Told::working(80, 24);
    told.keys(&["?"]);
    let first = told.screen(&COLOUR);
    told.keys(&["End"]);
    let all = format!("{first}\n{}", told.screen(&COLOUR));
    for command in cbfs_tui::commands::COMMANDS {
        let words: Vec<&str> = command.help.split(' ').take(3).collect();
        assert!(
            all.contains(&words.join(" ")),
            "{} is missing in\n{all}",
            command.help
        );
    }
    assert_snapshot!(first);
}

#[test]
fn a_look_at_a_snapshot_tells_its_log_and_the_time_in_each_state() {
    let mut told = Told::working(80, 40);
    told.keys(&["2", "Down", "Down", "Enter"]);
    let line = |at: &str, event| StatusLine {
        at: format!("2026-03-14T11:58:{at}Z"),
        event,
    };
    let state = |state| StatusEvent::State { state };
    use cbfs_core::snapshot::{FailureType, SnapshotKind, SnapshotState as S};
    let lines = vec![
        line(
            "30",
            StatusEvent::Requested {
                number: at(42, 7).number,
                name: None,
                kind: SnapshotKind::User,
                epoch: at(42, 7).epoch,
            },
        ),
        line(
            "31",
            StatusEvent::Cut {
                xid: cbfs_core::ids::Xid(9),
                held_us: None,
            },
        ),
        line("31", state(S::Collected)),
        line(
            "31",
            StatusEvent::Planned {
                inodes: 20,
                files: 11,
                bytes: 4_000_000,
            },
        ),
        line("32", state(S::Writing)),
        line(
            "35",
            StatusEvent::Retry {
                what: "PUT s/0000000042-e7-a1/0001.tar.zst".into(),
                reason: "503 Slow Down".into(),
                wait_ms: 1600,
            },
        ),
        line(
            "40",
            StatusEvent::Failure {
                failure: FailureType::Permanent,
                reason: "403 Forbidden: the key may not write".into(),
            },
        ),
        line("40", state(S::Failed)),
    ];
    told.tell(Message::Log {
        daemon: 0,
        fs: home(),
        number: at(42, 7).number,
        result: Ok(lines),
    });
    assert_snapshot!(told.screen(&COLOUR));
}

#[test]
fn a_look_at_the_cache_tells_where_bytes_are() {
    let mut told = Told::working(80, 24);
    told.keys(&["3", "Enter"]);
    assert_snapshot!(told.screen(&COLOUR));
}

#[test]
fn a_look_at_the_epochs_tells_their_history() {
    let mut told = Told::working(80, 24);
    told.keys(&["5", "Enter"]);
    assert_snapshot!(told.screen(&COLOUR));
}

#[test]
fn a_look_at_an_event_tells_the_whole_error() {
    let mut told = Told::working(80, 24);
    told.keys(&["6", "Enter"]);
    assert_snapshot!(told.screen(&COLOUR));
}

#[test]
fn deleting_asks_for_the_name() {
    let mut told = Told::working(80, 24);
    told.keys(&["2", "End", "d", "home@3"]);
    assert_snapshot!(told.screen(&COLOUR));
    told.keys(&["Enter"]);
    assert!(told.screen(&COLOUR).contains("type home@38 exactly"));
}

#[test]
fn a_failed_action_is_told_at_the_bottom_and_kept_as_an_event() {
    let mut told = Told::working(80, 24);
    let error = ErrorDetail {
        kind: ErrorKind::Conflict,
        message: "home is fenced".into(),
        hint: Some("see `cbfsctl epoch list`".into()),
        causes: vec!["epoch 8 exists".into()],
    };
    told.tell(Message::Done {
        daemon: 0,
        fs: Some(HOME.parse().unwrap()),
        result: Err(("no snapshot was asked for".into(), error)),
        bucket_changed: false,
    });
    let screen = told.screen(&COLOUR);
    assert!(
        screen
            .lines()
            .last()
            .unwrap()
            .starts_with("✖ no snapshot was asked for: home is fenced")
    );
    told.keys(&["6", "Enter"]);
    let event = told.screen(&COLOUR);
    assert!(event.contains("epoch 8 exists") && event.contains("hint: see `cbfsctl epoch list`"));
}

#[test]
fn what_comes_from_outside_cannot_steer_the_terminal() {
    let mut told = Told::working(120, 40);
    told.event(note(
        "error",
        "2026-03-14T12:00:41Z",
        "bad \u{1b}]0;title\u{7} news\nline",
        &["\u{1b}[2J"],
    ));
    told.snapshot(request(
        45,
        "failed",
        json!({"reason": "\u{1b}[31m", "name": "ok"}),
    ));
    for look in [COLOUR, PLAIN] {
        let screen = told.screen(&look);
        assert!(!screen.contains(['\u{1b}', '\u{7}']));
        assert!(screen.contains("\\u{1b}[2J"));
    }
    assert_eq!(ASCII.ellipsis.len(), 1);
}
