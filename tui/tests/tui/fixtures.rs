//! A state to look at: one or two daemons, some file systems, snapshots in every state.

use cbfs_core::api::{DaemonEvent, DaemonStatus, ErrorDetail, SnapshotInfo};
use cbfs_core::error::ErrorKind;
use cbfs_core::format::epoch::{BaseSnapshot, EpochClaim};
use cbfs_core::handle::Handle;
use cbfs_core::ids::{Epoch, SnapshotNumber};
use cbfs_core::snapshot::SnapshotKind;
use cbfs_tui::bucket_view::{BucketView, EpochView, ManifestView, ViewKey};
use cbfs_tui::figures::Moment;
use cbfs_tui::glyphs::{ASCII, UNICODE};
use cbfs_tui::message::{Effect, Message, News};
use cbfs_tui::snapshot_rows::settle;
use cbfs_tui::state::State;
use cbfs_tui::theme::Theme;
use cbfs_tui::update::update;
use cbfs_tui::view::{Look, draw};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use serde_json::{Value, json};

pub(crate) const HOME: &str = "home-6f1c2a52-8f8a-4d0e-9a53-0c2ad9d1a2b3";
pub(crate) const LOGS: &str = "logs-7a2d3b63-9f9b-4e1f-8b64-1d3be0e2b3c4";
pub(crate) const BUCKET: &str = "file:///srv/bucket";

pub(crate) const COLOUR: Look = Look {
    theme: Theme::COLOUR,
    glyphs: UNICODE,
};
pub(crate) const PLAIN: Look = Look {
    theme: Theme::MONOCHROME,
    glyphs: ASCII,
};

/// The time at which all screens are drawn.
pub(crate) fn noon() -> Moment {
    Moment::parse("2026-03-14T12:00:00Z").unwrap()
}

pub(crate) fn home() -> Handle {
    HOME.parse().unwrap()
}

pub(crate) fn at(number: u64, epoch: u16) -> BaseSnapshot {
    BaseSnapshot {
        number: SnapshotNumber(number),
        epoch: Epoch(epoch),
    }
}

/// A master of `home` with these fields changed.
pub(crate) fn instance(changed: Value) -> Value {
    let mut value = json!({
        "id": HOME, "fs": HOME, "bucket": BUCKET, "role": "master", "epoch": 7,
        "mount_point": "/mnt/home", "health": "ok", "xid": 120_400u64, "durable_xid": 120_390u64,
        "last_snapshot": 41, "unpublished": 1204, "inodes": 20_512, "local_bytes": 1_932_735_283u64,
        "kvs_limit": 10_737_418_240u64, "dirty_bytes": 3_355_443, "logical_bytes": 442_381_631_488u64,
        "free_bytes": 33_000_000_000u64, "proxy_bytes": 270_532_608,
        "traffic": {"read_bytes": 1_000_000, "written_bytes": 500_000, "puts": 100, "gets": 20,
                    "sent_bytes": 90_000_000, "received_bytes": 4_000_000},
    });
    merge(&mut value, changed);
    value
}

pub(crate) fn slave() -> Value {
    json!({
        "id": format!("{LOGS}@40"), "fs": LOGS, "bucket": BUCKET, "role": "slave", "epoch": 2,
        "snapshot": 40, "mount_point": "/mnt/logs", "health": "ok", "xid": 99, "durable_xid": 99,
        "unpublished": 0, "inodes": 311, "local_bytes": 9_000_000, "dirty_bytes": 0,
        "logical_bytes": 86_000_000,
    })
}

#[allow(clippy::needless_pass_by_value)] // as it reads best where it is called
pub(crate) fn status(instances: Vec<Value>) -> DaemonStatus {
    let value = json!({
        "version": "0.1.0", "node": "node-a-4711", "pid": 17, "started_at": "2026-03-14T08:00:00Z",
        "state_dir": "/var/lib/cbfs", "instances": instances, "snapshots": [],
    });
    serde_json::from_value(value).unwrap()
}

/// A request of `home` in a state, with these fields changed.
pub(crate) fn request(number: u64, state: &str, changed: Value) -> SnapshotInfo {
    let mut value = json!({
        "fs": HOME, "number": number, "kind": "user", "state": state, "epoch": 7,
        "requested_at": "2026-03-14T11:58:30Z", "updated_at": "2026-03-14T11:59:00Z",
    });
    merge(&mut value, changed);
    serde_json::from_value(value).unwrap()
}

fn merge(value: &mut Value, changed: Value) {
    let (Value::Object(fields), Value::Object(changed)) = (value, changed) else {
        panic!("both are objects");
    };
    fields.extend(changed);
}

pub(crate) fn note(severity: &str, at: &str, text: &str, causes: &[&str]) -> DaemonEvent {
    let value = json!({"type": "note", "note": {
        "at": at, "severity": severity, "fs": HOME, "text": text, "causes": causes,
    }});
    serde_json::from_value(value).unwrap()
}

pub(crate) fn lost() -> News {
    let error = ErrorDetail {
        kind: ErrorKind::DaemonUnreachable,
        message: "no daemon answers on /run/cbfs/cbfsd.sock".into(),
        hint: Some("start it with `cbfsctl mount …` or `systemctl start cbfsd`".into()),
        causes: vec!["Connection refused (os error 111)".into()],
    };
    News::Lost(error, 4_000)
}

/// A bucket with seven epochs and the snapshots up to 41.
pub(crate) fn bucket() -> BucketView {
    let mut view = BucketView::default();
    for epoch in 1..=7_u16 {
        let at = format!("2026-03-{:02}T09:12:00Z", 7 + epoch);
        let claim: EpochClaim = serde_json::from_value(json!({
            "format": 1, "features": {"incompat": []}, "fs": HOME, "epoch": epoch,
            "node": format!("node-{epoch}"), "host": format!("host-{epoch}"), "nonce": "n",
            "claimed_at": at,
        }))
        .unwrap();
        let base = (epoch > 1).then(|| BaseSnapshot {
            number: SnapshotNumber(u64::from(epoch) * 5),
            epoch: Epoch(epoch - 1),
        });
        view.epochs.push(EpochView { claim, base });
    }
    for number in [38, 39, 40, 41] {
        let id = at(number, 7);
        view.snapshots.insert(id);
        let name = (number == 39).then(|| "before-upgrade".to_owned());
        let manifest = ManifestView {
            name,
            kind: SnapshotKind::Periodic,
            created_at: format!("2026-03-13T{}:00:00Z", number - 30),
            stored_bytes: number * 7_000_000,
            logical_bytes: 442_000_000_000,
            inodes: 20_000,
        };
        view.manifests.insert(id, manifest);
    }
    view.held.insert(at(39, 7));
    view
}

/// A state that these messages lead to, one second apart.
pub(crate) struct Told {
    pub(crate) state: State,
    pub(crate) effects: Vec<Effect>,
    /// Rows are made only for a screen, as in the program.
    pub(crate) lazy: bool,
}

impl Told {
    pub(crate) fn new(columns: u16, rows: u16) -> Told {
        Told::with_sockets(&["/run/cbfs/cbfsd.sock"], columns, rows)
    }

    pub(crate) fn with_sockets(sockets: &[&str], columns: u16, rows: u16) -> Told {
        let sockets = sockets.iter().map(Into::into).collect();
        Told {
            state: State::new(sockets, (columns, rows), noon()),
            effects: Vec::new(),
            lazy: false,
        }
    }

    /// Something happens.
    pub(crate) fn tell(&mut self, message: Message) -> &mut Told {
        self.effects = update(&mut self.state, message);
        if !self.lazy {
            settle(&mut self.state);
        }
        self
    }

    pub(crate) fn news(&mut self, news: News) -> &mut Told {
        self.tell(Message::Daemon(0, news))
    }

    pub(crate) fn event(&mut self, event: DaemonEvent) -> &mut Told {
        self.news(News::Event(Box::new(event)))
    }

    pub(crate) fn snapshot(&mut self, snapshot: SnapshotInfo) -> &mut Told {
        self.event(DaemonEvent::Snapshot { snapshot })
    }

    /// Time passes.
    pub(crate) fn later(&mut self, ms: i64) -> &mut Told {
        self.state.now = Moment(self.state.now.0 + ms);
        self.tell(Message::Tick)
    }

    /// Keys are pressed: characters, or names of keys.
    pub(crate) fn keys(&mut self, keys: &[&str]) -> &mut Told {
        for key in keys {
            let code = match *key {
                "Enter" => KeyCode::Enter,
                "Esc" => KeyCode::Esc,
                "Tab" => KeyCode::Tab,
                "Down" => KeyCode::Down,
                "Up" => KeyCode::Up,
                "End" => KeyCode::End,
                "Home" => KeyCode::Home,
                "PgDn" => KeyCode::PageDown,
                "Backspace" => KeyCode::Backspace,
                other => {
                    for c in other.chars() {
                        self.tell(Message::Key(KeyEvent::new(
                            KeyCode::Char(c),
                            KeyModifiers::NONE,
                        )));
                    }
                    continue;
                }
            };
            self.tell(Message::Key(KeyEvent::new(code, KeyModifiers::NONE)));
        }
        self
    }

    /// A day at work: a master with snapshots in several states, a slave, some events.
    pub(crate) fn working(columns: u16, rows: u16) -> Told {
        let mut told = Told::new(columns, rows);
        told.news(News::Status(Box::new(status(vec![
            instance(json!({})),
            slave(),
        ]))));
        let requests = vec![
            request(
                41,
                "complete",
                json!({"sent_bytes": 2_254_857_830u64, "kind": "periodic", "made_bytes": 2_254_857_830u64,
                "files_done": 1204, "bytes_done": 4_000_000_000u64, "objects_sent": 40, "objects_made": 40}),
            ),
            request(
                42,
                "failed",
                json!({"reason": "403 Forbidden: the key may not write", "failure": "permanent"}),
            ),
            request(43, "writing", json!({})),
            request(44, "queued", json!({"name": "release", "queue_place": 1})),
        ];
        told.news(News::Requests(home(), requests));
        let key = ViewKey {
            bucket: BUCKET.into(),
            fs: home(),
        };
        told.tell(Message::Bucket(key, Ok(Box::new(bucket()))));
        for second in 1..=40_u64 {
            told.state.now = Moment(told.state.now.0 + 1_000);
            let wave = (second % 10) * 9_000_000;
            let traffic = json!({"read_bytes": second * 2_000_000 + wave, "written_bytes": second * 3_000_000,
                "puts": second * 3, "gets": second, "sent_bytes": second * 86 * 1_048_576, "received_bytes": second * 1000});
            let changed = instance(json!({"traffic": traffic, "xid": 120_400 + second * 57}));
            told.news(News::Status(Box::new(status(vec![changed, slave()]))));
        }
        for second in 1..=5_u64 {
            told.state.now = Moment(told.state.now.0 + 1_000);
            told.snapshot(request(43, "copying", json!({"bytes_done": 900_000_000, "bytes_total": 900_000_000,
                "files_done": 480, "files_total": 480, "objects_made": 48, "objects_sent": 21 + second * 2,
                "made_bytes": 700_000_000, "sent_bytes": second * 90_177_536, "xid": 120_000})));
        }
        for (severity, at, text, causes) in [
            (
                "info",
                "2026-03-14T11:58:30Z",
                "snapshot 43 is queued",
                &[][..],
            ),
            ("info", "2026-03-14T11:58:31Z", "snapshot 43 is cut", &[]),
            (
                "error",
                "2026-03-14T11:58:40Z",
                "snapshot 42 failed",
                &["403 Forbidden: the key may not write"],
            ),
            (
                "warning",
                "2026-03-14T11:59:02Z",
                "snapshot 43 is tried again (retry 1)",
                &["PUT 503 Slow Down"],
            ),
        ] {
            told.event(note(severity, at, text, causes));
        }
        told
    }

    pub(crate) fn buffer(&self, look: &Look) -> Buffer {
        let (columns, rows) = self.state.size;
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        terminal
            .draw(|frame| draw(frame, &self.state, look))
            .unwrap();
        terminal.backend().buffer().clone()
    }

    /// The screen as text, without blanks at the ends of lines.
    pub(crate) fn screen(&self, look: &Look) -> String {
        let buffer = self.buffer(look);
        let rows = buffer.content.chunks(usize::from(buffer.area.width));
        let lines = rows.map(|cells| {
            let line: String = cells.iter().map(|c| c.symbol()).collect();
            line.trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}
