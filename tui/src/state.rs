//! Everything that the screen shows. Changed by [`crate::update::update`] alone; drawing only reads it.

use crate::bucket_view::{BucketView, ViewKey};
use crate::dialog::Dialog;
use crate::figures::Moment;
use crate::history::{Meter, Ring, Series};
use crate::message::Failure;
use crate::snapshot_rows::{SnapshotOrder, SnapshotRow};
use cbfs_core::api::{InstanceInfo, Note, Role, Severity, SnapshotInfo};
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::handle::Handle;
use cbfs_core::ids::SnapshotNumber;
use cbfs_core::snapshot::StatusLine;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Events kept.
pub const EVENTS_KEPT: usize = 10_000;

/// Requests for snapshots kept of one daemon; final ones go first.
pub const REQUESTS_KEPT: usize = 5_000;

/// Lines of a status log kept while it is shown.
pub const LOG_LINES_KEPT: usize = 2_000;

/// The panes, in the order of the Tab key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pane {
    /// File systems and instances.
    FileSystems,
    /// Snapshots of the selected file system.
    Snapshots,
    /// KVS and proxy cache of the selected instance.
    Cache,
    /// Rates of the selected instance.
    Throughput,
    /// Epochs of the selected file system.
    Epochs,
    /// What happened.
    Events,
}

impl Pane {
    /// All of them.
    pub const ALL: [Pane; 6] = [
        Pane::FileSystems,
        Pane::Snapshots,
        Pane::Cache,
        Pane::Throughput,
        Pane::Epochs,
        Pane::Events,
    ];

    /// Whether a row of it can be selected.
    pub fn has_rows(self) -> bool {
        matches!(
            self,
            Pane::FileSystems | Pane::Snapshots | Pane::Epochs | Pane::Events
        )
    }

    /// Its place in [`Pane::ALL`].
    pub fn place(self) -> usize {
        Pane::ALL.iter().position(|p| *p == self).unwrap_or(0)
    }
}

/// A daemon.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// Where it listens.
    pub socket: PathBuf,
    /// Whether it answers.
    pub link: Link,
    /// Its node's id, once known.
    pub node: Option<String>,
    /// Its version, once known.
    pub version: Option<String>,
    /// When it started, RFC 3339.
    pub started_at: Option<String>,
    /// Its instances by id, as it told last.
    pub instances: BTreeMap<String, Watched>,
    /// Its requests for snapshots.
    pub requests: BTreeMap<(Handle, SnapshotNumber), SnapshotInfo>,
    /// Rates of the requests that are carried out.
    pub meters: BTreeMap<(Handle, SnapshotNumber), Meter>,
}

impl Daemon {
    /// One that was not heard of yet.
    pub fn new(socket: PathBuf) -> Daemon {
        Daemon {
            socket,
            link: Link::Connecting,
            node: None,
            version: None,
            started_at: None,
            instances: BTreeMap::new(),
            requests: BTreeMap::new(),
            meters: BTreeMap::new(),
        }
    }

    /// How people call it: the node's id, shortened, or its socket.
    pub fn name(&self) -> String {
        match &self.node {
            Some(node) => node.chars().take(8).collect(),
            None => self.socket.display().to_string(),
        }
    }
}

/// Whether a daemon answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Link {
    /// Not known yet.
    Connecting,
    /// It does.
    Connected {
        /// When it was heard of last.
        heard: Moment,
    },
    /// It does not.
    Lost {
        /// Since when.
        since: Moment,
        /// Why.
        error: Failure,
        /// When the next try is due.
        retry_at: Moment,
    },
}

/// An instance and what its counters did.
#[derive(Debug, Clone)]
pub struct Watched {
    /// How it stands.
    pub info: InstanceInfo,
    /// Bytes read on the mount.
    pub read: Series,
    /// Bytes written on the mount.
    pub written: Series,
    /// Transactions.
    pub changes: Series,
    /// PUTs.
    pub puts: Series,
    /// GETs.
    pub gets: Series,
    /// Bytes sent to the bucket.
    pub sent: Series,
    /// Bytes received from the bucket.
    pub received: Series,
}

impl Watched {
    /// One without a past.
    pub fn new(info: InstanceInfo) -> Watched {
        Watched {
            info,
            read: Series::default(),
            written: Series::default(),
            changes: Series::default(),
            puts: Series::default(),
            gets: Series::default(),
            sent: Series::default(),
            received: Series::default(),
        }
    }

    /// It stands as `info` now.
    pub fn record(&mut self, at: Moment, info: InstanceInfo) {
        let t = info.traffic;
        self.read.record(at, t.read_bytes);
        self.written.record(at, t.written_bytes);
        self.changes.record(at, info.xid.0);
        self.puts.record(at, t.puts);
        self.gets.record(at, t.gets);
        self.sent.record(at, t.sent_bytes);
        self.received.record(at, t.received_bytes);
        self.info = info;
    }
}

/// What was read of a bucket.
#[derive(Debug, Clone, Default)]
pub struct Looked {
    /// The last look that succeeded.
    pub view: BucketView,
    /// A look is under way.
    pub under_way: bool,
    /// When the last one ended.
    pub ended: Option<Moment>,
    /// Why the last one failed.
    pub error: Option<Failure>,
    /// Something changed since the last one began.
    pub stale: bool,
}

/// An event and the daemon it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLine {
    /// `None`: from this program.
    pub daemon: Option<usize>,
    /// What happened.
    pub note: Note,
}

/// Which row is selected: the first one, whatever it is, or a certain one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor<K> {
    /// The row; `None`: the first.
    pub key: Option<K>,
}

impl<K> Default for Cursor<K> {
    fn default() -> Self {
        Cursor { key: None }
    }
}

/// An instance by daemon and id.
pub type InstanceKey = (usize, String);

/// How file systems are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileSystemOrder {
    /// By name.
    #[default]
    Name,
    /// What needs attention first.
    Health,
    /// Most unpublished changes first.
    Unpublished,
}

/// What lies on top of the panes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overlay {
    /// All keys.
    Help {
        /// First line shown.
        scroll: u16,
    },
    /// A closer look.
    Detail {
        /// At what.
        of: DetailOf,
        /// First line shown.
        scroll: u16,
    },
    /// A question.
    Dialog(Dialog),
    /// The filter of the pane with the keys is being typed.
    Filter,
}

/// What a closer look is taken at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DetailOf {
    /// An instance: facts and problems.
    Instance(InstanceKey),
    /// An instance's KVS, proxy cache and traffic.
    Cache(InstanceKey),
    /// A snapshot.
    Snapshot(usize, Handle, BaseSnapshot),
    /// The epochs of a file system.
    Epochs(ViewKey),
    /// An event by its number.
    Event(u64),
}

/// A status log that is shown.
#[derive(Debug, Clone)]
pub struct ShownLog {
    /// Whose.
    pub of: (usize, Handle, SnapshotNumber),
    /// Its lines, the last [`LOG_LINES_KEPT`], or why there are none.
    pub lines: Result<Vec<StatusLine>, Failure>,
    /// When it was asked for.
    pub asked: Moment,
}

/// A word at the bottom about the last action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What.
    pub text: String,
    /// How it went.
    pub severity: Severity,
    /// When.
    pub at: Moment,
}

/// All of it.
#[derive(Debug, Clone)]
pub struct State {
    /// Now.
    pub now: Moment,
    /// Columns and rows of the terminal.
    pub size: (u16, u16),
    /// The daemons, as given on the command line.
    pub daemons: Vec<Daemon>,
    /// The pane that has the keys.
    pub focus: Pane,
    /// That pane alone is shown.
    pub zoomed: bool,
    /// What lies on top.
    pub overlay: Option<Overlay>,
    /// The filters of the panes; empty: all rows.
    pub filters: [String; Pane::ALL.len()],
    /// The selected instance.
    pub instance: Cursor<InstanceKey>,
    /// The selected snapshot.
    pub snapshot: Cursor<BaseSnapshot>,
    /// The selected epoch, by its place from the newest.
    pub epoch: usize,
    /// The selected event.
    pub event: Cursor<u64>,
    /// How file systems are sorted, and whether the other way round.
    pub file_system_order: (FileSystemOrder, bool),
    /// How snapshots are sorted, and whether the other way round.
    pub snapshot_order: (SnapshotOrder, bool),
    /// Rows of the file-system pane, filtered and sorted.
    pub instance_rows: Vec<InstanceKey>,
    /// Rows of the snapshot pane, filtered and sorted.
    pub snapshot_rows: Vec<SnapshotRow>,
    /// The rows no longer fit the rest of the state.
    pub rows_are_stale: bool,
    /// What was read of buckets.
    pub buckets: BTreeMap<ViewKey, Looked>,
    /// What happened.
    pub events: Ring<EventLine>,
    /// The status log that is shown.
    pub log: Option<ShownLog>,
    /// About the last action.
    pub notice: Option<Notice>,
    /// To leave.
    pub quit: bool,
}

impl State {
    /// Nothing is known yet.
    pub fn new(sockets: Vec<PathBuf>, size: (u16, u16), now: Moment) -> State {
        State {
            now,
            size,
            daemons: sockets.into_iter().map(Daemon::new).collect(),
            focus: Pane::FileSystems,
            zoomed: false,
            overlay: None,
            filters: Default::default(),
            instance: Cursor::default(),
            snapshot: Cursor::default(),
            epoch: 0,
            event: Cursor::default(),
            file_system_order: Default::default(),
            snapshot_order: Default::default(),
            instance_rows: Vec::new(),
            snapshot_rows: Vec::new(),
            rows_are_stale: false,
            buckets: BTreeMap::new(),
            events: Ring::new(EVENTS_KEPT),
            log: None,
            notice: None,
            quit: false,
        }
    }

    /// The filter of a pane.
    pub fn filter(&self, pane: Pane) -> &str {
        &self.filters[pane.place()]
    }

    /// An instance.
    pub fn watched(&self, key: &InstanceKey) -> Option<&Watched> {
        self.daemons.get(key.0)?.instances.get(&key.1)
    }

    /// The selected instance's place among the rows.
    pub fn instance_index(&self) -> usize {
        let key = self.instance.key.as_ref();
        let found = key.and_then(|key| self.instance_rows.iter().position(|k| k == key));
        found.unwrap_or(0)
    }

    /// The selected instance.
    pub fn selected_instance(&self) -> Option<(InstanceKey, &Watched)> {
        let key = self.instance_rows.get(self.instance_index())?;
        Some((key.clone(), self.watched(key)?))
    }

    /// Bucket and file system of the selected instance.
    pub fn selected_view(&self) -> Option<ViewKey> {
        let (_, watched) = self.selected_instance()?;
        Some(ViewKey {
            bucket: watched.info.bucket.clone(),
            fs: watched.info.fs.clone(),
        })
    }

    /// What was read of the selected file system's bucket.
    pub fn selected_look(&self) -> Option<&Looked> {
        self.buckets.get(&self.selected_view()?)
    }

    /// The selected snapshot's place among the rows.
    pub fn snapshot_index(&self) -> usize {
        let key = self.snapshot.key;
        let found = key.and_then(|key| self.snapshot_rows.iter().position(|r| r.id == key));
        found.unwrap_or(0)
    }

    /// The selected snapshot.
    pub fn selected_snapshot(&self) -> Option<&SnapshotRow> {
        self.snapshot_rows.get(self.snapshot_index())
    }

    /// The master of a file system on one of the daemons: `prefer` first.
    pub fn master_of(&self, fs: &Handle, prefer: usize) -> Option<(usize, &Watched)> {
        let all = self
            .daemons
            .iter()
            .enumerate()
            .flat_map(|(place, daemon)| daemon.instances.values().map(move |w| (place, w)));
        all.filter(|(_, w)| w.info.role == Role::Master && w.info.fs == *fs)
            .min_by_key(|(place, _)| *place != prefer)
    }

    /// A request that a daemon knows.
    pub fn request(
        &self,
        daemon: usize,
        fs: &Handle,
        number: SnapshotNumber,
    ) -> Option<&SnapshotInfo> {
        self.daemons
            .get(daemon)?
            .requests
            .get(&(fs.clone(), number))
    }

    /// Events that pass the filter, newest first.
    pub fn filtered_events(&self) -> impl Iterator<Item = (u64, &EventLine)> {
        let filter = self.filter(Pane::Events).to_lowercase();
        self.events
            .newest_first()
            .filter(move |(_, event)| filter.is_empty() || event.contains(&filter))
    }
}

impl EventLine {
    /// Whether a text in lower case occurs in it.
    fn contains(&self, text: &str) -> bool {
        let note = &self.note;
        let fs = note.fs.as_ref().map(Handle::to_string).unwrap_or_default();
        let word = match note.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        note.text.to_lowercase().contains(text)
            || fs.to_lowercase().contains(text)
            || word == text
            || note.causes.iter().any(|c| c.to_lowercase().contains(text))
    }
}
