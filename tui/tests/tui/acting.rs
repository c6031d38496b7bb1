//! Keys: what they select, ask, and set off.

use crate::fixtures::{
    BUCKET, COLOUR, HOME, Told, at, bucket, home, instance, lost, request, slave, status,
};
use cbfs_core::api::{MountRequest, PromotionInfo, Role, SnapshotRequest, UmountRequest};
use cbfs_core::ids::Epoch;
use cbfs_core::snapshot::SnapshotKind;
use cbfs_tui::bucket_view::ViewKey;
use cbfs_tui::message::{Effect, Message, News};
use cbfs_tui::snapshot_rows::SnapshotOrder;
use cbfs_tui::state::{Overlay, Pane};
use crossterm::event::{KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use serde_json::json;
use std::path::PathBuf;

fn numbers(told: &Told) -> Vec<u64> {
    told.state
        .snapshot_rows
        .iter()
        .map(|r| r.id.number.0)
        .collect()
}

#[test]
fn s_and_a_name_ask_for_a_snapshot() {
    let mut told = Told::working(80, 24);
    told.keys(&["s"]);
    assert!(told.effects.is_empty());
    told.keys(&["before upgrade", "Enter"]);
    assert!(
        told.effects.is_empty() && told.state.overlay.is_some(),
        "a blank is no part of a name"
    );
    for _ in 0.." upgrade".len() {
        told.keys(&["Backspace"]);
    }
    told.keys(&["Enter"]);
    let request = SnapshotRequest {
        fs: HOME.into(),
        name: Some("before".into()),
        kind: SnapshotKind::User,
    };
    assert_eq!(told.effects, [Effect::CreateSnapshot(0, request)]);
    assert!(told.state.overlay.is_none());
}

#[test]
fn a_snapshot_of_a_slave_is_refused_with_the_reason() {
    let mut told = Told::working(80, 24);
    told.keys(&["Down", "s"]);
    assert!(told.state.overlay.is_none());
    assert!(
        told.screen(&COLOUR)
            .contains("the master of logs is on another node")
    );
}

#[test]
fn nothing_is_asked_of_a_daemon_that_is_away() {
    let mut told = Told::working(80, 24);
    told.news(lost());
    for key in ["s", "m", "u"] {
        told.keys(&["1", key]);
        assert!(told.state.overlay.is_none(), "{key}");
        assert!(told.screen(&COLOUR).contains("does not answer"), "{key}");
    }
}

#[test]
fn cancel_and_retry_fit_the_state_of_the_request() {
    let mut told = Told::working(80, 24);
    told.keys(&["2"]);
    let number = |n| at(n, 7).number;
    told.keys(&["c", "yes", "Enter"]);
    assert_eq!(told.effects, [Effect::Cancel(0, home(), number(44))]);
    told.keys(&["t"]);
    assert!(told.effects.is_empty());
    assert!(
        told.screen(&COLOUR)
            .contains("snapshot 44 is queued: nothing to retry")
    );
    told.keys(&["Down", "Down", "t"]);
    assert_eq!(told.effects, [Effect::Retry(0, home(), number(42))]);
    told.keys(&["c"]);
    assert!(told.state.overlay.is_none() && told.effects.is_empty());
}

#[test]
fn deleting_wants_the_whole_name_typed() {
    let mut told = Told::working(80, 24);
    told.keys(&["2", "End", "d", "home@3", "Enter"]);
    assert!(told.effects.is_empty());
    told.keys(&["8", "Enter"]);
    let key = ViewKey {
        bucket: BUCKET.into(),
        fs: home(),
    };
    assert_eq!(told.effects, [Effect::DeleteSnapshot(0, key, at(38, 7))]);
}

#[test]
fn a_held_and_an_unfinished_snapshot_cannot_be_deleted() {
    let mut told = Told::working(80, 24);
    told.keys(&["2", "d"]);
    assert!(
        told.screen(&COLOUR)
            .contains("only complete ones can be deleted")
    );
    told.keys(&["End", "Up", "d"]);
    assert!(told.screen(&COLOUR).contains("snapshot 39 is held"));
    assert!(told.state.overlay.is_none());
}

#[test]
fn esc_leaves_a_question_without_doing_it() {
    let mut told = Told::working(80, 24);
    told.keys(&["2", "End", "d", "home@38", "Esc", "Enter"]);
    assert!(
        !told
            .effects
            .iter()
            .any(|e| matches!(e, Effect::DeleteSnapshot(..)))
    );
}

#[test]
fn a_snapshot_is_mounted_as_a_slave_and_a_file_system_as_master() {
    let mut told = Told::working(80, 24);
    told.keys(&["2", "End", "m", "mnt", "Enter"]);
    assert!(told.effects.is_empty(), "the path must be absolute");
    told.keys(&["Backspace", "Backspace", "Backspace", "/mnt/old", "Enter"]);
    let request = |snapshot: Option<&str>, role, dir: &str| MountRequest {
        mount_point: PathBuf::from(dir),
        snapshot: snapshot.map(str::to_owned),
        role,
        ..serde_json::from_value(
            json!({"fs": HOME, "bucket": BUCKET, "mount_point": "/", "role": "master"}),
        )
        .unwrap()
    };
    assert_eq!(
        told.effects,
        [Effect::Mount(
            0,
            request(Some("38"), Role::Slave, "/mnt/old")
        )]
    );
    let unmounted = instance(json!({"mount_point": null}));
    told.news(News::Status(Box::new(status(vec![unmounted, slave()]))));
    told.keys(&["1", "m", "home", "Enter"]);
    assert_eq!(
        told.effects,
        [Effect::Mount(0, request(None, Role::Master, "/mnt/home"))]
    );
    // The latest follows, where a time is given; a master does not.
    told.effects.clear();
    told.keys(&["1", "m", "follows", "Tab", "Tab", "5m", "Enter"]);
    assert!(told.effects.is_empty(), "a master follows nobody");
    told.keys(&["Tab", "@latest", "Enter"]);
    let follower = MountRequest {
        follow: Some(300),
        ..request(Some("latest"), Role::Slave, "/mnt/follows")
    };
    assert_eq!(told.effects, [Effect::Mount(0, follower)]);
}

#[test]
fn umount_names_the_instance() {
    let mut told = Told::working(80, 24);
    told.keys(&["Down", "u", "yes", "Enter"]);
    let id = told.state.selected_instance().unwrap().0.1;
    assert!(id.ends_with("@40"));
    let request = UmountRequest {
        target: id,
        lazy: false,
    };
    assert_eq!(told.effects, [Effect::Umount(0, request)]);
}

#[test]
fn a_slave_that_follows_is_moved_and_no_other_instance() {
    let mut told = Told::working(80, 24);
    told.keys(&["f"]);
    assert!(told.effects.is_empty());
    assert!(told.screen(&COLOUR).contains("does not follow"));
    let mut follower = slave();
    follower["following"] = json!({"interval": 30, "behind": 2});
    told.news(News::Status(Box::new(status(vec![
        instance(json!({})),
        follower,
    ]))));
    told.keys(&["Down", "f"]);
    let id = told.state.selected_instance().unwrap().0.1;
    assert!(told.effects.contains(&Effect::RefreshSlave(0, id)));
    told.keys(&["Enter"]);
    assert!(told.screen(&COLOUR).contains("every 30 s, 2 behind"));
}

fn plan(looks_alive: bool) -> PromotionInfo {
    serde_json::from_value(json!({
        "fs": HOME, "bucket": BUCKET, "epoch": 8, "step": "planned",
        "former": {"format": 1, "features": {"incompat": []}, "fs": HOME, "epoch": 7, "node": "node-7",
                   "host": "host-7", "nonce": "n", "claimed_at": "2026-03-14T09:12:00Z"},
        "last_sign": "2026-03-14T11:40:00Z", "looks_alive": looks_alive,
        "base": {"number": 41, "epoch": 7}, "base_created_at": "2026-03-13T11:00:00Z",
        "mount_point": "/mnt/home",
    }))
    .unwrap()
}

/// A slave of `home` is selected, its bucket was looked at.
fn with_slave() -> Told {
    let mut told = Told::new(80, 24);
    let id = format!("{HOME}@41");
    let slave = instance(json!({"id": id, "role": "slave", "snapshot": 41}));
    told.news(News::Status(Box::new(status(vec![slave]))));
    let key = ViewKey {
        bucket: BUCKET.into(),
        fs: home(),
    };
    told.tell(Message::Bucket(key, Ok(Box::new(bucket()))));
    told
}

#[test]
fn promoting_shows_what_may_be_lost_and_wants_the_whole_handle() {
    let mut told = with_slave();
    told.keys(&["p"]);
    let previous = Epoch(7);
    assert_eq!(told.effects, [Effect::PlanPromotion(0, home(), previous)]);
    told.tell(Message::Plan(0, previous, Box::new(plan(true))));
    let screen = told.screen(&COLOUR);
    assert!(screen.contains("IT LOOKS ALIVE"), "{screen}");
    insta::assert_snapshot!(screen);
    told.keys(&["home", "Enter"]);
    assert!(told.effects.is_empty(), "the tag alone is not enough");
    told.keys(&[&HOME["home".len()..], "Enter"]);
    assert_eq!(told.effects, [Effect::Promote(0, home(), previous)]);
}

#[test]
fn a_former_master_that_is_silent_is_not_told_to_be_alive() {
    let mut told = with_slave();
    told.tell(Message::Plan(0, Epoch(7), Box::new(plan(false))));
    let screen = told.screen(&COLOUR);
    assert!(screen.contains("last heard of 2026-03-14 11:40:00") && !screen.contains("ALIVE"));
}

#[test]
fn a_master_is_not_promoted_and_nothing_without_knowing_who_is_master() {
    let mut told = Told::working(80, 24);
    told.keys(&["p"]);
    assert!(told.effects.is_empty());
    assert!(told.screen(&COLOUR).contains("home is a master already"));
    told.keys(&["Down", "p"]);
    assert!(
        !told
            .effects
            .iter()
            .any(|e| matches!(e, Effect::PlanPromotion(..)))
    );
    assert!(
        told.screen(&COLOUR)
            .contains("who is master is not known yet")
    );
}

#[test]
fn a_plan_that_comes_late_does_not_take_the_place_of_another_question() {
    let mut told = Told::working(80, 24);
    told.keys(&["s", "name"]);
    let before = told.state.overlay.clone();
    told.tell(Message::Plan(0, Epoch(7), Box::new(plan(true))));
    assert_eq!(told.state.overlay, before);
}

#[test]
fn the_selection_stays_with_its_snapshot_while_new_ones_come() {
    let mut told = Told::working(80, 24);
    told.keys(&["2", "Down", "Down"]);
    assert_eq!(told.state.selected_snapshot().unwrap().id.number.0, 42);
    told.snapshot(request(50, "queued", json!({})));
    assert_eq!(told.state.selected_snapshot().unwrap().id.number.0, 42);
    told.keys(&["Home"]);
    told.snapshot(request(51, "queued", json!({})));
    assert_eq!(
        told.state.selected_snapshot().unwrap().id.number.0,
        51,
        "at the top it follows the newest"
    );
}

#[test]
fn snapshots_are_filtered_by_state_name_number_and_kind() {
    let mut told = Told::working(80, 24);
    assert_eq!(numbers(&told), [44, 43, 42, 41, 40, 39, 38]);
    for (filter, wanted) in [
        ("failed", &[42][..]),
        ("upgrade", &[39]),
        ("40", &[40]),
        ("held", &[39]),
        ("periodic", &[41, 40, 39, 38]),
        ("nothing", &[]),
    ] {
        told.keys(&["2", "/", filter, "Enter"]);
        assert_eq!(numbers(&told), wanted, "{filter}");
        assert!(told.screen(&COLOUR).contains(&format!("/{filter}")));
        told.keys(&["Esc"]);
    }
    assert_eq!(numbers(&told).len(), 7, "Esc shows all");
}

#[test]
fn events_are_filtered_by_text_cause_and_severity() {
    let mut told = Told::working(80, 24);
    let count = |told: &Told| told.state.filtered_events().count();
    assert_eq!(count(&told), 4);
    for (filter, wanted) in [("503", 1), ("warning", 1), ("home", 4), ("snapshot 43", 3)] {
        told.keys(&["6", "/", filter, "Enter"]);
        assert_eq!(count(&told), wanted, "{filter}");
        told.keys(&["Esc"]);
    }
}

#[test]
fn snapshots_are_sorted_by_each_column_and_the_other_way_round() {
    let mut told = Told::working(80, 24);
    told.keys(&["2", "o"]);
    assert_eq!(told.state.snapshot_order.0, SnapshotOrder::State);
    assert_eq!(numbers(&told), [43, 44, 42, 41, 40, 39, 38]);
    told.keys(&["o"]);
    assert_eq!(
        numbers(&told)[..2],
        [39, 44],
        "before-upgrade, release, those without a name"
    );
    told.keys(&["o"]);
    assert_eq!(numbers(&told)[0], 41, "the largest");
    told.keys(&["o", "O"]);
    assert_eq!(numbers(&told), [38, 39, 40, 41, 42, 43, 44]);
}

#[test]
fn tab_goes_round_and_numbers_go_straight() {
    let mut told = Told::working(80, 24);
    for pane in Pane::ALL {
        assert_eq!(told.state.focus, pane);
        told.keys(&["Tab"]);
    }
    assert_eq!(told.state.focus, Pane::FileSystems);
    told.keys(&["5"]);
    assert_eq!(told.state.focus, Pane::Epochs);
}

#[test]
fn q_closes_what_lies_on_top_and_then_leaves() {
    let mut told = Told::working(80, 24);
    told.keys(&["?", "q"]);
    assert!(!told.state.quit && told.state.overlay.is_none());
    told.keys(&["s", "q"]);
    assert!(!told.state.quit, "it was typed into the name");
    told.keys(&["Esc", "q"]);
    assert!(told.state.quit);
}

#[test]
fn another_file_system_shows_its_own_snapshots_and_looks_at_its_bucket() {
    let mut told = Told::working(80, 24);
    told.keys(&["Down"]);
    assert!(matches!(&told.effects[..], [Effect::LookAtBucket(key, _)] if key.fs.tag == "logs"));
    assert!(numbers(&told).is_empty());
    told.keys(&["Up"]);
    assert_eq!(numbers(&told).len(), 7);
    assert!(
        told.effects.is_empty(),
        "its bucket was looked at a moment ago"
    );
}

#[test]
fn refresh_looks_again_and_tries_lost_daemons() {
    let mut told = Told::working(80, 24);
    told.keys(&["r"]);
    assert!(matches!(&told.effects[..], [Effect::LookAtBucket(..)]));
    told.news(lost());
    told.keys(&["r"]);
    assert!(told.effects.contains(&Effect::Reconnect(0)));
}

#[test]
fn the_mouse_selects_and_scrolls() {
    let mut told = Told::working(80, 24);
    let mouse = |kind, column, row| {
        Message::Mouse(MouseEvent {
            kind,
            column,
            row,
            modifiers: KeyModifiers::NONE,
        })
    };
    told.tell(mouse(MouseEventKind::Down(MouseButton::Left), 40, 5));
    assert_eq!(told.state.focus, Pane::Snapshots);
    assert_eq!(told.state.selected_snapshot().unwrap().id.number.0, 42);
    told.tell(mouse(MouseEventKind::ScrollDown, 40, 5));
    assert_eq!(told.state.selected_snapshot().unwrap().id.number.0, 39);
    told.tell(mouse(MouseEventKind::Down(MouseButton::Left), 5, 3));
    assert_eq!(
        told.state.selected_instance().unwrap().1.info.fs.tag,
        "logs"
    );
    told.keys(&["s"]);
    told.tell(mouse(MouseEventKind::Down(MouseButton::Left), 5, 2));
    told.keys(&["?"]);
    told.tell(mouse(MouseEventKind::ScrollDown, 5, 2));
    assert_eq!(told.state.overlay, Some(Overlay::Help { scroll: 3 }));
}
