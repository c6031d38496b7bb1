//! Days of a daemon's events, as one told them: the memory of the view stays flat. In a process of its own, as its size is what
//! is measured.
//!
//! `recordings/an-outage.jsonl` is what `GET /v1/events` sent in half a minute, and `GET /v1/status` in between (as
//! `{"type":"status","status":…}`): a master and a slave that follows, snapshots one after the other, a bucket that goes away
//! for a while and comes back, a cancelled request.

#![allow(clippy::unwrap_used)] // helpers of tests are test code too

use cbfs_core::api::DaemonEvent;
use cbfs_core::ids::SnapshotNumber;
use cbfs_tui::figures::Moment;
use cbfs_tui::glyphs::UNICODE;
use cbfs_tui::message::{Message, News};
use cbfs_tui::snapshot_rows::settle;
use cbfs_tui::state::{EVENTS_KEPT, REQUESTS_KEPT, State};
use cbfs_tui::theme::Theme;
use cbfs_tui::update::update;
use cbfs_tui::view::{Look, draw};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::Value;

const RECORDING: &str = include_str!("recordings/an-outage.jsonl");
/// Snapshots in it.
const SNAPSHOTS: u64 = 9;
/// Everything that is kept for a while is full by then: requests last, at [`REQUESTS_KEPT`].
const WARM_UP: u64 = REQUESTS_KEPT as u64 / SNAPSHOTS + 50;
/// So often it is told in all: a message a second for more than three days.
const ROUNDS: u64 = 2 * WARM_UP;
/// What the size of a process may change by itself, in bytes: the allocator's.
const SLACK: u64 = 4 << 20;

fn recorded() -> Vec<News> {
    let messages = RECORDING.lines().map(|line| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        if value["type"] == "status" {
            News::Status(serde_json::from_value(value["status"].take()).unwrap())
        } else {
            News::Event(serde_json::from_value(value).unwrap())
        }
    });
    messages.collect()
}

/// The same for the snapshots that follow.
fn in_round(news: &News, round: u64) -> News {
    let mut news = news.clone();
    if let News::Event(event) = &mut news
        && let DaemonEvent::Snapshot { snapshot } = &mut **event
    {
        snapshot.number = SnapshotNumber(snapshot.number.0 + round * SNAPSHOTS);
    }
    news
}

/// Bytes of this process in memory (proc(5), `VmRSS` of `status`).
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap();
    kib << 10
}

#[test]
fn days_of_recorded_events_take_no_more_memory_than_the_first() {
    let recorded = recorded();
    let look = Look {
        theme: Theme::COLOUR,
        glyphs: UNICODE,
    };
    let noon = Moment::parse("2026-11-28T12:00:00Z").unwrap();
    let mut state = State::new(vec!["/run/cbfs/cbfsd.sock".into()], (120, 40), noon);
    let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
    let mut full = 0;
    for round in 0..ROUNDS {
        for news in &recorded {
            state.now.0 += 1_000;
            update(&mut state, Message::Daemon(0, in_round(news, round)));
        }
        settle(&mut state);
        terminal.draw(|frame| draw(frame, &state, &look)).unwrap();
        if round == WARM_UP {
            full = resident();
        }
    }
    assert_eq!(state.events.len(), EVENTS_KEPT);
    assert!(state.daemons[0].requests.len() >= REQUESTS_KEPT * 9 / 10);
    let grown = resident().saturating_sub(full);
    assert!(
        grown < SLACK,
        "{grown} bytes more than the {full} of before"
    );
}
